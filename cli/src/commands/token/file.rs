//! A file for a token: there whole or not at all, for its owner alone.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::error::Error;

/// A place for a token that is not made yet.
pub struct TokenFile {
    path: PathBuf,
    /// Beside it; what `tempfile` makes has mode 0600.
    beside: NamedTempFile,
    replace: bool,
}

impl TokenFile {
    /// A file that is not there yet.
    pub fn new(path: &Path) -> Result<Self, Error> {
        if path.exists() {
            return Err(taken(path));
        }
        Self::beside(path, false)
    }

    /// A file that may be there: who reads it meets the one token or the other.
    pub fn over(path: &Path) -> Result<Self, Error> {
        Self::beside(path, true)
    }

    fn beside(path: &Path, replace: bool) -> Result<Self, Error> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let beside = NamedTempFile::new_in(folder);
        let beside =
            beside.map_err(|error| failed(path, &error).hint("name a file in a folder that is there"))?;
        Ok(Self { path: path.to_owned(), beside, replace })
    }

    /// As the user named it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts the token into its place.
    pub fn write(self, secret: &str, id: &str) -> Result<(), Error> {
        let Self { path, mut beside, replace } = self;
        // Nobody has the token then.
        let lost = |error: Error| {
            error.hint(format!("nobody has token {id}: end it with `sanafarm token revoke {id}`"))
        };
        let written = writeln!(beside, "{secret}").and_then(|()| beside.as_file().sync_all());
        written.map_err(|error| lost(failed(&path, &error)))?;
        let put = if replace { beside.persist(&path) } else { beside.persist_noclobber(&path) };
        put.map(drop).map_err(|error| lost(failed(&path, &error.error)))
    }
}

fn failed(path: &Path, error: &io::Error) -> Error {
    Error::mistake(format!("write {}", path.display())).caused_by(error)
}

fn taken(path: &Path) -> Error {
    Error::mistake(format!("{} is there already", path.display())).hint(
        "name another file with --output; `sanafarm token rotate` puts another secret into one that is there",
    )
}

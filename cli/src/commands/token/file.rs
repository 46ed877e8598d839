//! A file for a token: there whole or not at all, for its owner alone.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::error::Error;

/// A place for a token that is not made yet.
pub struct TokenFile {
    /// As the user named it.
    path: PathBuf,
    /// Where it is, without links.
    target: PathBuf,
    /// Beside that; what `tempfile` makes has mode 0600.
    beside: NamedTempFile,
    replace: bool,
}

impl TokenFile {
    /// A file that is not there yet.
    pub fn new(path: &Path) -> Result<Self, Error> {
        if path.exists() {
            return Err(taken(path));
        }
        Self::beside(path, path, false)
    }

    /// A file that may be there: who reads it meets the one token or the other.
    pub fn over(path: &Path) -> Result<Self, Error> {
        if path.is_dir() {
            return Err(Error::mistake(format!("write {}", path.display())).because("it is a folder"));
        }
        // Not a link in its place: others read the file that it leads to.
        let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let over = Self::beside(&target, path, true)?;
        keep_owner(&target, over.beside.as_file()).map_err(|error| failed(path, &error))?;
        Ok(over)
    }

    fn beside(target: &Path, path: &Path, replace: bool) -> Result<Self, Error> {
        let folder =
            target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let beside = NamedTempFile::new_in(folder);
        let beside =
            beside.map_err(|error| failed(path, &error).hint("name a file in a folder that is there"))?;
        Ok(Self { target: target.to_owned(), path: path.to_owned(), beside, replace })
    }

    /// As the user named it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts the token into its place.
    pub fn write(self, secret: &str, id: &str) -> Result<(), Error> {
        let Self { target, path, mut beside, replace } = self;
        // Nobody has the secret then.
        let hint = match replace {
            true => format!(
                "nobody has the new secret of token {id}: `sanafarm token rotate {id}` gives another one, within \
                 the grace"
            ),
            false => format!("nobody has token {id}: end it with `sanafarm token revoke {id}`"),
        };
        let lost = |error: Error| error.hint(hint.clone());
        let written = writeln!(beside, "{secret}").and_then(|()| beside.as_file().sync_all());
        written.map_err(|error| lost(failed(&path, &error)))?;
        let put = if replace { beside.persist(&target) } else { beside.persist_noclobber(&target) };
        put.map(drop).map_err(|error| lost(failed(&path, &error.error)))
    }
}

/// Whoever may read the file that is there may read what takes its place.
#[cfg(unix)]
fn keep_owner(path: &Path, file: &File) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, fchown};
    let (Ok(there), own) = (path.metadata(), file.metadata()?) else { return Ok(()) };
    if (there.uid(), there.gid()) == (own.uid(), own.gid()) {
        return file.set_permissions(there.permissions());
    }
    fchown(file, Some(there.uid()), Some(there.gid()))?;
    file.set_permissions(there.permissions())
}

#[cfg(not(unix))]
fn keep_owner(_: &Path, _: &File) -> io::Result<()> {
    Ok(())
}

fn failed(path: &Path, error: &io::Error) -> Error {
    Error::mistake(format!("write {}", path.display())).caused_by(error)
}

fn taken(path: &Path) -> Error {
    Error::mistake(format!("{} is there already", path.display())).hint(
        "name another file with --output; `sanafarm token rotate` puts another secret into one that is there",
    )
}

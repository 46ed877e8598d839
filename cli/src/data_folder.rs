//! The folder that holds the database, its lock, the unpacked models and the outboxes of workers.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::environment;
use crate::error::Error;

/// Where data lies unless the user says otherwise.
const DEFAULT: &str = ".sanafarm";

/// A data folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFolder {
    path: PathBuf,
}

/// The right to change what is in a data folder; it ends with the process, however that ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl DataFolder {
    /// The folder that was named, else `.sanafarm`.
    pub fn choose(data: Option<PathBuf>) -> Self {
        Self { path: data.unwrap_or_else(|| PathBuf::from(DEFAULT)) }
    }

    /// As the user named it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a command finds it without being told.
    pub fn is_default(&self) -> bool {
        *self == Self::choose(environment::filled(environment::DATA).map(PathBuf::from))
    }

    /// The SQLite file.
    pub fn database(&self) -> PathBuf {
        self.path.join("sanafarm.db")
    }

    /// Unpacked and downloaded models.
    pub fn models(&self) -> PathBuf {
        self.path.join("models")
    }

    /// Finished images that no coordinator has acknowledged.
    pub fn outbox(&self) -> PathBuf {
        self.path.join("outbox")
    }

    /// Makes the folder when it is not there.
    pub fn create(&self) -> Result<(), Error> {
        std::fs::create_dir_all(&self.path).map_err(|error| {
            Error::mistake(format!("create data folder {}", self.path.display()))
                .caused_by(&error)
                .hint("name a folder that you may write to with --data")
        })
    }

    /// Takes the only lock of this folder; two processes that write one database would lose each other's
    /// leases.
    pub fn lock(&self) -> Result<Lock, Error> {
        let path = self.path.join("lock");
        let failed = |error: &std::io::Error| {
            Error::mistake(format!("lock data folder {}", self.path.display()))
                .caused_by(error)
                .hint("name a folder that you may write to with --data")
        };
        let open = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open.map_err(|error| failed(&error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(self.in_use(&mut file)),
            Err(TryLockError::Error(error)) => return Err(failed(&error)),
        }
        // Only a help for whoever is refused: the lock itself does not depend on it.
        let note = file.set_len(0).and_then(|()| file.rewind());
        note.and_then(|()| writeln!(file, "{}", std::process::id())).map_err(|error| failed(&error))?;
        Ok(Lock { _file: file })
    }

    fn in_use(&self, file: &mut File) -> Error {
        let mut owner = String::new();
        let owner = match file.read_to_string(&mut owner) {
            Ok(_) if !owner.trim().is_empty() => format!("process {}", owner.trim()),
            Ok(_) | Err(_) => "another process".to_owned(),
        };
        Error::mistake(format!("data folder {} is in use by {owner}", self.path.display()))
            .hint("wait until it ends, or work in another folder with --data")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_is_refused_and_names_the_owner_until_the_first_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataFolder { path: folder.path().join("data") };
        data.create().unwrap();
        let first = data.lock().unwrap();
        let refused = data.lock().unwrap_err();
        assert!(refused.what.ends_with(&format!("is in use by process {}", std::process::id())));
        drop(first);
        data.lock().unwrap();
    }
}

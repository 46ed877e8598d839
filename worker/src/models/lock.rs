//! Locks between processes. A lock ends with its process, however that ends.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::time::Duration;

/// How often a lock that another process holds is tried again: to wait in the system could not be stopped.
const POLL: Duration = Duration::from_millis(100);

/// A held lock.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// Whether others may hold it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Shared,
    Exclusive,
}

impl Lock {
    /// Takes the lock unless somebody holds it.
    ///
    /// Where the file system knows no locks, every one is given: files are replaced whole there too.
    pub(super) fn try_take(path: &Path, kind: Kind) -> io::Result<Option<Self>> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let locked = match kind {
            Kind::Shared => file.try_lock_shared(),
            Kind::Exclusive => file.try_lock(),
        };
        match locked {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
                Ok(Some(Self { _file: file }))
            }
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Waits for the lock; `wait` is told once when somebody holds it. Dropping the future ends the wait.
    pub(super) async fn take(path: &Path, kind: Kind, wait: impl FnOnce()) -> io::Result<Self> {
        let mut wait = Some(wait);
        loop {
            if let Some(lock) = Self::try_take(path, kind)? {
                return Ok(lock);
            }
            if let Some(wait) = wait.take() {
                wait();
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_in_use_is_shared_and_not_taken_away() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("locks/a");
        let take = |kind| Lock::try_take(&path, kind).unwrap();
        let first = take(Kind::Shared);
        let second = take(Kind::Shared);
        assert!(first.is_some() && second.is_some() && take(Kind::Exclusive).is_none());
        drop((first, second));
        let all = take(Kind::Exclusive);
        assert!(all.is_some() && take(Kind::Shared).is_none());
    }
}

//! Files that have no object's name yet, and what a killed process leaves of them.
//!
//! A writer holds the lock of its staged file, and locks end with their process, however that ends: a staged
//! file that can be locked is a leftover. So any number of processes, also on other machines, can write to one
//! folder and sweep it.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::Entry;
use crate::walk::file_facts;

pub(crate) const PREFIX: &str = ".sanafarm-";
const SUFFIX: &str = ".part";

/// A name that no other writer has.
pub(crate) fn fresh_name() -> String {
    format!("{PREFIX}{}{SUFFIX}", Uuid::new_v4().simple())
}

/// Whether a file has a name of [`fresh_name`].
pub(crate) fn is_staged(file: &str) -> bool {
    let id = file.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(SUFFIX));
    id.is_some_and(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// A file that is being written. Its staged name goes away with it; other names that it got meanwhile stay.
#[derive(Debug)]
pub(crate) struct Staged {
    /// Holds the lock.
    file: File,
    path: PathBuf,
}

impl Staged {
    pub(crate) fn create(folder: &Path) -> io::Result<Self> {
        loop {
            let path = folder.join(fresh_name());
            let file = File::options().read(true).write(true).create_new(true).open(&path)?;
            let staged = Self { file, path };
            match staged.file.try_lock() {
                // A sweep between the last two calls may have taken it for a leftover.
                Ok(()) if staged.path.try_exists()? => return Ok(staged),
                Ok(()) | Err(TryLockError::WouldBlock) => {}
                // Where there are no locks, nothing is swept.
                Err(TryLockError::Error(_)) => return Ok(staged),
            }
        }
    }

    pub(crate) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Renamed, or left to the sweep.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Removes leftovers from `folder` and says how many files it were. What is not surely one stays.
pub(crate) fn sweep(folder: &Path) -> io::Result<u64> {
    let mut swept = 0;
    for name in staged(folder)? {
        swept += u64::from(remove_leftover(&folder.join(name?))?);
    }
    Ok(swept)
}

/// What [`sweep`] would remove, in order of names.
pub(crate) fn leftovers(folder: &Path) -> io::Result<Vec<Entry>> {
    let mut found = Vec::new();
    for name in staged(folder)? {
        let name = name?;
        let path = folder.join(&name);
        let Some(_lock) = lock(&path)? else { continue };
        if let Some((bytes, modified)) = file_facts(&path)? {
            found.push(Entry { name, bytes, modified, e_tag: None });
        }
    }
    found.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

/// Removes a staged file that no writer holds; false when there is none.
pub(crate) fn remove_leftover(path: &Path) -> io::Result<bool> {
    let Some(_lock) = lock(path)? else { return Ok(false) };
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Names of the staged files in a folder.
fn staged(folder: &Path) -> io::Result<impl Iterator<Item = io::Result<String>>> {
    Ok(std::fs::read_dir(folder)?.filter_map(|entry| {
        let name = entry.and_then(|entry| {
            let name = entry.file_name().into_string().ok().filter(|name| is_staged(name));
            let Some(name) = name else { return Ok(None) };
            Ok(entry.file_type()?.is_file().then_some(name))
        });
        name.transpose()
    }))
}

/// The lock of a staged file; none when its writer lives, or it is not ours to take.
fn lock(path: &Path) -> io::Result<Option<File>> {
    match File::options().read(true).write(true).open(path) {
        Ok(file) => Ok(file.try_lock().is_ok().then_some(file)),
        // Finished in this moment, or somebody else's.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_staged() {
        assert!(is_staged(&fresh_name()));
        for theirs in
            ["a.png#1", "notes.md#2", ".sanafarm", ".sanafarm-.part", ".sanafarm-notes.part", "x.part"]
        {
            assert!(!is_staged(theirs), "{theirs}");
        }
    }

    #[test]
    fn the_sweep_takes_what_a_killed_writer_left_and_nothing_of_the_living() {
        let folder = tempfile::tempdir().unwrap();
        let first = Staged::create(folder.path()).unwrap();
        let second = Staged::create(folder.path()).unwrap();
        // What a killed process leaves: its name without its lock.
        let killed = folder.path().join(fresh_name());
        std::fs::write(&killed, "half").unwrap();
        let found = leftovers(folder.path()).unwrap();
        let names: Vec<_> = found.iter().map(|entry| folder.path().join(&entry.name)).collect();
        assert_eq!((names.as_slice(), found[0].bytes), (&[killed.clone()][..], 4));
        assert_eq!(sweep(folder.path()).unwrap(), 1);
        assert!(!killed.exists() && first.path().exists() && second.path().exists());
        drop((first, second));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_writer_is_safe_from_sweeps_from_its_first_moment() {
        let folder = tempfile::tempdir().unwrap();
        std::thread::scope(|threads| {
            let writer = threads.spawn(|| {
                for turn in 0..500 {
                    let staged = Staged::create(folder.path()).unwrap();
                    std::fs::rename(staged.path(), folder.path().join(turn.to_string())).unwrap();
                }
            });
            while !writer.is_finished() {
                sweep(folder.path()).unwrap();
            }
        });
    }
}

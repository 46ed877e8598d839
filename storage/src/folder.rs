//! Objects as files of a folder: written aside, then named in one step.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{Found, Put, staging};

/// Folders that are known to be durable.
const MOST_DURABLE: usize = 4096;

/// A folder, named by its absolute path.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// Folders whose names this process has made durable, a few thousand at most.
    durable: Mutex<HashSet<PathBuf>>,
}

impl Folder {
    /// Makes the folder when it is not there.
    pub(crate) fn open(path: PathBuf) -> io::Result<Self> {
        let made = make_folder(&path)?;
        // Its names are made durable again with the first object.
        made.iter().try_for_each(|folder| unless_impossible(sync_parent(folder)))?;
        Ok(Self { path, durable: Mutex::default() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Durable, and whole or absent: `write` fills a file that has its name only afterwards.
    pub(crate) fn put_new(
        &self,
        name: &str,
        write: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> io::Result<Put> {
        let target = self.target(name)?;
        let put = if target.symlink_metadata().is_ok() {
            Put::Exists
        } else {
            let staged = self.stage(write)?;
            match std::fs::hard_link(staged.path(), &target) {
                Ok(()) => Put::Created,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Put::Exists,
                Err(error) => return Err(error),
            }
        };
        // Also for a file that is there: whoever named it may have been killed before this.
        sync_parent(&target)?;
        Ok(put)
    }

    /// As `put_new`, in the place of whatever file has the name.
    pub(crate) fn replace(
        &self,
        name: &str,
        write: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> io::Result<()> {
        let staged = self.stage(write)?;
        let target = self.target(name)?;
        std::fs::rename(staged.path(), &target)?;
        sync_parent(&target)
    }

    /// Reads at most `limit` bytes.
    pub(crate) fn get(&self, name: &str, limit: u64) -> io::Result<Found> {
        let path = self.path.join(name);
        // Whoever opens a named pipe waits for its writer.
        let metadata = match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            Ok(metadata) if !metadata.is_file() => return Ok(Found::Larger),
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(error) => return Err(error),
        };
        if metadata.len() > limit {
            return Ok(Found::Larger);
        }
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::with_capacity(metadata.len() as usize);
        // It may have grown.
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit { Ok(Found::Larger) } else { Ok(Found::Object(bytes.into())) }
    }

    /// Opens a file that is an object, and its size.
    pub(crate) fn read(&self, name: &str) -> io::Result<Option<(File, u64)>> {
        let Some(bytes) = self.size(name)? else { return Ok(None) };
        match File::open(self.path.join(name)) {
            Ok(file) => Ok(Some((file, bytes))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens a file that is an object at a byte of it, and its size.
    pub(crate) fn read_from(&self, name: &str, first: u64) -> io::Result<Option<(File, u64)>> {
        let Some((mut file, bytes)) = self.read(name)? else { return Ok(None) };
        file.seek(SeekFrom::Start(first.min(bytes)))?;
        Ok(Some((file, bytes)))
    }

    /// How many bytes an object has.
    pub(crate) fn size(&self, name: &str) -> io::Result<Option<u64>> {
        match std::fs::metadata(self.path.join(name)) {
            Ok(metadata) if metadata.is_file() => Ok(Some(metadata.len())),
            Ok(metadata) if metadata.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
            Ok(_) => Err(io::Error::new(io::ErrorKind::Unsupported, "it is no file")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives a file another name, if that is free, and takes its old one away.
    pub(crate) fn publish(&self, from: &str, to: &str) -> io::Result<Put> {
        let (from, to) = (self.path.join(from), self.target(to)?);
        let put = match std::fs::hard_link(&from, &to) {
            Ok(()) => Put::Created,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Put::Exists,
            // What was published has lost its old name.
            Err(error) if error.kind() == io::ErrorKind::NotFound && to.symlink_metadata().is_ok() => {
                Put::Exists
            }
            Err(error) => return Err(error),
        };
        // The new name is safe before the old one goes.
        sync_parent(&to)?;
        if put == Put::Created {
            remove_file(&from)?;
        }
        Ok(put)
    }

    /// Removes an object; false when there was none.
    pub(crate) fn remove(&self, name: &str) -> io::Result<bool> {
        remove_file(&self.path.join(name))
    }

    /// Does all that a picture takes, under names that the sweep would clear away.
    pub(crate) fn check_writable(&self) -> io::Result<()> {
        let staged = self.stage(|file| file.write_all(b"can this be written?"))?;
        let linked = self.path.join(staging::fresh_name());
        std::fs::hard_link(staged.path(), &linked)?;
        sync_parent(&linked)?;
        std::fs::remove_file(&linked)
    }

    /// Whether `replace` could put a file in the place of the name.
    pub(crate) fn check_replaceable(&self, name: &str) -> io::Result<()> {
        match std::fs::symlink_metadata(self.path.join(name)) {
            Ok(metadata) if metadata.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// A durable file that has no object's name yet.
    fn stage(&self, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<staging::Staged> {
        // Somebody may have removed it since.
        self.make_durable(&self.path)?;
        let mut staged = staging::Staged::create(&self.path)?;
        write(staged.file())?;
        staged.file().sync_all()?;
        Ok(staged)
    }

    /// Makes a folder and those above it so that a power cut takes none of them back.
    fn make_durable(&self, folder: &Path) -> io::Result<()> {
        let is_known = self.durable().contains(folder);
        if is_known && folder.is_dir() {
            return Ok(());
        }
        let missing = make_folder(folder)?;
        {
            // Names that were durable and are no more: also others look again.
            let mut durable = self.durable();
            missing.iter().for_each(|folder| {
                durable.remove(*folder);
            });
        }
        missing.iter().try_for_each(|folder| sync_parent(folder))?;
        // Whoever made the others may not have come so far yet, or was killed before.
        let others =
            folder.ancestors().skip(missing.len()).take_while(|folder| folder.starts_with(&self.path));
        others.into_iter().try_for_each(|folder| unless_impossible(sync_parent(folder)))?;
        let mut durable = self.durable();
        if durable.len() >= MOST_DURABLE {
            durable.clear();
        }
        durable.insert(folder.to_owned());
        Ok(())
    }

    fn durable(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        // No critical section leaves it half-changed.
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The path of an object in a folder that is there.
    fn target(&self, name: &str) -> io::Result<PathBuf> {
        let target = self.path.join(name);
        self.make_durable(target.parent().unwrap_or(&self.path))?;
        Ok(target)
    }
}

/// Makes a folder and those above it, and names those that were missing.
fn make_folder(folder: &Path) -> io::Result<Vec<&Path>> {
    let missing = folder.ancestors().take_while(|folder| !folder.is_dir()).collect();
    std::fs::create_dir_all(folder)?;
    Ok(missing)
}

/// Not everybody may read the folder above an output, and not every file system can make its names durable, such as that of
/// an automounter: what stands there stands there as well as it can.
fn unless_impossible(synced: io::Result<()>) -> io::Result<()> {
    use io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    match synced {
        Err(error)
            if matches!(error.kind(), PermissionDenied | InvalidInput | Unsupported | ReadOnlyFilesystem) =>
        {
            Ok(())
        }
        synced => synced,
    }
}

/// Removes a file durably; false when there was none.
fn remove_file(path: &Path) -> io::Result<bool> {
    match std::fs::remove_file(path) {
        Ok(()) => sync_parent(path).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes the name of a file durable.
fn sync_parent(path: &Path) -> io::Result<()> {
    #[cfg(test)]
    tests::SYNCED.with_borrow_mut(|synced| synced.push(path.to_owned()));
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    thread_local! {
        /// Names that were made durable.
        pub(super) static SYNCED: RefCell<Vec<PathBuf>> = const { RefCell::new(Vec::new()) };
    }

    fn put(folder: &Folder, name: &str) -> Vec<PathBuf> {
        SYNCED.take();
        assert_eq!(folder.put_new(name, |file| file.write_all(b"picture")).unwrap(), Put::Created);
        SYNCED.take()
    }

    #[test]
    fn names_of_folders_that_another_writer_has_just_made_are_made_durable_too() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("new/out");
        let folder = Folder::open(path.clone()).unwrap();
        assert_eq!(SYNCED.take(), [path.clone(), temporary.path().join("new")]);
        // It has not come to make them durable, and may never do so.
        std::fs::create_dir_all(path.join("a/b")).unwrap();
        let of_folders = |synced: Vec<PathBuf>| {
            let below = synced.iter().map(|synced| synced.strip_prefix(&path).unwrap().to_owned());
            below.filter(|name| name.extension().is_none()).collect::<Vec<_>>()
        };
        let names = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        let synced = of_folders(put(&folder, "a/b/0.png"));
        assert!(names(&["", "a", "a/b"]).iter().all(|name| synced.contains(name)), "{synced:?}");
        assert_eq!(of_folders(put(&folder, "a/b/1.png")), names(&[]), "once");
        // Somebody removes them and another writer makes them again.
        std::fs::remove_dir_all(path.join("a")).unwrap();
        let synced = of_folders(put(&folder, "a/b/0.png"));
        assert!(names(&["a", "a/b"]).iter().all(|name| synced.contains(name)), "{synced:?}");
        assert!(of_folders(put(&folder, "a/c.png")).contains(&PathBuf::from("a")), "it was made anew");
    }
}

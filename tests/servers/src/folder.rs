//! Folders that go with their test.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

/// Where all of them are: below the system's temporary folder, which the user `postgres` can enter too.
fn root() -> PathBuf {
    std::env::temp_dir().join("sanafarm-test-servers")
}

/// A lock that goes with its process.
pub fn lock(file: &Path) -> File {
    let opened = File::options().create(true).truncate(false).write(true).open(file);
    opened.unwrap_or_else(|error| panic!("open {}: {error}", file.display()))
}

/// A folder with a name of its own, removed when it is dropped or when the next one is made after its test died.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// A new one.
    pub fn new() -> Self {
        let root = shared();
        // Held until the new folder has its lock: before, others would take it for an orphan.
        let alone = lock(&root.join("making"));
        alone.lock().unwrap_or_else(|error| panic!("lock {}: {error}", root.display()));
        remove_orphans(&root);
        let folder = tempfile::Builder::new().prefix("run-").tempdir_in(&root);
        let path =
            folder.unwrap_or_else(|error| panic!("make a folder in {}: {error}", root.display())).keep();
        open_to_all(&path);
        let file = lock(&path.join("lock"));
        file.lock().unwrap_or_else(|error| panic!("lock {}: {error}", path.display()));
        Self { path, _lock: file }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Default for Folder {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left is for the next test to remove.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// The folder of all tests' folders and of what they share.
pub fn shared() -> PathBuf {
    let root = root();
    if let Err(error) = fs::create_dir_all(&root) {
        panic!("make {}: {error}", root.display());
    }
    root
}

/// Folders whose lock nobody holds.
fn remove_orphans(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let is_run = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("run-"));
        // One without a lock is being removed by its test.
        let Some(file) = is_run.then(|| File::open(path.join("lock")).ok()).flatten() else { continue };
        match file.try_lock() {
            Ok(()) => drop(fs::remove_dir_all(&path)),
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
        }
    }
}

/// Servers may run as another user.
#[cfg(unix)]
pub fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    if let Err(error) = fs::set_permissions(path, fs::Permissions::from_mode(0o755)) {
        panic!("open {} to other users: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_a_new_folder_for_an_orphan() {
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let folder = Folder::new();
                        std::thread::yield_now();
                        assert!(folder.path().join("lock").exists(), "{}", folder.path().display());
                    }
                });
            }
        });
    }
}

//! The folder of downloaded models.
//!
//! ```text
//! CACHE/sana-tiny/                              the bundled model
//! CACHE/downloads/NAME-HASH/revisions.json      which version a branch was last seen at
//! CACHE/downloads/NAME-HASH/VERSION/manifest.json
//! CACHE/downloads/NAME-HASH/VERSION/files/NAME/ the model in the diffusers layout
//! CACHE/downloads/NAME-HASH/VERSION/parts/      files under way
//! CACHE/locks/NAME-HASH@VERSION.use             shared by its users; its time is that of the last use
//! CACHE/locks/NAME-HASH@VERSION.fetch           held by whoever downloads it
//! ```
//!
//! Locks lie apart, because a lock inside of what is removed would let in two at once.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use super::Error;
use super::lock::{Kind, Lock};
use super::record::{self, FileRecord, Here, Record};
use super::reference::Remote;

/// The folder of all downloads, and its locks.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    root: PathBuf,
}

/// The place of one version of a model, whether it is there or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    folder: PathBuf,
    locks: PathBuf,
}

impl Cache {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_path_buf() }
    }

    fn downloads(&self) -> PathBuf {
        self.root.join("downloads")
    }

    fn home(&self, remote: &Remote) -> PathBuf {
        self.downloads().join(folder_name(&remote.source()))
    }

    /// The place of a version.
    pub(super) fn entry(&self, remote: &Remote, version: &str) -> Entry {
        self.entry_at(&self.home(remote).join(version))
    }

    fn entry_at(&self, folder: &Path) -> Entry {
        let part = |path: Option<&Path>| {
            path.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
        };
        let locks = format!("{}@{}", part(folder.parent()), part(Some(folder)));
        Entry { folder: folder.to_path_buf(), locks: self.root.join("locks").join(locks) }
    }

    /// The version that a revision was last seen at.
    pub(super) fn remembered(&self, remote: &Remote) -> Option<String> {
        self.revisions(remote).remove(remote.revision())
    }

    /// Remembers the version for a time without network. A hint: losing it costs a question to the source.
    pub(super) fn remember(&self, remote: &Remote, version: &str) -> io::Result<()> {
        let mut revisions = self.revisions(remote);
        let before = revisions.insert(remote.revision().to_owned(), version.to_owned());
        if before.as_deref() == Some(version) {
            return Ok(());
        }
        let text = serde_json::to_vec_pretty(&revisions).map_err(io::Error::other)?;
        record::replace(&self.home(remote).join("revisions.json"), &text)
    }

    fn revisions(&self, remote: &Remote) -> BTreeMap<String, String> {
        let text = std::fs::read(self.home(remote).join("revisions.json")).ok();
        text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    /// All versions of all models that something is here of.
    pub(super) fn entries(&self) -> io::Result<Vec<(Entry, Record)>> {
        let mut found = Vec::new();
        for home in folders(&self.downloads())? {
            for folder in folders(&home)? {
                let entry = self.entry_at(&folder);
                if let Some(record) = entry.record()? {
                    found.push((entry, record));
                }
            }
        }
        Ok(found)
    }

    /// Removes what a process that was killed while it removed a model left behind: folders without a record.
    pub(super) fn sweep(&self) -> Result<(), Error> {
        let failed = |error| Error::io(format!("sweep {}", self.root.display()), error);
        for home in folders(&self.downloads()).map_err(failed)? {
            for folder in folders(&home).map_err(failed)? {
                let entry = self.entry_at(&folder);
                if !entry.manifest().exists() {
                    entry.remove()?;
                }
            }
        }
        Ok(())
    }

    /// Taken by whoever counts what is here and makes room: two would both find room for one.
    pub(super) fn room_lock(&self) -> PathBuf {
        self.root.join("locks/room")
    }
}

impl Entry {
    fn manifest(&self) -> PathBuf {
        self.folder.join("manifest.json")
    }

    /// All that is here of it.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn record(&self) -> io::Result<Option<Record>> {
        Record::read(&self.manifest())
    }

    pub(super) fn write_record(&self, record: &Record) -> io::Result<()> {
        record.write(&self.manifest())
    }

    /// The model's folder.
    pub(super) fn model(&self, record: &Record) -> PathBuf {
        self.folder.join("files").join(&record.name)
    }

    /// Where a file is while it is under way.
    pub(super) fn part(&self, file: &FileRecord) -> PathBuf {
        self.folder.join("parts").join(format!("{}.part", file.name.replace('/', "--")))
    }

    /// Locked as long as the model is in use; exclusive by whoever removes it.
    pub(super) fn use_lock(&self) -> PathBuf {
        with_ending(&self.locks, ".use")
    }

    /// Locked by whoever downloads.
    pub(super) fn fetch_lock(&self) -> PathBuf {
        with_ending(&self.locks, ".fetch")
    }

    /// Writes down that it is used now.
    pub(super) fn touch(&self) -> io::Result<()> {
        let lock = File::options().write(true).open(self.use_lock())?;
        lock.set_modified(SystemTime::now())
    }

    /// When it was used last.
    pub(super) fn used_at(&self) -> SystemTime {
        let modified = std::fs::metadata(self.use_lock()).and_then(|metadata| metadata.modified());
        modified.unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Whether a living process uses or fetches it.
    pub(super) fn is_in_use(&self) -> io::Result<bool> {
        // Looking must not make a lock for what nobody ever used.
        if !self.use_lock().exists() {
            return Ok(false);
        }
        Ok(Lock::try_take(&self.use_lock(), Kind::Exclusive)?.is_none())
    }

    /// Puts a file that was fetched and checked under its name and into the record.
    pub(super) fn adopt(&self, record: &mut Record, index: usize, sha256: String) -> io::Result<()> {
        let file = &record.files[index];
        let (part, path) = (self.part(file), self.model(record).join(&file.name));
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
            std::fs::rename(&part, &path)?;
            File::open(folder)?.sync_all()?;
        }
        record.files[index].here = Some(Here::new(&path, sha256)?);
        self.write_record(record)
    }

    /// Whether all files look as they did when they were checked.
    pub(super) fn looks_whole(&self, record: &Record) -> io::Result<bool> {
        let model = self.model(record);
        for file in &record.files {
            let Some(here) = &file.here else { return Ok(false) };
            if !here.looks_unchanged(&model.join(&file.name))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Removes it; false when a living process uses it.
    pub(super) fn remove(&self) -> Result<bool, Error> {
        let failed = |error| Error::io(format!("remove {}", self.folder.display()), error);
        let Some(_alone) = Lock::try_take(&self.use_lock(), Kind::Exclusive).map_err(failed)? else {
            return Ok(false);
        };
        let absent_is_fine = |removed: io::Result<()>| match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
            Ok(()) | Err(_) => Ok(()),
        };
        // First what makes it a model: a process killed in the middle leaves none.
        absent_is_fine(std::fs::remove_file(self.manifest()))?;
        absent_is_fine(std::fs::remove_dir_all(&self.folder))?;
        Ok(true)
    }
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(ending);
    path.into()
}

/// The folders in a folder; none when it is not there.
fn folders(path: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Readable, and different for different sources.
fn folder_name(source: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    let plain: String = source.chars().map(|letter| if is_plain(letter) { letter } else { '-' }).collect();
    let end = plain.len().saturating_sub(80);
    let mut hasher = Sha256::new();
    hasher.update(source);
    format!("{}-{}", plain[end..].trim_matches('-'), &hex::encode(hasher.finalize())[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_have_readable_names_of_their_own() {
        let [one, two] = ["s3://bucket/a/b", "s3://bucket/a-b"].map(folder_name);
        assert!(one.starts_with("s3---bucket-a-b-") && two.starts_with("s3---bucket-a-b-") && one != two);
        assert!(folder_name(&format!("s3://b/{}/../ä", "x".repeat(500))).len() < 100);
        assert!(!folder_name("s3://b/..").contains('/'));
    }
}

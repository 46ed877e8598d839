//! The folder of an outbox: each file whole or absent, durable before anybody relies on it.
//!
//! An entry is `ID.picture`, for some also `ID.thumbnail`, and last `ID.json`, whose rename makes it count. A tar is
//! `ID.tar` and then `ID.tar.json`. What cannot be believed is moved to `corrupt/`, what a coordinator refuses to `refused/`.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::record::{self, Record};

/// Endings of files.
const RECORD: &str = "json";
const PICTURE: &str = "picture";
const THUMBNAIL: &str = "thumbnail";
const TAR: &str = "tar";
const TAR_RECORD: &str = "tar.json";
const UNFINISHED: &str = "part";

/// Bytes that a checksum reads at once.
const READ_BYTES: usize = 256 << 10;

/// Names an entry or a tar; later ones sort behind earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Id(Uuid);

impl Id {
    pub(crate) fn fresh() -> Self {
        Self(Uuid::now_v7())
    }

    fn parse(name: &str) -> Option<Self> {
        Uuid::try_parse(name).ok().map(Self)
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.simple().fmt(f)
    }
}

/// Why files are set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aside {
    /// They are not what was written.
    Corrupt,
    /// The coordinator does not want them.
    Refused,
}

/// An outbox folder that this process alone uses.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// The lock of the folder itself, which ends with the process, however that ends.
    _lock: File,
}

/// Files by what they are; those that are nothing that counts are gone.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) records: Vec<Id>,
    pub(crate) tars: Vec<Id>,
}

impl Folder {
    /// Makes the folder when it is not there and takes its lock; `None` when another process has it.
    pub(crate) fn open(path: &Path) -> io::Result<Option<Self>> {
        std::fs::create_dir_all(path)?;
        let path = std::path::absolute(path)?;
        let lock = File::open(&path)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        if let Some(parent) = path.parent() {
            File::open(parent)?.sync_all()?;
        }
        Ok(Some(Self { path, _lock: lock }))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Finds what was kept, oldest first, and removes what was being written when its process was killed.
    pub(crate) fn list(&self) -> io::Result<Listing> {
        let mut listing = Listing::default();
        let mut parts = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some((stem, ending)) = name.to_str().and_then(|name| name.split_once('.')) else { continue };
            let Some(id) = Id::parse(stem) else { continue };
            match ending {
                RECORD => listing.records.push(id),
                TAR_RECORD => listing.tars.push(id),
                _ => parts.push((id, ending.to_owned(), entry.path())),
            }
        }
        listing.records.sort();
        listing.tars.sort();
        for (id, ending, path) in parts {
            let belongs = match ending.as_str() {
                PICTURE | THUMBNAIL => listing.records.binary_search(&id).is_ok(),
                TAR => listing.tars.binary_search(&id).is_ok(),
                _ => !ending.ends_with(UNFINISHED),
            };
            if !belongs {
                remove(&path)?;
            }
        }
        Ok(listing)
    }

    pub(crate) fn picture(&self, id: Id) -> PathBuf {
        self.file(id, PICTURE)
    }

    pub(crate) fn thumbnail(&self, id: Id) -> PathBuf {
        self.file(id, THUMBNAIL)
    }

    pub(crate) fn tar(&self, id: Id) -> PathBuf {
        self.file(id, TAR)
    }

    /// Where a tar is written until it is whole.
    pub(crate) fn unfinished_tar(&self, id: Id) -> PathBuf {
        self.file(id, "tar.part")
    }

    fn file(&self, id: Id, ending: &str) -> PathBuf {
        self.path.join(format!("{id}.{ending}"))
    }

    /// Writes a picture, its thumbnail and then its record, all durable.
    pub(crate) fn keep(
        &self,
        id: Id,
        record: &Record,
        picture: &[u8],
        thumbnail: Option<&[u8]>,
    ) -> io::Result<()> {
        let kept = write_durable(&self.picture(id), picture)
            .and_then(|()| thumbnail.map_or(Ok(()), |bytes| write_durable(&self.thumbnail(id), bytes)))
            .and_then(|()| self.write_record(id, record));
        if kept.is_err() {
            // There may be no room even for less; what stays is swept at the next start.
            let _ = self.discard(id);
        }
        kept
    }

    /// Writes or replaces the record of an entry.
    pub(crate) fn write_record(&self, id: Id, record: &Record) -> io::Result<()> {
        self.replace(&self.file(id, RECORD), record)
    }

    /// Makes a finished tar count; one that cannot be made to takes no room.
    pub(crate) fn keep_tar(&self, id: Id, tar: &record::Tar) -> io::Result<()> {
        let kept = std::fs::rename(self.unfinished_tar(id), self.tar(id))
            .and_then(|()| self.replace(&self.file(id, TAR_RECORD), tar));
        if kept.is_err() {
            // The first error is the one to tell; what stays is swept at the next start.
            let _ = self.discard_tar(id);
        }
        kept
    }

    fn replace<T: Serialize>(&self, path: &Path, record: &T) -> io::Result<()> {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".");
        aside.push(UNFINISHED);
        let aside = PathBuf::from(aside);
        let replaced = write_durable(&aside, record::write(record)?.as_bytes())
            .and_then(|()| std::fs::rename(&aside, path));
        if replaced.is_err() {
            let _ = remove(&aside);
        }
        replaced?;
        File::open(&self.path)?.sync_all()
    }

    pub(crate) fn read_record(&self, id: Id) -> io::Result<Vec<u8>> {
        std::fs::read(self.file(id, RECORD))
    }

    pub(crate) fn read_tar_record(&self, id: Id) -> io::Result<Vec<u8>> {
        std::fs::read(self.file(id, TAR_RECORD))
    }

    /// Removes a picture that lies in the output; its record stays.
    pub(crate) fn drop_files(&self, id: Id) -> io::Result<()> {
        remove(&self.picture(id))?;
        remove(&self.thumbnail(id))
    }

    /// Removes an entry. Should the removal not last, the entry is reported once more, which is harmless.
    pub(crate) fn discard(&self, id: Id) -> io::Result<()> {
        remove(&self.file(id, RECORD))?;
        self.drop_files(id)
    }

    /// Removes a tar: its record first, by which it counts, and then as much of the rest as goes.
    pub(crate) fn discard_tar(&self, id: Id) -> io::Result<()> {
        let record = remove(&self.file(id, TAR_RECORD));
        record.and(remove(&self.tar(id))).and(remove(&self.unfinished_tar(id)))
    }

    /// Moves all files of an entry or a tar where they are nobody's work; gives the folder.
    pub(crate) fn set_aside(&self, id: Id, why: Aside) -> io::Result<PathBuf> {
        let folder = self.path.join(match why {
            Aside::Corrupt => "corrupt",
            Aside::Refused => "refused",
        });
        std::fs::create_dir_all(&folder)?;
        for ending in [RECORD, PICTURE, THUMBNAIL, TAR_RECORD, TAR] {
            let from = self.file(id, ending);
            let Some(name) = from.file_name() else { continue };
            match std::fs::rename(&from, folder.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(folder)
    }
}

/// Size and checksum of a file that is there.
pub(crate) fn measure(path: &Path) -> io::Result<record::File> {
    let mut file = File::open(path)?;
    let (mut sum, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; READ_BYTES]);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        sum.update(&buffer[..read]);
        bytes += read as u64;
    }
    Ok(record::File { bytes, sha256: hex::encode(sum.finalize()) })
}

fn write_durable(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// A folder name for any name of a worker; two names never share one.
pub(super) fn name_for(worker: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    if !worker.is_empty() && worker.chars().all(plain) && !worker.starts_with('.') && worker.len() <= 128 {
        return worker.to_owned();
    }
    let clean: String = worker.chars().filter(|letter| plain(*letter)).take(64).collect();
    let sum = crate::picture::sha256(worker.as_bytes());
    format!("{}~{}", clean.trim_start_matches('.'), &sum[..16])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leases::LeaseKey;

    #[test]
    fn a_tar_whose_record_cannot_be_written_takes_no_room() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder::open(temporary.path()).unwrap().unwrap();
        let id = Id::fresh();
        std::fs::write(folder.unfinished_tar(id), "a tar").unwrap();
        // Its record cannot be named.
        let in_its_place = folder.file(id, TAR_RECORD);
        std::fs::create_dir(&in_its_place).unwrap();
        let tar = record::Tar {
            lease: LeaseKey { shard_id: "a".into(), attempt: 1 },
            turn: 0,
            object: "a-1.tar".into(),
            file: record::File::of(b"a tar"),
            images: vec![0],
        };
        assert!(folder.keep_tar(id, &tar).is_err());
        let left: Vec<_> =
            std::fs::read_dir(temporary.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, [in_its_place]);
    }
}

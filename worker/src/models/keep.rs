//! What was downloaded: told, checked, removed, and kept below a size.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use super::cache::Entry;
use super::lock::{Kind, Lock};
use super::record::{Record, hash};
use super::{BUNDLED, Cancel, Error, Models, Reference, Remote, bundled};

/// A model in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Without a revision, such as `hf:owner/name`.
    pub model: String,
    /// The commit, or what stands for it; empty for the bundled model.
    pub version: String,
    /// How much of it is here.
    pub state: State,
    /// A living process uses or downloads it.
    pub in_use: bool,
    /// Bytes when all of it is here.
    pub bytes: u64,
    /// Files when all of it is here.
    pub files: usize,
    /// `None` for the bundled model, whose use nobody writes down.
    pub used_at: Option<SystemTime>,
    /// The folder in the diffusers layout.
    pub folder: PathBuf,
}

/// How much of a model is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// All files.
    Whole,
    /// Not all files: a download is under way, or was cut short.
    Partial,
    /// Inside the program, and in no need of a download.
    Bundled,
}

/// A file that was read and compared with what it was when it was downloaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Without a revision.
    pub model: String,
    /// As in [`Listed`].
    pub version: String,
    /// Below the model's folder.
    pub file: String,
    /// In hex, as it should be; `None` when the file was not downloaded yet.
    pub sha256: Option<String>,
    /// What is wrong with it.
    pub fault: Option<String>,
}

impl Models {
    /// All models that something is here of: the bundled one, then others, the last used first.
    pub fn list(&self) -> Result<Vec<Listed>, Error> {
        let failed = |error| Error::io(format!("list the models in {}", self.options.cache.display()), error);
        let mut listed = Vec::new();
        for (entry, record) in self.cache.entries().map_err(failed)? {
            listed.push(listed_entry(&entry, &record).map_err(failed)?);
        }
        listed.sort_by_key(|listed| std::cmp::Reverse(listed.used_at));
        listed.insert(0, self.listed_bundled());
        Ok(listed)
    }

    fn listed_bundled(&self) -> Listed {
        Listed {
            model: BUNDLED.to_owned(),
            version: String::new(),
            state: State::Bundled,
            in_use: false,
            bytes: bundled::bytes(),
            files: bundled::count(),
            used_at: None,
            folder: self.options.cache.join(BUNDLED),
        }
    }

    /// Reads the files of a downloaded model, or of all, and compares their sha256 with what it was when they were
    /// downloaded. What is not as it was is removed, and fetched again at the next use.
    ///
    /// Blocks for reading all bytes.
    pub fn verify(&self, reference: Option<&str>, cancel: &Cancel) -> Result<Vec<Checked>, Error> {
        let entries = match reference {
            Some(reference) => self.entries_of(reference)?,
            None => self.all_entries()?,
        };
        self.run(cancel, async {
            let mut checked = Vec::new();
            for (entry, _) in entries {
                checked.extend(self.verify_entry(&entry).await?);
            }
            Ok(checked)
        })
    }

    async fn verify_entry(&self, entry: &Entry) -> Result<Vec<Checked>, Error> {
        let failed = |error| Error::io(format!("read {}", entry.folder().display()), error);
        let _in_use = Lock::take(&entry.use_lock(), Kind::Shared, || {}).await.map_err(failed)?;
        // A download that is under way checks by itself.
        let waiting =
            || tracing::warn!(folder = %entry.folder().display(), "waiting for a process that downloads it");
        let _alone = Lock::take(&entry.fetch_lock(), Kind::Exclusive, waiting).await.map_err(failed)?;
        let Some(record) = entry.record().map_err(failed)? else { return Ok(Vec::new()) };
        let (model, mut checked) = (entry.model(&record), Vec::new());
        for file in &record.files {
            let path = model.join(&file.name);
            let (sha256, fault) = match &file.here {
                None => (None, None),
                Some(here) => (Some(here.sha256.clone()), fault(&path, &here.sha256).await.map_err(failed)?),
            };
            if fault.is_some() {
                discard(&path).map_err(failed)?;
            }
            checked.push(Checked {
                model: record.source.clone(),
                version: record.version.clone(),
                file: file.name.clone(),
                sha256,
                fault,
            });
        }
        Ok(checked)
    }

    /// Removes a downloaded model, all its versions unless the reference names one; what was removed. Not one that a
    /// living process uses.
    pub fn remove(&self, reference: &str) -> Result<Vec<Listed>, Error> {
        let mut removed = Vec::new();
        for (entry, record) in self.entries_of(reference)? {
            let failed = |error| Error::io(format!("look at {}", entry.folder().display()), error);
            let listed = listed_entry(&entry, &record).map_err(failed)?;
            match entry.remove()? {
                true => removed.push(listed),
                false => return Err(Error::InUse(format!("{} at {}", record.source, record.version))),
            }
        }
        Ok(removed)
    }

    fn all_entries(&self) -> Result<Vec<(Entry, Record)>, Error> {
        let failed = |error| Error::io(format!("list the models in {}", self.options.cache.display()), error);
        self.cache.entries().map_err(failed)
    }

    /// What is here under a reference: one version when it names one, else all.
    fn entries_of(&self, reference: &str) -> Result<Vec<(Entry, Record)>, Error> {
        let remote = match Reference::parse(reference)? {
            Reference::Remote(remote) => remote,
            Reference::Bundled | Reference::Folder(_) => {
                let why = "only downloaded models are kept and checked here".to_owned();
                return Err(Error::Reference { reference: reference.to_owned(), why });
            }
        };
        let version = self.named_version(reference, &remote)?;
        let mut entries = self.all_entries()?;
        entries.retain(|(_, record)| {
            record.source == remote.source()
                && version.as_ref().is_none_or(|version| record.version.starts_with(version))
        });
        if entries.is_empty() {
            return Err(Error::NotHere(remote.to_string()));
        }
        Ok(entries)
    }

    /// The commit that is named, its beginning, or the one that a named branch was last seen at.
    fn named_version(&self, reference: &str, remote: &Remote) -> Result<Option<String>, Error> {
        if !reference.contains('@') || remote.revision().is_empty() {
            return Ok(None);
        }
        if let Some(version) = self.cache.remembered(remote) {
            return Ok(Some(version));
        }
        let revision = remote.revision();
        let is_commit = revision.len() >= 7 && revision.bytes().all(|letter| letter.is_ascii_hexdigit());
        is_commit.then(|| Some(revision.to_owned())).ok_or_else(|| Error::NotHere(remote.to_string()))
    }

    /// Makes room for the rest of a model, and writes down that it is on its way: whoever makes room next counts it.
    pub(super) async fn make_room(
        &self,
        remote: &Remote,
        entry: &Entry,
        record: &Record,
    ) -> Result<(), Error> {
        let failed = |error| Error::io(format!("make room in {}", self.options.cache.display()), error);
        let _alone = Lock::take(&self.cache.room_lock(), Kind::Exclusive, || {}).await.map_err(failed)?;
        self.cache.sweep()?;
        if let Some(limit) = self.options.cache_size {
            self.evict(remote, entry, record, limit)?;
        }
        entry.write_record(record).map_err(failed)
    }

    fn evict(&self, remote: &Remote, entry: &Entry, record: &Record, limit: u64) -> Result<(), Error> {
        let wanted = record.bytes();
        let refused = |others: String| {
            Err(Error::Room(format!("{remote} has {wanted} bytes, the cache may have {limit}{others}")))
        };
        if wanted > limit {
            return refused(String::new());
        }
        let mut others = self.all_entries()?;
        others.retain(|(other, _)| other != entry);
        let mut bytes: u64 = others.iter().map(|(_, record)| record.bytes()).sum();
        others.sort_by_key(|(entry, _)| std::cmp::Reverse(entry.used_at()));
        while bytes + wanted > limit
            && let Some((oldest, old)) = others.pop()
        {
            if oldest.remove()? {
                let (model, version) = (old.source.as_str(), old.version.as_str());
                tracing::info!(
                    model,
                    version,
                    bytes = old.bytes(),
                    "removed the model that was not used for longest"
                );
                bytes -= old.bytes();
            }
        }
        if bytes + wanted > limit {
            return refused(format!(", and models in use take {bytes}"));
        }
        Ok(())
    }
}

fn listed_entry(entry: &Entry, record: &Record) -> io::Result<Listed> {
    let state = if entry.looks_whole(record)? { State::Whole } else { State::Partial };
    Ok(Listed {
        model: record.source.clone(),
        version: record.version.clone(),
        state,
        in_use: entry.is_in_use()?,
        bytes: record.bytes(),
        files: record.files.len(),
        used_at: Some(entry.used_at()),
        folder: std::path::absolute(entry.model(record))?,
    })
}

/// Whoever has the file open keeps it.
fn discard(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// In which way a file is not the one with this checksum.
async fn fault(path: &Path, sha256: &str) -> io::Result<Option<String>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some("it is gone".to_owned())),
        Err(error) => return Err(error),
    };
    let mut hasher = Sha256::new();
    hash(&mut file, &mut hasher).await?;
    let found = hex::encode(hasher.finalize());
    Ok((found != sha256).then(|| format!("it was altered: its sha256 is {found}")))
}

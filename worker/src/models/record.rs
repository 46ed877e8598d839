//! `manifest.json` beside a downloaded model: what it is, and what each of its files is known to be.

use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::source::RemoteFile;

/// The version of the file's form.
const FORM: u32 = 1;
/// Bytes that are hashed at a time.
const CHUNK: usize = 1 << 20;

/// One version of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    form: u32,
    /// Without a revision, such as `hf:owner/name`.
    pub(super) source: String,
    /// The commit, or what stands for it.
    pub(super) version: String,
    /// Name of the model's folder.
    pub(super) name: String,
    pub(super) files: Vec<FileRecord>,
}

/// One file that belongs to the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct FileRecord {
    /// Below the model's folder.
    pub(super) name: String,
    /// As the source tells.
    pub(super) bytes: Option<u64>,
    /// As the source tells, in hex.
    pub(super) sha256: Option<String>,
    /// As the source tells: when it was written, and its own mark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) stamp: Option<(u64, Option<String>)>,
    /// `None` until it was downloaded and checked.
    pub(super) here: Option<Here>,
}

/// A file as it was when it was checked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Here {
    pub(super) bytes: u64,
    pub(super) sha256: String,
    /// Nanoseconds since 1970; a file with this time and length is taken for unchanged.
    pub(super) modified: u64,
}

impl Record {
    /// A model of which nothing is here yet.
    pub(super) fn new(source: String, version: String, name: &str, files: &[RemoteFile]) -> Self {
        let file = |file: &RemoteFile| FileRecord {
            name: file.name.clone(),
            bytes: file.bytes,
            sha256: file.sha256.clone(),
            stamp: file.stamp.clone(),
            here: None,
        };
        Self { form: FORM, source, version, name: name.to_owned(), files: files.iter().map(file).collect() }
    }

    /// Reads a record; nothing when there is none that can be understood.
    pub(super) fn read(path: &Path) -> io::Result<Option<Self>> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match serde_json::from_slice::<Self>(&text) {
            Ok(record) if record.form == FORM => Ok(Some(record)),
            Ok(record) => {
                tracing::warn!(file = %path.display(), form = record.form, "record of another version: left out of account");
                Ok(None)
            }
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "broken record: left out of account");
                Ok(None)
            }
        }
    }

    /// Writes it in place of the one before.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
        replace(path, &text)
    }

    /// Bytes that it takes when all files are here.
    pub(super) fn bytes(&self) -> u64 {
        let bytes = |file: &FileRecord| file.here.as_ref().map(|here| here.bytes).or(file.bytes);
        self.files.iter().filter_map(bytes).sum()
    }
}

impl FileRecord {
    /// The file as its source knows it.
    pub(super) fn there(&self) -> RemoteFile {
        RemoteFile {
            name: self.name.clone(),
            bytes: self.bytes,
            sha256: self.sha256.clone(),
            stamp: self.stamp.clone(),
        }
    }

    /// Whether the source promises the same file as this record.
    pub(super) fn is_promised(&self, file: &RemoteFile) -> bool {
        let agrees = |here: &Option<String>, there: &Option<String>| here == there || there.is_none();
        self.name == file.name
            && (file.bytes.is_none() || self.bytes == file.bytes)
            && agrees(&self.sha256, &file.sha256)
    }
}

impl Here {
    /// A file that was just checked.
    pub(super) fn new(file: &Path, sha256: String) -> io::Result<Self> {
        let metadata = std::fs::metadata(file)?;
        Ok(Self { bytes: metadata.len(), sha256, modified: modified(&metadata)? })
    }

    /// Whether the file has the length and the time that it had when it was checked.
    pub(super) fn looks_unchanged(&self, file: &Path) -> io::Result<bool> {
        let metadata = match std::fs::metadata(file) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        Ok(metadata.is_file() && metadata.len() == self.bytes && modified(&metadata)? == self.modified)
    }
}

fn modified(metadata: &Metadata) -> io::Result<u64> {
    let since = metadata.modified()?.duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
    u64::try_from(since.as_nanos()).map_err(io::Error::other)
}

/// Writes a small file whole in place of the one before.
pub(super) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let staged = folder.join(format!(".{}", Uuid::new_v4().simple()));
    let written = File::create_new(&staged).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    let written = written.and_then(|()| std::fs::rename(&staged, path));
    if written.is_err() {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(&staged);
    }
    written
}

/// Feeds what is left of `file` to `hasher`, and says how many bytes it were. Other tasks get their turn in between.
pub(super) async fn hash(file: &mut File, hasher: &mut Sha256) -> io::Result<u64> {
    let mut buffer = vec![0; CHUNK];
    let mut bytes = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(bytes),
            count => {
                hasher.update(&buffer[..count]);
                bytes += count as u64;
                tokio::task::yield_now().await;
            }
        }
    }
}

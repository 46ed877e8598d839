//! One file from its source to the disk: taken up again where it broke off, and checked before it counts.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use sha2::{Digest, Sha256};

use super::Error;
use super::meter::Meter;
use super::record::hash;
use super::source::{RemoteFile, Source};
use crate::retry::Backoff;

/// Tries in a row that bring nothing.
const FRUITLESS: u32 = 8;
/// Waits between them: a minute and a half in all.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Brings `file` to `path`, which may hold its beginning; its checksum in hex. It is durable when this returns.
pub(super) async fn fetch(
    source: &dyn Source,
    version: &str,
    file: &RemoteFile,
    path: &Path,
    meter: &mut Meter,
) -> Result<String, Error> {
    let doing = |verb: &str| format!("{verb} {}", path.display());
    meter.file(&file.name);
    let mut part = Part::open(path, file).await.map_err(|error| Error::io(doing("write"), error))?;
    meter.found(part.bytes);
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    let (mut fruitless, mut sent_again) = (0, false);
    loop {
        let before = part.bytes;
        let failure = match read_rest(source, version, file, &mut part, meter).await {
            Ok(()) => match part.fault(file) {
                None => break,
                Some(fault) if sent_again => {
                    part.start_over(meter).map_err(|error| Error::io(doing("write"), error))?;
                    return Err(Error::Damaged(format!(
                        "{} was sent twice and is not what it should be: {fault}",
                        file.name
                    )));
                }
                Some(fault) => {
                    tracing::warn!(file = file.name, fault, "refused what was sent: fetching it again");
                    sent_again = true;
                    part.start_over(meter).map_err(|error| Error::io(doing("write"), error))?;
                    continue;
                }
            },
            Err(error) if error.is_transient() => error,
            Err(error) => return Err(error),
        };
        if part.bytes > before {
            fruitless = 0;
            backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        }
        fruitless += 1;
        if fruitless > FRUITLESS {
            return Err(failure);
        }
        let wait = backoff.wait();
        tracing::warn!(file = file.name, error = %failure, ?wait, "download broke off: trying again");
        tokio::time::sleep(wait).await;
    }
    part.file.sync_all().map_err(|error| Error::io(doing("write"), error))?;
    Ok(part.sha256())
}

/// Reads from where the part ends to the end of the file.
async fn read_rest(
    source: &dyn Source,
    version: &str,
    file: &RemoteFile,
    part: &mut Part,
    meter: &mut Meter,
) -> Result<(), Error> {
    if part.bytes > 0 && Some(part.bytes) == file.bytes {
        return Ok(());
    }
    let mut reading = source.read(version, file, part.bytes).await?;
    let path = part.path.clone();
    let failed = |error| Error::io(format!("write {}", path.display()), error);
    if reading.offset != part.bytes {
        // The server cannot start in the middle, or what is here is none of its file.
        part.start_over(meter).map_err(failed)?;
    }
    while let Some(chunk) = reading.chunks.next().await.transpose()? {
        part.write(&chunk).map_err(failed)?;
        meter.add(chunk.len() as u64);
        if file.bytes.is_some_and(|bytes| part.bytes > bytes) {
            // Told by the check.
            return Ok(());
        }
    }
    match file.bytes {
        Some(bytes) if part.bytes < bytes => {
            Err(Error::Unreachable(format!("{} ended after {} of {bytes} bytes", file.name, part.bytes)))
        }
        Some(_) | None => Ok(()),
    }
}

/// The beginning of a file, and the hash of it.
struct Part {
    file: File,
    path: PathBuf,
    hasher: Sha256,
    bytes: u64,
}

impl Part {
    /// Goes on with what is there, unless nobody could tell whether both halves are of the same file.
    async fn open(path: &Path, wanted: &RemoteFile) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut part = Self { file, path: path.to_path_buf(), hasher: Sha256::new(), bytes: 0 };
        let there = part.file.metadata()?.len();
        if wanted.is_told_apart() && wanted.bytes.is_none_or(|bytes| there <= bytes) {
            part.bytes = hash(&mut part.file, &mut part.hasher).await?;
        } else {
            part.file.set_len(0)?;
        }
        Ok(part)
    }

    fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.file.write_all(chunk)?;
        self.hasher.update(chunk);
        self.bytes += chunk.len() as u64;
        Ok(())
    }

    fn start_over(&mut self, meter: &mut Meter) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.hasher = Sha256::new();
        meter.take_back(self.bytes);
        self.bytes = 0;
        Ok(())
    }

    fn sha256(&self) -> String {
        hex::encode(self.hasher.clone().finalize())
    }

    /// In which way it is not the wanted file.
    fn fault(&self, wanted: &RemoteFile) -> Option<String> {
        if let Some(bytes) = wanted.bytes.filter(|bytes| *bytes != self.bytes) {
            return Some(format!("more than the {bytes} bytes that it should have"));
        }
        let expected = wanted.sha256.as_deref()?;
        let found = self.sha256();
        (found != expected).then(|| format!("its sha256 is {found}, it should be {expected}"))
    }
}

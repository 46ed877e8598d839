//! The checksum over all files of a model, remembered beside them: reading 10 GB at every start would take minutes on a
//! slow disk.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Error;

/// The file in the model's folder that remembers it.
const REMEMBERED: &str = ".sana-checksum.json";
/// A smaller model is read in no time.
const WORTH_REMEMBERING: u64 = 256 << 20;
/// A file that was written less than this ago may be written again without its time telling.
const SETTLED: Duration = Duration::from_secs(2);

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Remembered {
    files: Vec<Stamp>,
    sha256: String,
}

/// A file that has these is taken for unchanged.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Stamp {
    name: String,
    bytes: u64,
    /// Nanoseconds since 1970.
    modified: u64,
}

/// Over the sorted names (below `dir`), lengths and contents of the files, in hex.
///
/// That of a large model is remembered in its folder and taken from there as long as no file changes its length or time.
/// A folder that cannot be written is read each time.
pub(crate) fn checksum(dir: &Path, files: Vec<PathBuf>) -> Result<String, Error> {
    remembered(dir, files, WORTH_REMEMBERING)
}

fn remembered(dir: &Path, mut files: Vec<PathBuf>, worth: u64) -> Result<String, Error> {
    files.sort();
    files.dedup();
    let started = SystemTime::now();
    let stamps = stamps(dir, &files)?;
    if stamps.iter().map(|stamp| stamp.bytes).sum::<u64>() < worth {
        return read(dir, &files);
    }
    let path = dir.join(REMEMBERED);
    let known = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Remembered>(&text).ok());
    if let Some(known) = known.filter(|known| known.files == stamps) {
        return Ok(known.sha256);
    }
    let sha256 = read(dir, &files)?;
    let is_settled = |stamp: &Stamp| {
        started
            .duration_since(UNIX_EPOCH + Duration::from_nanos(stamp.modified))
            .is_ok_and(|age| age >= SETTLED)
    };
    if stamps.iter().all(is_settled) {
        let remembered = Remembered { files: stamps, sha256: sha256.clone() };
        // It is only a help: where it cannot be written, the next start reads all files again.
        let _ = write(&path, &remembered);
    }
    Ok(sha256)
}

fn stamps(dir: &Path, files: &[PathBuf]) -> Result<Vec<Stamp>, Error> {
    let stamp = |path: &PathBuf| {
        let metadata = std::fs::metadata(path).map_err(|error| failed(path, &error))?;
        let modified = metadata.modified().map_err(|error| failed(path, &error))?;
        let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        let modified = u64::try_from(since.as_nanos()).unwrap_or_default();
        Ok(Stamp { name: name(dir, path), bytes: metadata.len(), modified })
    };
    files.iter().map(stamp).collect()
}

fn read(dir: &Path, files: &[PathBuf]) -> Result<String, Error> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    for path in files {
        let mut file = File::open(path).map_err(|error| failed(path, &error))?;
        let length = file.metadata().map_err(|error| failed(path, &error))?.len();
        hasher.update(format!("{}\0{length}\0", name(dir, path)));
        loop {
            let count = file.read(&mut buffer).map_err(|error| failed(path, &error))?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Whole in place of the one before: others may read it now.
fn write(path: &Path, remembered: &Remembered) -> io::Result<()> {
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
    let staged = path.with_extension(format!("{}-{number}", std::process::id()));
    let text = serde_json::to_vec(remembered).map_err(io::Error::other)?;
    let written = std::fs::write(&staged, text).and_then(|()| std::fs::rename(&staged, path));
    if written.is_err() {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(&staged);
    }
    written
}

fn name(dir: &Path, path: &Path) -> String {
    path.strip_prefix(dir).unwrap_or(path).to_string_lossy().into_owned()
}

fn failed(path: &Path, error: &io::Error) -> Error {
    Error::Model(format!("read {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set_time(path: &Path, seconds: u64) {
        let time = UNIX_EPOCH + Duration::from_secs(seconds);
        File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    }

    #[test]
    fn a_checksum_is_remembered_until_a_file_changes() {
        let folder = tempfile::tempdir().unwrap();
        let (dir, path) = (folder.path(), folder.path().join("weights"));
        let sum = || remembered(dir, vec![path.clone()], 4).unwrap();
        std::fs::write(&path, "old weights").unwrap();
        let old = sum();
        assert!(!dir.join(REMEMBERED).exists(), "written in this moment, and perhaps again");
        set_time(&path, 1_000_000);
        assert_eq!(sum(), old);
        assert!(dir.join(REMEMBERED).exists());

        // Not read again: nobody sees the same length at the same time for a change.
        std::fs::write(&path, "new weights").unwrap();
        set_time(&path, 1_000_000);
        assert_eq!(sum(), old);
        set_time(&path, 1_000_001);
        let new = sum();
        assert_eq!((new != old, new), (true, checksum(dir, vec![path.clone()]).unwrap()));

        std::fs::write(dir.join(REMEMBERED), "{").unwrap();
        assert_eq!(sum(), checksum(dir, vec![path.clone()]).unwrap());
        assert_eq!(std::fs::read_dir(dir).unwrap().count(), 2, "nothing is left behind");
    }
}

//! What a killed process leaves in an output folder.
//!
//! `object_store` writes `NAME` as `NAME#1` (`#2`, … when taken) beside its place and links or renames it when
//! it is whole. A process killed in between leaves the staged file, which no object name can reach.

use std::io;
use std::path::Path;

use crate::Error;

/// Whether a name is one that `object_store` stages under: it refuses such names and hides them in lists.
pub(crate) fn is_staged(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name);
    match file.split_once('#') {
        Some((_, number)) => !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()),
        None => false,
    }
}

/// Whether a file is ours to remove: staged, or the object that checks whether a place can be written.
fn is_leftover(file: &str) -> bool {
    // A person's `scan#1` is left alone: everything that we write has an extension.
    let staged = is_staged(file) && file.split('#').next().is_some_and(|base| base.contains('.'));
    let check = file.starts_with("sanafarm-check-") && file.ends_with(".tmp");
    staged || check
}

/// Removes leftovers below `folder` without following links and says how many files it were.
pub(crate) fn sweep(folder: &Path) -> Result<u64, Error> {
    let mut swept = 0;
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let failed = |error: &io::Error| Error::from_io(&format!("sweep {}", folder.display()), error);
        for entry in std::fs::read_dir(&folder).map_err(|error| failed(&error))? {
            let entry = entry.map_err(|error| failed(&error))?;
            let kind = entry.file_type().map_err(|error| failed(&error))?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() && entry.file_name().to_str().is_some_and(is_leftover) {
                match std::fs::remove_file(entry.path()) {
                    Ok(()) => swept += 1,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(failed(&error)),
                }
            }
        }
    }
    Ok(swept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbered_leftovers_of_files_with_an_extension_are_swept() {
        for ours in ["a.png#1", "metadata.jsonl#12", "ab.png#2"] {
            assert!(is_leftover(ours), "{ours}");
        }
        for theirs in ["a.png", "scan#1", "a.png#", "a.png#x", "song.mp3#1a", "check.tmp"] {
            assert!(!is_leftover(theirs), "{theirs}");
        }
    }
}

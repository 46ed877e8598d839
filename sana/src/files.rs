//! Opening the files of a model folder.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Opens a regular file. Anything else is refused: a pipe would let us wait and a device read for ever.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    File::open(path)
}

/// Reads a text file of at most `limit` bytes.
pub(crate) fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    let mut text = String::new();
    open(path)?.take(limit + 1).read_to_string(&mut text)?;
    if text.len() as u64 > limit {
        let why = format!("it has more than the {limit} bytes that such a file may have");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_or_too_long_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read_text(dir.path(), 10).is_err());
        #[cfg(target_os = "linux")]
        assert!(read_text(Path::new("/dev/zero"), 10).unwrap_err().to_string().contains("no regular file"));
        let path = dir.path().join("x");
        std::fs::write(&path, "0123456789").unwrap();
        assert_eq!(read_text(&path, 10).unwrap(), "0123456789");
        assert!(read_text(&path, 9).unwrap_err().to_string().contains("9 bytes"));
    }

    #[cfg(unix)]
    #[test]
    fn a_loop_of_links_and_a_pipe_end_in_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("a");
        std::os::unix::fs::symlink(dir.path().join("b"), &link).unwrap();
        std::os::unix::fs::symlink(&link, dir.path().join("b")).unwrap();
        assert!(open(&link).is_err());
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert!(open(&pipe).unwrap_err().to_string().contains("no regular file"));
    }
}

//! Where a list comes from, and in which format.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::{Path, PathBuf};

/// How a prompt list is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// One prompt a line
    Txt,
    /// One JSON object, or one JSON string, a line
    Jsonl,
    /// Comma-separated values with a header
    Csv,
    /// Tab-separated values with a header
    Tsv,
}

impl Format {
    /// The format that a file name tells; `None` for an extension that says nothing.
    ///
    /// # Errors
    ///
    /// The extension of a format that cannot be read: as text its rows would be nonsense.
    pub fn of_extension(path: &Path) -> Result<Option<Self>, String> {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        match extension.to_ascii_lowercase().as_str() {
            unreadable @ ("json" | "parquet" | "arrow" | "xlsx" | "gz" | "zst" | "zip" | "tar") => {
                Err(format!(
                    "a .{unreadable} file is no prompt list that can be read; make it .jsonl, .csv, .tsv or .txt, or \
                 say with --format how it is written"
                ))
            }
            extension => Ok(Self::of_word(extension)),
        }
    }

    fn of_word(extension: &str) -> Option<Self> {
        match extension {
            "txt" => Some(Self::Txt),
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            "csv" => Some(Self::Csv),
            "tsv" => Some(Self::Tsv),
            _ => None,
        }
    }
}

/// Bytes that can be read again from the start.
#[derive(Debug)]
pub enum Source {
    /// An ordinary file.
    Path(PathBuf),
    /// A nameless copy of what could be read only once: it is gone when the process is, however it ends.
    Spooled(File),
}

impl Source {
    /// Opens `path`, or standard input for `-`.
    pub fn open(path: &Path, spool_folder: &Path) -> io::Result<Self> {
        if path == Path::new("-") {
            return spool(io::stdin().lock(), spool_folder);
        }
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(io::Error::from(io::ErrorKind::IsADirectory));
        }
        if metadata.is_file() { Ok(Self::Path(path.to_owned())) } else { spool(file, spool_folder) }
    }

    /// Reads from the start. Two readers of a spooled list would share one position.
    pub fn reader(&self) -> io::Result<Box<dyn BufRead + Send>> {
        let file = match self {
            Self::Path(path) => File::open(path)?,
            Self::Spooled(file) => {
                let mut file = file.try_clone()?;
                file.rewind()?;
                file
            }
        };
        Ok(Box::new(BufReader::with_capacity(256 * 1024, file)))
    }

    /// JSON lines when the first character that is no space is `{`, else text.
    pub fn sniff(&self) -> io::Result<Format> {
        for byte in self.reader()?.bytes() {
            match byte? {
                b'{' => return Ok(Format::Jsonl),
                byte if byte.is_ascii_whitespace() || is_byte_order_mark(byte) => {}
                _ => break,
            }
        }
        Ok(Format::Txt)
    }
}

/// A byte of the UTF-8 byte order mark.
fn is_byte_order_mark(byte: u8) -> bool {
    matches!(byte, 0xef | 0xbb | 0xbf)
}

fn spool(mut input: impl Read, folder: &Path) -> io::Result<Source> {
    let mut file = tempfile::tempfile_in(folder)?;
    io::copy(&mut input, &mut file)?;
    Ok(Source::Spooled(file))
}

//! Where a list comes from, and in which format.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use sanafarm_storage::Input;

use super::Error;
use super::remote::Download;

/// Bytes that are read at a time.
const BUFFER: usize = 256 << 10;
/// Bytes in which a list of an unknown format shows what it is.
const HEAD: usize = 4 << 10;
/// How a Parquet file begins.
const PARQUET_MAGIC: &[u8] = b"PAR1";
const GZIP_MAGIC: &[u8] = b"\x1f\x8b";
const ZSTD_MAGIC: &[u8] = b"\x28\xb5\x2f\xfd";

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
    /// Parquet with flat columns
    Parquet,
    /// A JSON array of rows, or the captions of COCO
    Json,
}

impl Format {
    /// The format that a file name tells; `None` for an extension that says nothing. The extension of a
    /// compressed file does not count.
    ///
    /// # Errors
    ///
    /// The extension of a format that cannot be read: as text its rows would be nonsense.
    pub fn of_name(name: &str) -> Result<Option<Self>, String> {
        match extension(uncompressed(name)).to_ascii_lowercase().as_str() {
            "txt" => Ok(Some(Self::Txt)),
            "jsonl" | "ndjson" => Ok(Some(Self::Jsonl)),
            "csv" => Ok(Some(Self::Csv)),
            "tsv" => Ok(Some(Self::Tsv)),
            "parquet" => Ok(Some(Self::Parquet)),
            "json" => Ok(Some(Self::Json)),
            unreadable @ ("arrow" | "feather" | "xlsx" | "zip" | "tar" | "tgz" | "bz2" | "xz") => {
                Err(format!(
                    "a .{unreadable} file is no prompt list that can be read; make it .parquet, .jsonl, .json, .csv, \
                 .tsv or .txt (also .gz or .zst), or say with --list-format how it is written"
                ))
            }
            _ => Ok(None),
        }
    }

    /// What the beginning of a list looks like: Parquet by its first letters, JSON lines when the first character
    /// that is no space is `{`, else text.
    fn of_head(head: &[u8]) -> Self {
        if head.starts_with(PARQUET_MAGIC) {
            return Self::Parquet;
        }
        let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
        match text.trim_ascii_start().first() {
            Some(b'{') => Self::Jsonl,
            Some(_) | None => Self::Txt,
        }
    }
}

/// A file name without the extensions that a list may have.
pub fn stem(name: &str) -> &str {
    let name = uncompressed(name);
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    // `.jsonl` is a name and no extension.
    if stem.is_empty() { name } else { stem }
}

fn uncompressed(name: &str) -> &str {
    match extension(name).to_ascii_lowercase().as_str() {
        "gz" | "zst" | "zstd" => name.rsplit_once('.').map_or(name, |(name, _)| name),
        _ => name,
    }
}

fn extension(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(_, extension)| extension)
}

/// Where the bytes of a list are.
pub enum Source {
    /// Standard input.
    Stdin,
    /// A file, or a pipe with a name.
    Path(PathBuf),
    /// An object on another machine.
    Url(Input),
}

/// A list by its names.
pub struct Named {
    /// The list for people: a path, a URL or `stdin`.
    pub list: String,
    /// The last part of it.
    pub file: String,
    /// Where it is.
    pub source: Source,
}

/// A list that is open, uncompressed.
pub enum Opened {
    /// A plain Parquet file, which can be read at any place.
    Parquet(File),
    /// Bytes that come once.
    Stream(Box<dyn BufRead + Send>),
}

/// Takes `-`, a URL or a path.
pub fn find(list: &Path) -> Result<Named, Error> {
    match list.to_str() {
        Some("-") => Ok(Named { list: "stdin".to_owned(), file: "stdin".to_owned(), source: Source::Stdin }),
        Some(url) if url.contains("://") => {
            let input = Input::open(url);
            let input =
                input.map_err(|error| Error::List { list: url.to_owned(), what: error.to_string() })?;
            let (list, file) = (input.place().to_owned(), input.file_name().to_owned());
            Ok(Named { list, file, source: Source::Url(input) })
        }
        Some(_) | None => {
            let file = list.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Ok(Named { list: list.display().to_string(), file, source: Source::Path(list.to_owned()) })
        }
    }
}

impl Source {
    /// Opens the list and finds out how it is written, unless that is known.
    pub fn open(&self, format: Option<Format>) -> io::Result<(Opened, Format)> {
        let file = match self {
            Self::Stdin => return stream(io::stdin(), format),
            Self::Url(input) => return stream(Download::start(input)?, format),
            Self::Path(path) => File::open(path)?,
        };
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(io::Error::from(io::ErrorKind::IsADirectory));
        }
        // Neither a pipe nor a compressed file can be read at any place.
        if metadata.is_file() && format.is_none_or(|format| format == Format::Parquet) {
            let magic = head(&mut &file, PARQUET_MAGIC.len())?;
            if magic == PARQUET_MAGIC {
                return Ok((Opened::Parquet(file), Format::Parquet));
            }
            return stream(Cursor::new(magic).chain(file), format);
        }
        stream(file, format)
    }
}

/// Looks whether the bytes are compressed, then how they are written.
fn stream(reader: impl Read + Send + 'static, format: Option<Format>) -> io::Result<(Opened, Format)> {
    let mut reader = BufReader::with_capacity(BUFFER, reader);
    let magic = head(&mut reader, ZSTD_MAGIC.len())?;
    let reader = Cursor::new(magic.clone()).chain(reader);
    let mut plain: Box<dyn BufRead + Send> = if magic.starts_with(GZIP_MAGIC) {
        Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(reader)))
    } else if magic == ZSTD_MAGIC {
        Box::new(BufReader::with_capacity(BUFFER, zstd::Decoder::with_buffer(reader)?))
    } else {
        Box::new(reader)
    };
    match format {
        Some(format) => Ok((Opened::Stream(plain), format)),
        None => {
            let head = head(&mut plain, HEAD)?;
            let format = Format::of_head(&head);
            Ok((Opened::Stream(Box::new(Cursor::new(head).chain(plain))), format))
        }
    }
}

/// The first bytes, at most so many.
fn head(reader: &mut impl Read, bytes: usize) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    reader.by_ref().take(bytes as u64).read_to_end(&mut head)?;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_the_format_and_what_is_left_of_it_the_stem() {
        let of = |name: &str| (Format::of_name(name).unwrap(), stem(name).to_owned());
        assert_eq!(of("captions.JSONL.gz"), (Some(Format::Jsonl), "captions".to_owned()));
        assert_eq!(of("a.b.csv.zst"), (Some(Format::Csv), "a.b".to_owned()));
        assert_eq!(of("a.parquet"), (Some(Format::Parquet), "a".to_owned()));
        assert_eq!(of("a.prompts.gz"), (None, "a".to_owned()));
        assert_eq!(of("list"), (None, "list".to_owned()));
        assert_eq!(of(".jsonl"), (Some(Format::Jsonl), ".jsonl".to_owned()));
        assert!(Format::of_name("pictures.tar.gz").unwrap_err().starts_with("a .tar file is no prompt list"));
    }

    #[test]
    fn the_beginning_tells_the_format_of_a_nameless_list() {
        assert_eq!(Format::of_head(b"\xef\xbb\xbf \n{\"prompt\""), Format::Jsonl);
        assert_eq!(Format::of_head(b"PAR1\x15"), Format::Parquet);
        assert_eq!(Format::of_head(b"[photo] of a cat"), Format::Txt);
        assert_eq!(Format::of_head(b""), Format::Txt);
    }
}

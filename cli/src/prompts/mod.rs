//! Prompt lists, read one row at a time.
//!
//! - `source`, `remote`: where the bytes come from, uncompressed
//! - `text`, `jsonl`, `delimited`, `parquet`, `json`: one format each
//! - `columns`, `shape`, `objects`: which column says what
//! - `value`, `row`, `limits`: what a row may hold

mod columns;
mod delimited;
mod json;
mod jsonl;
pub mod limits;
mod lines;
mod objects;
mod parquet;
mod remote;
mod row;
mod shape;
mod source;
mod text;
mod value;

use std::fs::File;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;

use sanafarm_proto::v1::PromptRow;

pub use columns::Chosen;
pub use source::Format;

use delimited::{Delimited, Dialect};
use jsonl::JsonLines;
use lines::Lines;
use source::{Named, Opened};
use text::Text;

/// Takes the rows of a list in order, each good or bad, and says whether it wants more.
pub type Sink<'s> = dyn FnMut(Result<PromptRow, Error>) -> ControlFlow<()> + 's;

/// Why a prompt list, or a row of it, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The row of one line is wrong; the others can still be read.
    #[error("{list}:{}: {what}", line_range(*.line, *.last))]
    Line {
        /// The list as the user named it.
        list: String,
        /// Where the row begins, counted from 1.
        line: u64,
        /// Its last line: a quoted field may hold line ends.
        last: u64,
        /// What is wrong with it.
        what: String,
    },
    /// One row of a list without lines is wrong; the others can still be read.
    #[error("{list}: row {row}: {what}")]
    Row {
        /// The list as the user named it.
        list: String,
        /// Which row, counted from 1.
        row: u64,
        /// What is wrong with it.
        what: String,
    },
    /// The columns of the list are wrong.
    #[error("{place}: {what}")]
    Header {
        /// The list as the user named it, with the line of its header.
        place: String,
        /// What is wrong with them.
        what: String,
    },
    /// The list as a whole cannot be used.
    #[error("{list}: {what}")]
    List {
        /// The list as the user named it.
        list: String,
        /// What is wrong with it.
        what: String,
    },
    /// The list could not be read.
    #[error("read prompt list {list}")]
    Read {
        /// The list as the user named it.
        list: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There is no room to copy the list to.
    #[error("copy prompt list {list} to {folder}")]
    Copy {
        /// The list as the user named it.
        list: String,
        /// The folder of the copy.
        folder: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Whether one row is bad and the others can still be read.
    pub fn is_of_one_row(&self) -> bool {
        match self {
            Self::Line { .. } | Self::Row { .. } => true,
            Self::Header { .. } | Self::List { .. } | Self::Read { .. } | Self::Copy { .. } => false,
        }
    }

    /// What to try when a list on another machine could not be read.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Read { source, .. } => remote::advice(source),
            Self::Line { .. }
            | Self::Row { .. }
            | Self::Header { .. }
            | Self::List { .. }
            | Self::Copy { .. } => None,
        }
    }

    /// Lines that a bad row takes.
    pub fn lines(&self) -> u64 {
        match self {
            Self::Line { line, last, .. } => last - line + 1,
            Self::Row { .. }
            | Self::Header { .. }
            | Self::List { .. }
            | Self::Read { .. }
            | Self::Copy { .. } => 1,
        }
    }

    /// What is wrong with a header, which is no row that could be skipped.
    fn into_header(self) -> Self {
        match self {
            Self::Line { list, line, last, what } => {
                Self::Header { place: format!("{list}:{}", line_range(line, last)), what }
            }
            other => other,
        }
    }
}

fn line_range(line: u64, last: u64) -> String {
    if last > line { format!("{line}-{last}") } else { line.to_string() }
}

/// A prompt list that is open and was not read yet.
pub struct PromptList {
    numbering: Numbering,
    stem: String,
    opened: Opened,
    format: Format,
    chosen: Chosen,
}

/// How the rows of a list are called in errors.
#[derive(Clone, Debug)]
pub struct Numbering {
    list: String,
    by_line: bool,
}

/// Rows that are asked for one by one.
trait Pull {
    /// The next row; `None` after the last. After an error of one row the next can be asked for.
    fn next(&mut self) -> Result<Option<PromptRow>, Error>;
}

impl PromptList {
    /// Opens a file, an object by its URL, or standard input for `-`. Without a `format` the extension decides,
    /// then the first characters.
    ///
    /// Blocks. A URL is opened and read within the async runtime only.
    pub fn open(list: &Path, format: Option<Format>, chosen: Chosen) -> Result<Self, Error> {
        let Named { list, file, source } = source::find(list)?;
        let format = match format {
            Some(format) => Some(format),
            None => Format::of_name(&file).map_err(|what| Error::List { list: list.clone(), what })?,
        };
        let opened = source.open(format);
        let (opened, format) = opened.map_err(|source| Error::Read { list: list.clone(), source })?;
        let by_line = match format {
            Format::Txt | Format::Jsonl | Format::Csv | Format::Tsv => true,
            Format::Parquet | Format::Json => false,
        };
        let stem = source::stem(&file).to_owned();
        Ok(Self { numbering: Numbering { list, by_line }, stem, opened, format, chosen })
    }

    /// The list as the user named it: a path, a URL or `stdin`.
    pub fn name(&self) -> &str {
        &self.numbering.list
    }

    /// File name without its extensions, or `stdin`.
    pub fn stem(&self) -> &str {
        &self.stem
    }

    /// How its rows are called.
    pub fn numbering(&self) -> &Numbering {
        &self.numbering
    }

    /// Reads the list and hands its rows to `sink`. What has to be a file for its format is first copied into a
    /// nameless one in `folder`. An error here spoils the whole list.
    pub fn read(self, folder: &Path, sink: &mut Sink<'_>) -> Result<(), Error> {
        let (list, chosen) = (self.numbering.list.as_str(), &self.chosen);
        let stream = match self.opened {
            Opened::Parquet(file) => return parquet::read(file, list, chosen, sink),
            Opened::Stream(stream) => stream,
        };
        let lines = |stream| Lines::new(stream, list);
        match self.format {
            Format::Txt => pump(Text::new(lines(stream)), sink),
            Format::Jsonl => pump(JsonLines::new(lines(stream), chosen.clone()), sink),
            Format::Csv => pump(Delimited::new(lines(stream), Dialect::Csv, chosen)?, sink),
            Format::Tsv => pump(Delimited::new(lines(stream), Dialect::Tsv, chosen)?, sink),
            Format::Json => json::read(stream, list, chosen, sink),
            Format::Parquet => parquet::read(copy(stream, list, folder)?, list, chosen, sink),
        }
    }
}

impl Numbering {
    /// Of a list with lines.
    #[cfg(test)]
    pub fn by_line(list: &str) -> Self {
        Self { list: list.to_owned(), by_line: true }
    }

    /// The list as the user named it.
    pub fn list(&self) -> &str {
        &self.list
    }

    /// An error of the row that has this number.
    pub fn error(&self, line: u64, what: String) -> Error {
        let list = self.list.clone();
        if self.by_line {
            Error::Line { list, line, last: line, what }
        } else {
            Error::Row { list, row: line, what }
        }
    }

    /// The row that has this number, for people.
    pub fn name(&self, line: u64) -> String {
        if self.by_line { format!("line {line}") } else { format!("row {line}") }
    }
}

/// Hands out all rows while somebody wants them.
fn pump(mut rows: impl Pull, sink: &mut Sink<'_>) -> Result<(), Error> {
    loop {
        let row = match rows.next() {
            Ok(Some(row)) => Ok(row),
            Ok(None) => return Ok(()),
            Err(error) if error.is_of_one_row() => Err(error),
            Err(error) => return Err(error),
        };
        if sink(row).is_break() {
            return Ok(());
        }
    }
}

/// A nameless file with all that a stream says; it is gone when the process is, however it ends.
fn copy(mut stream: impl io::Read, list: &str, folder: &Path) -> Result<File, Error> {
    let unwritable =
        |source| Error::Copy { list: list.to_owned(), folder: folder.display().to_string(), source };
    let mut file = tempfile::tempfile_in(folder).map_err(unwritable)?;
    let mut chunk = vec![0; 256 << 10];
    loop {
        let read = match stream.read(&mut chunk) {
            Ok(0) => return Ok(file),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(Error::Read { list: list.to_owned(), source }),
        };
        file.write_all(&chunk[..read]).map_err(unwritable)?;
    }
}

#[cfg(test)]
mod tests;

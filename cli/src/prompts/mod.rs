//! Prompt lists: text, JSON lines, CSV and TSV, read one row at a time.

mod columns;
mod delimited;
mod jsonl;
pub mod limits;
mod lines;
mod row;
mod source;
mod text;

use std::path::Path;

use sanafarm_proto::v1::PromptRow;

pub use columns::Chosen;
pub use source::Format;

use source::Source;

/// The reading of one list: rows in the order of the file. After a [`Error::Line`] the next row can be read.
pub type Rows = Box<dyn Iterator<Item = Result<PromptRow, Error>> + Send>;

/// Why a prompt list, or a line of it, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One row is wrong; the others can still be read.
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
        source: std::io::Error,
    },
}

fn line_range(line: u64, last: u64) -> String {
    if last > line { format!("{line}-{last}") } else { line.to_string() }
}

/// A prompt list that can be read more than once.
#[derive(Debug)]
pub struct PromptList {
    name: String,
    stem: String,
    source: Source,
    format: Format,
    chosen: Chosen,
}

impl PromptList {
    /// Opens a file, or standard input for `-`. What can be read only once, such as a pipe, is first copied
    /// into a nameless file in `spool_folder`. Without a `format` the file's extension decides, then its
    /// first character.
    pub fn open(
        path: &Path,
        format: Option<Format>,
        chosen: Chosen,
        spool_folder: &Path,
    ) -> Result<Self, Error> {
        let is_stdin = path == Path::new("-");
        let name = if is_stdin { "stdin".to_owned() } else { path.display().to_string() };
        let stem = match path.file_stem() {
            Some(stem) if !is_stdin => stem.to_string_lossy().into_owned(),
            Some(_) | None => "stdin".to_owned(),
        };
        let read_error = |source| Error::Read { list: name.clone(), source };
        let source = Source::open(path, spool_folder).map_err(read_error)?;
        let format = match format {
            Some(format) => format,
            None => {
                let known = Format::of_extension(path);
                match known.map_err(|what| Error::List { list: name.clone(), what })? {
                    Some(format) => format,
                    None => source.sniff().map_err(read_error)?,
                }
            }
        };
        Ok(Self { name, stem, source, format, chosen })
    }

    /// The list as the user named it: a path or `stdin`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// File name without its extension, or `stdin`.
    pub fn stem(&self) -> &str {
        &self.stem
    }

    /// Reads the list from its beginning, one reading at a time. An error here spoils the whole list: its
    /// header is wrong or it cannot be read.
    pub fn rows(&self) -> Result<Rows, Error> {
        let reader =
            self.source.reader().map_err(|source| Error::Read { list: self.name.clone(), source })?;
        let lines = lines::Lines::new(reader, &self.name);
        Ok(match self.format {
            Format::Txt => Box::new(text::Text::new(lines)),
            Format::Jsonl => Box::new(jsonl::JsonLines::new(lines, self.chosen.clone())),
            Format::Csv => Box::new(delimited::Delimited::new(lines, delimited::Dialect::Csv, &self.chosen)?),
            Format::Tsv => Box::new(delimited::Delimited::new(lines, delimited::Dialect::Tsv, &self.chosen)?),
        })
    }
}

#[cfg(test)]
mod tests;

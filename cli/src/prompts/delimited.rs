//! CSV and TSV lists: a header, then one record a row.

use std::borrow::Cow;

use sanafarm_proto::v1::PromptRow;

use super::columns::Chosen;
use super::lines::{Lines, MAX_LINE};
use super::shape::Shape;
use super::value::Value;
use super::{Error, Pull};

/// How fields are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// RFC 4180: a field in quotes may hold commas, line ends and doubled quotes.
    Csv,
    /// One record a line. A field in quotes that would be right in RFC 4180 is unquoted; any other quote is
    /// a letter like all others, as TSV files in the wild begin prompts with a quoted word.
    Tsv,
}

impl Dialect {
    fn delimiter(self) -> char {
        match self {
            Self::Csv => ',',
            Self::Tsv => '\t',
        }
    }
}

/// Rows of a CSV or TSV list; blank lines are skipped.
pub struct Delimited {
    lines: Lines,
    dialect: Dialect,
    shape: Shape,
}

impl Delimited {
    /// Reads the header.
    pub fn new(mut lines: Lines, dialect: Dialect, chosen: &Chosen) -> Result<Self, Error> {
        let read = read_record(&mut lines, dialect, |_, fields| Shape::of_header(names(&fields), chosen));
        let Some(shape) = read.map_err(Error::into_header)? else {
            return Err(lines.list_error("empty, not even a header"));
        };
        Ok(Self { lines, dialect, shape })
    }
}

impl Pull for Delimited {
    fn next(&mut self) -> Result<Option<PromptRow>, Error> {
        let shape = &self.shape;
        read_record(&mut self.lines, self.dialect, |line, fields| {
            if fields.len() != shape.len() {
                return Err(format!("{} fields, but the header has {}", fields.len(), shape.len()));
            }
            shape.row(line, fields.into_iter().map(Value::Cell))
        })
    }
}

fn names(header: &[Cow<'_, str>]) -> Vec<String> {
    let name = |(index, name): (usize, &Cow<'_, str>)| match name.trim() {
        "" => format!("column_{}", index + 1),
        name => name.to_owned(),
    };
    header.iter().enumerate().map(name).collect()
}

/// Makes something of the next record, given its first line's number and its fields; `None` after the last.
fn read_record<T>(
    lines: &mut Lines,
    dialect: Dialect,
    make: impl FnOnce(u64, Vec<Cow<'_, str>>) -> Result<T, String>,
) -> Result<Option<T>, Error> {
    if !lines.next_filled()? {
        return Ok(None);
    }
    let line = lines.number();
    let made = match split(lines.line(), dialect) {
        Split::Fields(fields) => make(line, fields),
        Split::Bad(what) => Err(what),
        Split::Open => {
            let text = read_to_quote(lines, line, dialect)?;
            match split(&text, dialect) {
                Split::Fields(fields) => make(line, fields),
                Split::Bad(what) => Err(what),
                Split::Open => Err("a quoted field is not closed".to_owned()),
            }
        }
    };
    made.map(Some).map_err(|what| lines.error_at(line, what))
}

/// The whole text of a record whose first line leaves a quote open.
fn read_to_quote(lines: &mut Lines, line: u64, dialect: Dialect) -> Result<String, Error> {
    let mut text = lines.line().to_owned();
    loop {
        if !lines.next_line()? {
            return Err(lines.error_at(line, "a quoted field is not closed"));
        }
        let more = lines.line();
        if text.len() + more.len() >= MAX_LINE {
            let what = format!("a quoted field is not closed within {} KiB", MAX_LINE / 1024);
            return Err(lines.error_at(line, what));
        }
        text.push('\n');
        text.push_str(more);
        // Only a line with a quote in it can close one.
        if more.contains('"') && !matches!(split(&text, dialect), Split::Open) {
            return Ok(text);
        }
    }
}

enum Split<'t> {
    Fields(Vec<Cow<'t, str>>),
    /// A quoted field goes on in the next line.
    Open,
    Bad(String),
}

fn split(record: &str, dialect: Dialect) -> Split<'_> {
    let delimiter = dialect.delimiter();
    let mut fields = Vec::with_capacity(8);
    let mut rest = record;
    loop {
        let (field, after) = match quoted(rest, delimiter) {
            Quoted::Field(field, after) => (field, after),
            Quoted::No => plain(rest, delimiter),
            Quoted::Open | Quoted::Trailing if dialect == Dialect::Tsv => plain(rest, delimiter),
            Quoted::Open => return Split::Open,
            Quoted::Trailing => {
                return Split::Bad(format!("field {}: text after its closing quote", fields.len() + 1));
            }
        };
        fields.push(field);
        match after {
            Some(after) => rest = after,
            None => return Split::Fields(fields),
        }
    }
}

/// A field and what follows its delimiter.
fn plain(rest: &str, delimiter: char) -> (Cow<'_, str>, Option<&str>) {
    match rest.split_once(delimiter) {
        Some((field, after)) => (Cow::Borrowed(field), Some(after)),
        None => (Cow::Borrowed(rest), None),
    }
}

enum Quoted<'t> {
    /// No quote at the start.
    No,
    /// A whole quoted field and what follows its delimiter.
    Field(Cow<'t, str>, Option<&'t str>),
    /// No closing quote.
    Open,
    /// Something else than a delimiter follows the closing quote.
    Trailing,
}

fn quoted(text: &str, delimiter: char) -> Quoted<'_> {
    let Some(mut rest) = text.strip_prefix('"') else { return Quoted::No };
    let mut field = Cow::Borrowed("");
    loop {
        let Some((part, after)) = rest.split_once('"') else { return Quoted::Open };
        // The first part is borrowed, whatever follows a doubled quote is appended.
        field += part;
        if let Some(after) = after.strip_prefix('"') {
            field += "\"";
            rest = after;
        } else if after.is_empty() {
            return Quoted::Field(field, None);
        } else {
            return match after.strip_prefix(delimiter) {
                Some(after) => Quoted::Field(field, Some(after)),
                None => Quoted::Trailing,
            };
        }
    }
}

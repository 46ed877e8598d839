//! CSV and TSV lists: a header, then one record a row.

use sanafarm_proto::v1::PromptRow;
use serde_json::{Map, Value};

use super::Error;
use super::columns::{self, Chosen, Field};
use super::limits::MAX_COLUMNS;
use super::lines::{Lines, MAX_LINE};
use super::row::{self, Given};

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
    columns: Vec<Column>,
}

struct Column {
    name: String,
    field: Option<Field>,
}

impl Delimited {
    /// Reads the header.
    pub fn new(mut lines: Lines, dialect: Dialect, chosen: &Chosen) -> Result<Self, Error> {
        let Some(header) = read_record(&mut lines, dialect)? else {
            return Err(lines.list_error("empty, not even a header"));
        };
        let columns = columns_of(&header.fields, chosen).map_err(|what| lines.error_at(header.line, what))?;
        Ok(Self { lines, dialect, columns })
    }

    fn row(&self, record: &Record) -> Result<PromptRow, String> {
        if record.fields.len() != self.columns.len() {
            return Err(format!("{} fields, but the header has {}", record.fields.len(), self.columns.len()));
        }
        let mut row = PromptRow { line: record.line, ..PromptRow::default() };
        let mut extra = Map::new();
        for (column, value) in self.columns.iter().zip(&record.fields) {
            match column.field {
                Some(field) => row::set(&mut row, field, &column.name, &Given::Text(value))?,
                None => {
                    extra.insert(column.name.clone(), Value::String(value.clone()));
                }
            }
        }
        row.extra = row::extra_text(extra);
        row::check(&row)?;
        Ok(row)
    }
}

impl Iterator for Delimited {
    type Item = Result<PromptRow, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        match read_record(&mut self.lines, self.dialect) {
            Ok(record) => {
                let record = record?;
                Some(self.row(&record).map_err(|what| self.lines.error_at(record.line, what)))
            }
            Err(error) => Some(Err(error)),
        }
    }
}

fn columns_of(header: &[String], chosen: &Chosen) -> Result<Vec<Column>, String> {
    let names: Vec<String> = header
        .iter()
        .enumerate()
        .map(|(index, name)| match name.trim() {
            "" => format!("column_{}", index + 1),
            name => name.to_owned(),
        })
        .collect();
    let borrowed: Vec<&str> = names.iter().map(String::as_str).collect();
    for (index, name) in borrowed.iter().enumerate() {
        if borrowed[..index].contains(name) {
            return Err(format!("two columns are called `{name}`"));
        }
    }
    let fields = columns::assign(&borrowed, chosen);
    if !fields.contains(&Some(Field::Prompt)) {
        return Err(columns::missing_prompt(&borrowed, chosen));
    }
    if let Some(name) = chosen.all().find(|name| !columns::contains(&borrowed, name)) {
        return Err(columns::missing(name, &borrowed));
    }
    let passed = fields.iter().filter(|field| field.is_none()).count();
    if passed > MAX_COLUMNS {
        return Err(format!("{passed} columns to pass through; the limit is {MAX_COLUMNS}"));
    }
    Ok(names.into_iter().zip(fields).map(|(name, field)| Column { name, field }).collect())
}

struct Record {
    /// Where it begins.
    line: u64,
    fields: Vec<String>,
}

/// The next record; `None` after the last.
fn read_record(lines: &mut Lines, dialect: Dialect) -> Result<Option<Record>, Error> {
    let Some(mut text) = lines.next_filled()? else { return Ok(None) };
    let line = lines.number();
    loop {
        match split(&text, dialect) {
            Split::Fields(fields) => return Ok(Some(Record { line, fields })),
            Split::Bad(what) => return Err(lines.error_at(line, what)),
            Split::Open => append_to_quote(lines, line, &mut text)?,
        }
    }
}

/// Appends lines up to the next one that can close the quote which the record of `line` left open.
fn append_to_quote(lines: &mut Lines, line: u64, text: &mut String) -> Result<(), Error> {
    loop {
        let Some(more) = lines.next_line()? else {
            return Err(lines.error_at(line, "a quoted field is not closed"));
        };
        if text.len() + more.len() >= MAX_LINE {
            let what = format!("a quoted field is not closed within {} KiB", MAX_LINE / 1024);
            return Err(lines.error_at(line, what));
        }
        text.push('\n');
        text.push_str(&more);
        if more.contains('"') {
            return Ok(());
        }
    }
}

enum Split {
    Fields(Vec<String>),
    /// A quoted field goes on in the next line.
    Open,
    Bad(String),
}

fn split(record: &str, dialect: Dialect) -> Split {
    let delimiter = dialect.delimiter();
    let mut fields = Vec::new();
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
fn plain(rest: &str, delimiter: char) -> (String, Option<&str>) {
    match rest.split_once(delimiter) {
        Some((field, after)) => (field.to_owned(), Some(after)),
        None => (rest.to_owned(), None),
    }
}

enum Quoted<'a> {
    /// No quote at the start.
    No,
    /// A whole quoted field and what follows its delimiter.
    Field(String, Option<&'a str>),
    /// No closing quote.
    Open,
    /// Something else than a delimiter follows the closing quote.
    Trailing,
}

fn quoted(text: &str, delimiter: char) -> Quoted<'_> {
    let Some(mut rest) = text.strip_prefix('"') else { return Quoted::No };
    let mut field = String::new();
    loop {
        let Some((part, after)) = rest.split_once('"') else { return Quoted::Open };
        field.push_str(part);
        if let Some(after) = after.strip_prefix('"') {
            field.push('"');
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

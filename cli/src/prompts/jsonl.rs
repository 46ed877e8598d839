//! JSON lines: one object, or one plain string, a line.

use std::collections::HashSet;

use sanafarm_proto::v1::PromptRow;
use serde_json::{Map, Value};

use super::Error;
use super::columns::{self, Chosen, Field};
use super::limits::MAX_COLUMNS;
use super::lines::Lines;
use super::row::{self, Given};

/// Rows of a JSON lines list; blank lines are skipped.
pub struct JsonLines {
    lines: Lines,
    chosen: Chosen,
    /// Columns that were passed through so far.
    passed: HashSet<String>,
}

impl JsonLines {
    /// Reads from the first line.
    pub fn new(lines: Lines, chosen: Chosen) -> Self {
        Self { lines, chosen, passed: HashSet::new() }
    }

    fn row(&mut self, line: &str) -> Result<PromptRow, String> {
        let (mut row, extra) = match parse(line)? {
            Value::String(prompt) => (PromptRow { prompt, ..PromptRow::default() }, Map::new()),
            Value::Object(object) => row_of(&object, &self.chosen)?,
            other => return Err(format!("expected an object or a string, found {}", row::kind(&other))),
        };
        row.line = self.lines.number();
        let fresh: Vec<String> = extra.keys().filter(|name| !self.passed.contains(*name)).cloned().collect();
        row.extra = row::extra_text(extra);
        row::check(&row)?;
        if self.passed.len() + fresh.len() > MAX_COLUMNS {
            return Err(format!("more than {MAX_COLUMNS} different columns to pass through in one list"));
        }
        self.passed.extend(fresh);
        Ok(row)
    }
}

impl Iterator for JsonLines {
    type Item = Result<PromptRow, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.lines.next_filled() {
            Ok(line) => {
                let row = self.row(&line?);
                Some(row.map_err(|what| self.lines.error(what)))
            }
            Err(error) => Some(Err(error)),
        }
    }
}

fn parse(line: &str) -> Result<Value, String> {
    serde_json::from_str(line).map_err(|error| {
        let text = error.to_string();
        // serde_json counts lines inside the text that it was given, which is always one.
        let what = text.split(" at line ").next().unwrap_or(&text);
        format!("bad JSON at column {}: {what}", error.column())
    })
}

/// What a line says, and what it passes through.
fn row_of(object: &Map<String, Value>, chosen: &Chosen) -> Result<(PromptRow, Map<String, Value>), String> {
    let names: Vec<&str> = object.keys().map(String::as_str).collect();
    let fields = columns::assign(&names, chosen);
    if !fields.contains(&Some(Field::Prompt)) {
        return Err(columns::missing_prompt(&names, chosen));
    }
    let mut row = PromptRow::default();
    let mut extra = Map::new();
    for ((name, value), field) in object.iter().zip(fields) {
        match field {
            Some(field) => row::set(&mut row, field, name, &Given::Json(value))?,
            None => {
                extra.insert(name.clone(), value.clone());
            }
        }
    }
    Ok((row, extra))
}

//! JSON lines: one object, or one plain string, a line.

use sanafarm_proto::v1::PromptRow;

use super::columns::Chosen;
use super::lines::Lines;
use super::objects::{Item, Objects};
use super::{Error, Pull};

/// Rows of a JSON lines list; blank lines are skipped.
pub struct JsonLines {
    lines: Lines,
    objects: Objects,
}

impl JsonLines {
    /// Reads from the first line.
    pub fn new(lines: Lines, chosen: Chosen) -> Self {
        Self { lines, objects: Objects::new(chosen) }
    }
}

impl Pull for JsonLines {
    fn next(&mut self) -> Result<Option<PromptRow>, Error> {
        if !self.lines.next_filled()? {
            return Ok(None);
        }
        let row = parse(self.lines.line()).and_then(|item| self.objects.row(self.lines.number(), item));
        row.map(Some).map_err(|what| self.lines.error(what))
    }
}

fn parse(line: &str) -> Result<Item<'_>, String> {
    serde_json::from_str(line).map_err(|error| {
        let text = error.to_string();
        // serde_json counts lines inside the text that it was given, which is always one.
        let what = text.split(" at line ").next().unwrap_or(&text);
        format!("bad JSON at column {}: {what}", error.column())
    })
}

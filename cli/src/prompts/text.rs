//! Text lists: one prompt a line.

use sanafarm_proto::v1::PromptRow;

use super::lines::Lines;
use super::row;
use super::{Error, Pull};

/// Rows of a text list; blank lines are skipped.
pub struct Text {
    lines: Lines,
}

impl Text {
    /// Reads from the first line.
    pub fn new(lines: Lines) -> Self {
        Self { lines }
    }
}

impl Pull for Text {
    fn next(&mut self) -> Result<Option<PromptRow>, Error> {
        if !self.lines.next_filled()? {
            return Ok(None);
        }
        let prompt = self.lines.line().to_owned();
        let row = PromptRow { prompt, line: self.lines.number(), ..PromptRow::default() };
        row::check(&row).map_err(|what| self.lines.error(what))?;
        Ok(Some(row))
    }
}

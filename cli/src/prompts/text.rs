//! Text lists: one prompt a line.

use sanafarm_proto::v1::PromptRow;

use super::Error;
use super::lines::Lines;
use super::row;

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

impl Iterator for Text {
    type Item = Result<PromptRow, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let prompt = match self.lines.next_filled() {
            Ok(line) => line?,
            Err(error) => return Some(Err(error)),
        };
        let row = PromptRow { prompt, line: self.lines.number(), ..PromptRow::default() };
        Some(row::check(&row).map(|()| row).map_err(|what| self.lines.error(what)))
    }
}

//! Which rows of a list are taken. Both readings of a list use this, so that they see the same rows.

use sanafarm_proto::v1::{BinMode, PromptRow, Settings};

use crate::args::SubmissionArgs;
use crate::prompts::{Error, PromptList, Rows};

/// Sides of a picture that the model renders as asked are multiples of this.
pub const SIDE_UNIT: u32 = 32;

/// What the command line says about which rows to take.
#[derive(Clone, Debug)]
pub struct Selection {
    limit: u64,
    skip_invalid: bool,
    settings: Settings,
}

/// A row, or a line that was skipped.
#[derive(Debug)]
pub enum Taken {
    /// A good row.
    Row(PromptRow),
    /// A bad line, and what is wrong with it.
    Skipped(Error),
}

impl Selection {
    /// From the command line; `settings` are the job's.
    pub fn new(args: &SubmissionArgs, settings: &Settings) -> Self {
        Self { limit: args.limit.unwrap_or(u64::MAX), skip_invalid: args.skip_invalid, settings: *settings }
    }

    /// Reads the list from its beginning.
    pub fn rows(&self, list: &PromptList) -> Result<SelectedRows, Error> {
        Ok(SelectedRows {
            rows: list.rows()?,
            list: list.name().to_owned(),
            left: self.limit,
            selection: self.clone(),
        })
    }

    /// Width and height that a row will be rendered at.
    pub fn size(&self, row: &PromptRow) -> (u32, u32) {
        (row.width.unwrap_or(self.settings.width), row.height.unwrap_or(self.settings.height))
    }

    fn check(&self, list: &str, row: &PromptRow) -> Result<(), Error> {
        let (width, height) = self.size(row);
        let fits = width.is_multiple_of(SIDE_UNIT) && height.is_multiple_of(SIDE_UNIT);
        if fits || self.settings.bin() != BinMode::Never {
            return Ok(());
        }
        let what = format!("{width}x{height} is no multiple of {SIDE_UNIT}, which --bin never asks for");
        Err(Error::Line { list: list.to_owned(), line: row.line, what })
    }
}

/// The rows that are taken, in the order of the list.
pub struct SelectedRows {
    rows: Rows,
    list: String,
    left: u64,
    selection: Selection,
}

impl Iterator for SelectedRows {
    type Item = Result<Taken, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let row = self.rows.next()?;
        match row.and_then(|row| self.selection.check(&self.list, &row).map(|()| row)) {
            Ok(row) => {
                self.left -= 1;
                Some(Ok(Taken::Row(row)))
            }
            Err(error @ Error::Line { .. }) if self.selection.skip_invalid => Some(Ok(Taken::Skipped(error))),
            Err(error) => Some(Err(error)),
        }
    }
}

//! Which rows of a list are taken. Both readings of a list use this, so that they see the same rows.

use std::collections::HashSet;

use sanafarm_proto::v1::PromptRow;

use crate::args::{Bin, Size, SubmissionArgs};
use crate::prompts::limits::MAX_GROUPS;
use crate::prompts::{Error, PromptList, Rows};

/// Sides of a picture that the model renders as asked are multiples of this.
pub const SIDE_UNIT: u32 = 32;

/// What the command line says about which rows to take.
#[derive(Clone, Debug)]
pub struct Selection {
    limit: u64,
    skip_invalid: bool,
    size: Option<Size>,
    bin: Bin,
    steps: Option<u32>,
    guidance: f64,
}

/// Width and height that a row asks for; `None` for what the model's native size decides.
pub type WantedSize = (Option<u32>, Option<u32>);

/// A row, or a line that was skipped.
#[derive(Debug)]
pub enum Taken {
    /// A good row.
    Row(PromptRow),
    /// A bad line, and what is wrong with it.
    Skipped(Error),
}

impl Selection {
    /// From the command line.
    pub fn new(args: &SubmissionArgs) -> Self {
        Self {
            limit: args.limit.unwrap_or(u64::MAX),
            skip_invalid: args.skip_invalid,
            size: args.size,
            bin: args.bin,
            steps: args.steps,
            guidance: args.guidance,
        }
    }

    /// Reads the list from its beginning.
    pub fn rows(&self, list: &PromptList) -> Result<SelectedRows, Error> {
        Ok(SelectedRows {
            rows: list.rows()?,
            list: list.name().to_owned(),
            left: self.limit,
            selection: self.clone(),
            groups: HashSet::new(),
        })
    }

    /// The size that a row asks for, by itself or through the command line.
    pub fn size(&self, row: &PromptRow) -> WantedSize {
        let width = row.width.or(self.size.map(|size| size.width));
        let height = row.height.or(self.size.map(|size| size.height));
        (width, height)
    }

    fn group(&self, row: &PromptRow) -> Group {
        // 0.0 and -0.0 are one guidance.
        let guidance = row.guidance.unwrap_or(self.guidance) + 0.0;
        (self.size(row), row.steps.or(self.steps), guidance.to_bits())
    }

    fn check(&self, row: &PromptRow) -> Result<(), String> {
        if self.bin != Bin::Never {
            return Ok(());
        }
        let (width, height) = self.size(row);
        for (name, side) in [("width", width), ("height", height)] {
            // Native sizes are such multiples.
            if let Some(side) = side.filter(|side| !side.is_multiple_of(SIDE_UNIT)) {
                return Err(format!(
                    "{name} {side} is no multiple of {SIDE_UNIT}, which --bin never asks for"
                ));
            }
        }
        Ok(())
    }
}

/// The rows that are taken, in the order of the list.
pub struct SelectedRows {
    rows: Rows,
    list: String,
    left: u64,
    selection: Selection,
    /// Different settings seen so far.
    groups: HashSet<Group>,
}

/// Size, steps and guidance that rows ask for: a job has only so many different ones. Without steps it is the model that
/// decides.
type Group = (WantedSize, Option<u32>, u64);

impl SelectedRows {
    /// Checks what depends on the command line or on the rows before.
    fn check(&mut self, row: PromptRow) -> Result<PromptRow, Error> {
        let checked = self.selection.check(&row).and_then(|()| {
            let group = self.selection.group(&row);
            if self.groups.len() == MAX_GROUPS && !self.groups.contains(&group) {
                return Err(format!(
                    "more than {MAX_GROUPS} different sizes, steps and guidance scales in one list"
                ));
            }
            self.groups.insert(group);
            Ok(())
        });
        let failed = |what| Error::Line { list: self.list.clone(), line: row.line, last: row.line, what };
        checked.map_err(failed).map(|()| row)
    }
}

impl Iterator for SelectedRows {
    type Item = Result<Taken, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let row = self.rows.next()?;
        match row.and_then(|row| self.check(row)) {
            Ok(row) => {
                self.left -= 1;
                Some(Ok(Taken::Row(row)))
            }
            Err(error @ Error::Line { .. }) if self.selection.skip_invalid => Some(Ok(Taken::Skipped(error))),
            Err(error) => Some(Err(error)),
        }
    }
}

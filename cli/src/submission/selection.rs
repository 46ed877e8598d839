//! Which rows of a list are taken, and what is wrong with the others.

use std::collections::HashSet;

use sanafarm_proto::v1::PromptRow;

use crate::args::{Bin, Size, SubmissionArgs};
use crate::prompts::limits::MAX_GROUPS;
use crate::prompts::{Error, Numbering};

/// Sides of a picture that the model renders as asked are multiples of this.
pub const SIDE_UNIT: u32 = 32;

/// Width and height that a row asks for; `None` for what the model's native size decides.
pub type WantedSize = (Option<u32>, Option<u32>);

/// Size, steps and guidance that rows ask for: a job has only so many different ones. Without steps it is the model that
/// decides.
type Group = (WantedSize, Option<u32>, u64);

/// Judges the rows of one list, in their order.
#[derive(Debug)]
pub struct Selection {
    numbering: Numbering,
    /// Rows that may still be taken.
    left: u64,
    size: Option<Size>,
    bin: Bin,
    steps: Option<u32>,
    guidance: f64,
    /// Different settings seen so far.
    groups: HashSet<Group>,
    /// Those of the row before: mostly the next row has the same.
    last: Option<Group>,
}

impl Selection {
    /// From the command line, for a list with rows that are called so.
    pub fn new(args: &SubmissionArgs, numbering: Numbering) -> Self {
        Self {
            numbering,
            left: args.limit.unwrap_or(u64::MAX),
            size: args.size,
            bin: args.bin,
            steps: args.steps,
            guidance: args.guidance,
            groups: HashSet::new(),
            last: None,
        }
    }

    /// Checks what depends on the command line or on the rows before.
    pub fn judge(&mut self, row: Result<PromptRow, Error>) -> Result<PromptRow, Error> {
        let row = row?;
        match self.check(&row) {
            Ok(()) => {
                self.left -= 1;
                Ok(row)
            }
            Err(what) => Err(self.numbering.error(row.line, what)),
        }
    }

    /// Whether more rows may be taken.
    pub fn wants_more(&self) -> bool {
        self.left > 0
    }

    /// Sizes that the taken rows ask for.
    pub fn sizes(&self) -> impl Iterator<Item = WantedSize> {
        self.groups.iter().map(|(size, _, _)| *size)
    }

    fn check(&mut self, row: &PromptRow) -> Result<(), String> {
        let width = row.width.or(self.size.map(|size| size.width));
        let height = row.height.or(self.size.map(|size| size.height));
        // 0.0 and -0.0 are one guidance.
        let guidance = row.guidance.unwrap_or(self.guidance) + 0.0;
        let group = ((width, height), row.steps.or(self.steps), guidance.to_bits());
        if self.last == Some(group) {
            return Ok(());
        }
        if self.bin == Bin::Never {
            for (name, side) in [("width", width), ("height", height)] {
                // Native sizes are such multiples.
                if let Some(side) = side.filter(|side| !side.is_multiple_of(SIDE_UNIT)) {
                    return Err(format!(
                        "{name} {side} is no multiple of {SIDE_UNIT}, which --bin never asks for"
                    ));
                }
            }
        }
        if self.groups.len() == MAX_GROUPS && !self.groups.contains(&group) {
            return Err(format!(
                "more than {MAX_GROUPS} different sizes, steps and guidance scales in one list"
            ));
        }
        self.groups.insert(group);
        self.last = Some(group);
        Ok(())
    }
}

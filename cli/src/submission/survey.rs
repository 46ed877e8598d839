//! The first reading of a list: is every line good, how many are there, and what exactly do they say.

use std::collections::BTreeSet;

use prost::Message;
use sanafarm_proto::v1::PromptRow;
use sha2::{Digest, Sha256};

use super::selection::{Selection, Taken, WantedSize};
use crate::error::Error;
use crate::prompts::{self, PromptList};

/// Sizes that are remembered for warnings: a list of many more is of any size at all.
const MAX_SIZES: usize = 1000;
/// Skipped lines that are remembered; the others are only counted.
const MAX_SKIPPED: usize = 10_000;

/// What a list holds.
#[derive(Debug)]
pub struct Survey {
    /// Rows that were taken.
    pub rows: u64,
    /// Over all that the rows say, in hex.
    pub content_sha256: String,
    /// Lines that were skipped.
    pub skipped: Skipped,
    /// Sizes that the rows ask for.
    pub sizes: BTreeSet<WantedSize>,
}

/// Bad lines that `--skip-invalid` left out.
#[derive(Debug, Default)]
pub struct Skipped {
    /// How many lines.
    pub count: u64,
    /// How many rows they were meant to be: a quoted field may hold line ends.
    pub rows: u64,
    /// What is wrong with the first rows, each named by list and line.
    pub first: Vec<String>,
}

impl Survey {
    /// Reads the list once.
    pub fn take(list: &PromptList, selection: &Selection) -> Result<Self, Error> {
        let mut hash = ContentHash::default();
        let mut skipped = Skipped::default();
        let mut sizes = BTreeSet::new();
        for taken in selection.rows(list).map_err(|error| header_error(&error))? {
            match taken.map_err(|error| list_error(&error))? {
                Taken::Row(row) => {
                    if sizes.len() < MAX_SIZES {
                        sizes.insert(selection.size(&row));
                    }
                    hash.add(row);
                }
                Taken::Skipped(error) => {
                    skipped.count += lines(&error);
                    skipped.rows += 1;
                    if skipped.first.len() < MAX_SKIPPED {
                        skipped.first.push(error.to_string());
                    }
                }
            }
        }
        if hash.rows() == 0 {
            return Err(no_rows(list, &skipped));
        }
        Ok(Self { rows: hash.rows(), content_sha256: hash.finish(), skipped, sizes })
    }
}

/// What the user reads when the header of a list is wrong: no line can be skipped for that.
fn header_error(error: &prompts::Error) -> Error {
    match error {
        prompts::Error::Line { .. } => Error::mistake(error.to_string())
            .hint("nothing was started; mend the header, or name the prompt's column with --prompt-column"),
        prompts::Error::List { .. } | prompts::Error::Read { .. } => list_error(error),
    }
}

/// Lines that a bad row takes.
fn lines(error: &prompts::Error) -> u64 {
    match error {
        prompts::Error::Line { line, last, .. } => last - line + 1,
        prompts::Error::List { .. } | prompts::Error::Read { .. } => 1,
    }
}

/// What the user reads when a list cannot be used.
pub fn list_error(error: &prompts::Error) -> Error {
    match error {
        prompts::Error::Line { .. } => Error::mistake(error.to_string())
            .hint("nothing was started; mend the line, or skip bad lines with --skip-invalid"),
        prompts::Error::List { .. } => Error::mistake(error.to_string()),
        prompts::Error::Read { list, source } => Error::mistake(format!("read prompt list {list}"))
            .caused_by(source)
            .hint("name a file that can be read, or - for standard input"),
    }
}

fn no_rows(list: &PromptList, skipped: &Skipped) -> Error {
    let error = Error::mistake(format!("{}: no prompt in the list", list.name()));
    match skipped.first.first() {
        Some(first) => {
            error.because(first.clone()).hint(format!("all {} lines were skipped as bad", skipped.count))
        }
        None => error.hint("write one prompt a line, or see `sanafarm render --help` for other formats"),
    }
}

/// A checksum over what rows say. Line numbers are no part of it: a blank line more changes no picture.
#[derive(Debug, Default)]
pub struct ContentHash {
    sha256: Sha256,
    rows: u64,
}

impl ContentHash {
    /// Adds a row. Its protobuf encoding is the same for the same content: it has no maps.
    pub fn add(&mut self, mut row: PromptRow) {
        row.line = 0;
        self.sha256.update(row.encode_length_delimited_to_vec());
        self.rows += 1;
    }

    /// Rows added.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The checksum in hex.
    pub fn finish(self) -> String {
        hex(&self.sha256.finalize())
    }
}

/// Bytes as hex digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

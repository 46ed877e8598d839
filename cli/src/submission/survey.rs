//! The reading of a list: is every row good, how many are there, and what exactly do they say.
//!
//! One thread reads and checks, another encodes and writes what is good to the spool.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Instant;

use sanafarm_proto::v1::PromptRow;

use super::selection::{Selection, WantedSize};
use super::spool::{Spool, Writer};
use crate::error::Error;
use crate::prompts::{self, PromptList};

/// Skipped lines that are remembered; the others are only counted.
const MAX_SKIPPED: usize = 10_000;
/// Bad rows that are told of a list that is refused; nothing more is read then.
const MAX_TOLD: usize = 20;
/// Rows that go from thread to thread at a time, and the bytes of text in them.
const CHUNK_ROWS: usize = 512;
const CHUNK_BYTES: usize = 1 << 20;
/// Chunks under way.
const CHUNKS: usize = 4;

/// What a list holds.
#[derive(Debug)]
pub struct Survey {
    /// The rows that were taken.
    pub spool: Spool,
    /// Lines that were skipped.
    pub skipped: Skipped,
    /// Sizes that the rows ask for.
    pub sizes: BTreeSet<WantedSize>,
}

/// Bad lines that were left out.
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
    /// Reads the list; good rows are written to a nameless file in `folder`. Bad rows are an error, which tells the first
    /// of them, unless `skip` says to leave such rows out. `progress` is told how many more rows were read.
    pub fn take(
        list: PromptList,
        mut selection: Selection,
        skip: bool,
        folder: &Path,
        progress: impl Fn(usize),
    ) -> Result<Self, Error> {
        let started = Instant::now();
        let writer = Writer::new(folder)?;
        let name = list.name().to_owned();
        let mut skipped = Skipped::default();
        let spool = thread::scope(|scope| {
            let (sender, receiver) = sync_channel(CHUNKS);
            let encoder = scope.spawn(|| encode(receiver, writer));
            let mut chunk = Chunk::default();
            let mut refused = Vec::new();
            let read = list.read(folder, &mut |row| {
                match selection.judge(row) {
                    // Nothing is made of a list that is refused.
                    Ok(_) if !refused.is_empty() => {}
                    Ok(row) => chunk.add(row),
                    Err(error) if skip => skipped.add(&error),
                    Err(error) => {
                        refused.push(error);
                        if refused.len() == MAX_TOLD || !refused[0].is_of_one_row() {
                            return ControlFlow::Break(());
                        }
                    }
                }
                // The encoder leaves early only when it cannot write.
                let lost = chunk.is_full() && {
                    progress(chunk.rows.len());
                    sender.send(chunk.take()).is_err()
                };
                if lost || !selection.wants_more() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            });
            if read.is_ok() && refused.is_empty() {
                // As above: what the encoder says explains it.
                let _ = sender.send(chunk.take());
            }
            drop(sender);
            let encoded = encoder.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            match (read, refused.as_slice()) {
                (Ok(()), []) => encoded,
                (Err(error), []) => Err(list_error(&error)),
                (read, refused) => Err(bad_rows(&name, refused, read.is_err())),
            }
        })?;
        tracing::debug!(
            list = name,
            rows = spool.rows,
            seconds = started.elapsed().as_secs_f64(),
            "list read"
        );
        if spool.rows == 0 {
            return Err(no_rows(&name, &skipped));
        }
        Ok(Self { spool, skipped, sizes: selection.sizes().collect() })
    }
}

fn encode(chunks: Receiver<Vec<PromptRow>>, mut writer: Writer) -> Result<Spool, Error> {
    for rows in chunks {
        rows.iter().try_for_each(|row| writer.add(row))?;
    }
    writer.finish()
}

#[derive(Default)]
struct Chunk {
    rows: Vec<PromptRow>,
    bytes: usize,
}

impl Chunk {
    fn add(&mut self, row: PromptRow) {
        if self.rows.capacity() == 0 {
            self.rows.reserve_exact(CHUNK_ROWS);
        }
        self.bytes += row.prompt.len() + row.extra.len();
        self.rows.push(row);
    }

    fn is_full(&self) -> bool {
        self.rows.len() >= CHUNK_ROWS || self.bytes >= CHUNK_BYTES
    }

    fn take(&mut self) -> Vec<PromptRow> {
        self.bytes = 0;
        std::mem::take(&mut self.rows)
    }
}

impl Skipped {
    fn add(&mut self, error: &prompts::Error) {
        self.count += error.lines();
        self.rows += 1;
        if self.first.len() < MAX_SKIPPED {
            self.first.push(error.to_string());
        }
    }
}

/// What the user reads of bad rows; the list may hold more of them when it was not read to its end.
fn bad_rows(list: &str, bad: &[prompts::Error], broken_off: bool) -> Error {
    let [first, _, ..] = bad else { return bad.first().map_or_else(|| Error::mistake(list), list_error) };
    let more = broken_off || bad.len() == MAX_TOLD;
    let error = Error::mistake(match more {
        true => format!("{list}: the first {} bad rows", bad.len()),
        false => format!("{list}: {} bad rows", bad.len()),
    });
    let error = bad.iter().fold(error, |error, bad| error.because(bad.to_string()));
    let hint = match (is_about_columns(first), more) {
        (true, _) => return error.hint(COLUMN_HINT),
        (false, true) => "nothing was started; --dry-run lists all bad lines, --skip-invalid skips them",
        (false, false) => "nothing was started; mend the lines, or skip bad lines with --skip-invalid",
    };
    error.hint(hint)
}

const COLUMN_HINT: &str =
    "nothing was started; mend the lines, or name the prompt's column with --prompt-column";

/// Whether a row has not the column of the prompt: often none has it, and all would be skipped.
fn is_about_columns(error: &prompts::Error) -> bool {
    use prompts::Error as Wrong;
    match error {
        Wrong::Line { what, .. } | Wrong::Row { what, .. } => what.starts_with("no column "),
        Wrong::Header { .. } | Wrong::List { .. } | Wrong::Read { .. } | Wrong::Copy { .. } => false,
    }
}

/// What the user reads when a list cannot be used.
pub fn list_error(error: &prompts::Error) -> Error {
    use prompts::Error as Wrong;
    match error {
        _ if is_about_columns(error) => Error::mistake(error.to_string()).hint(COLUMN_HINT),
        Wrong::Line { .. } | Wrong::Row { .. } => Error::mistake(error.to_string())
            .hint("nothing was started; mend the line, or skip bad lines with --skip-invalid"),
        Wrong::Header { .. } => Error::mistake(error.to_string())
            .hint("nothing was started; mend the header, or name the prompt's column with --prompt-column"),
        Wrong::List { .. } => Error::mistake(error.to_string()),
        Wrong::Read { source, .. } => Error::mistake(error.to_string())
            .caused_by(source)
            .hint(error.advice().unwrap_or("name a file that can be read, or - for standard input")),
        Wrong::Copy { source, .. } => Error::mistake(error.to_string())
            .caused_by(source)
            .hint("free some space there, or name another folder with --data"),
    }
}

fn no_rows(list: &str, skipped: &Skipped) -> Error {
    let error = Error::mistake(format!("{list}: no prompt in the list"));
    match skipped.first.first() {
        Some(first) => {
            error.because(first.clone()).hint(format!("all {} lines were skipped as bad", skipped.count))
        }
        None => error.hint("write one prompt a line, or see `sanafarm render --help` for other formats"),
    }
}

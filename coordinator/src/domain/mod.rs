//! The rules of the farm as pure functions: no I/O, no clock, no randomness of their own.
//!
//! - [`state`]: the states of jobs, shards, leases and images, and all legal moves between them
//! - [`settings`], [`spec`]: what can be asked for, and the limits of it
//! - [`form`]: the file of a picture, and how pictures lie in the output; [`archive`]: the names of tars
//! - [`append`]: outputs that several jobs share
//! - [`template`], [`seed`]: the name and the seed of every image
//! - [`shard`]: how a stream of images is cut into shards
//! - [`schedule`]: which job's shard a worker gets
//! - [`waiting`]: which jobs a job waits for, and when it is cancelled without anybody's wish
//! - [`explain`]: why the parts of a job wait
//! - [`tail`]: what idle workers take over from others at the end of a job
//! - [`scaling`]: how much there is to do for workers of one sort
//! - [`webhook`]: where webhooks may go, and when one is tried again
//! - [`amount`]: numbers with units
//! - [`leaving`]: how a worker is asked to leave
//! - [`listing`]: the objects that an output may hold
//! - [`signing`]: which objects a worker without keys may reach
//! - [`event`]: what the history tells of
//! - [`speed`]: what images took, and what others would take by that
//! - [`submission`]: all of the above, over the rows of one job as they stream in
//! - [`blame`]: what an error or a loss costs an image
//! - [`access`]: who may call what
//! - [`statement`]: which SQL an analyst may run

pub mod access;
pub mod amount;
pub mod append;
pub mod archive;
pub mod blame;
pub mod event;
pub mod explain;
pub mod form;
pub mod id;
pub mod leaving;
pub mod listing;
pub mod scaling;
pub mod schedule;
pub mod seed;
pub mod settings;
pub mod shard;
pub mod signing;
pub mod spec;
pub mod speed;
pub mod state;
pub mod statement;
pub mod submission;
pub mod tail;
pub mod template;
pub mod waiting;
pub mod webhook;
pub(crate) mod word;

pub use word::UnknownWord;

/// Input that is refused: where it is and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Invalid {
    /// Line in the prompt list, counted from 1; none for the job as a whole.
    pub line: Option<u64>,
    /// What is wrong and what would be right.
    pub what: String,
}

impl Invalid {
    /// Something about the job as a whole.
    pub fn job(what: impl Into<String>) -> Self {
        Self { line: None, what: what.into() }
    }

    /// The same complaint, about this line.
    pub fn at_line(mut self, line: u64) -> Self {
        self.line = Some(line);
        self
    }
}

impl std::fmt::Display for Invalid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

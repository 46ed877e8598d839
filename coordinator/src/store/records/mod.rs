//! What goes into a store and comes out of it.

mod archives;
mod demand;
mod jobs;
mod overview;
mod stats;
mod stories;
mod tokens;
mod webhooks;
mod workers;

pub use archives::*;
pub use demand::*;
pub use jobs::*;
pub use overview::*;
pub use stats::*;
pub use stories::*;
pub use tokens::*;
pub use webhooks::*;
pub use workers::*;

/// What a restart found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Leases of workers that lived in the process that ended.
    pub released: u64,
    /// Submissions that were never sealed.
    pub abandoned: u64,
}

/// What no two coordinators do at the same time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Taking back what nobody holds any more.
    Sweep,
    /// Cancelling jobs that wait in vain or have no time left.
    CallOff,
    /// Deleting what is left of abandoned submissions.
    Purge,
    /// Writing the manifest of this output and ending a job of it.
    Finish(String),
    /// Giving the tars of this output their final names.
    Publish(String),
}

/// The right to do a duty alone, until it is dropped.
pub struct Turn {
    /// Whatever keeps the others out.
    _held: Option<Box<dyn std::any::Any + Send + Sync>>,
}

impl Turn {
    /// For a database that has one coordinator only.
    pub fn alone() -> Self {
        Self { _held: None }
    }

    /// As long as this is held.
    pub fn held(by: impl std::any::Any + Send + Sync) -> Self {
        Self { _held: Some(Box::new(by)) }
    }
}

/// A part of the answer to an analyst's SQL.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Names of the columns: first, and once.
    Columns(Vec<String>),
    /// Some rows.
    Rows(Vec<Vec<Cell>>),
}

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Nothing.
    Null,
    /// A whole number.
    Integer(i64),
    /// Any other number.
    Real(f64),
    /// Text.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

//! A farm in figures.

use jiff::Timestamp;

use crate::domain::state::JobState;

/// A farm in figures.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overview {
    /// Sealed jobs in each state that there are jobs in.
    pub jobs: Vec<(JobState, u64)>,
    /// Jobs that may run now, in order of submission.
    pub queue: Vec<Queued>,
    /// Open sessions.
    pub workers: u64,
}

/// A job that may run now.
#[derive(Clone, Debug, PartialEq)]
pub struct Queued {
    /// As it names it.
    pub model: String,
    /// Without a result.
    pub images: u64,
    /// When the last row was in.
    pub submitted_at: Timestamp,
    /// It has a shard that nobody holds.
    pub ready: bool,
    /// Seconds that its last images took on their devices; none when none was rendered.
    pub pace: Option<f64>,
}

/// Connections to a database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// Waiting for use.
    pub idle: u32,
    /// In use.
    pub busy: u32,
}

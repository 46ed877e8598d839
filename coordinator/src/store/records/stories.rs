//! What the history tells of a job, an image or a worker.

use jiff::Timestamp;

use crate::domain::id::{JobId, SessionId, ShardId};
use crate::domain::schedule::Device;
use crate::store::records::Image;

/// Whose events are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Those of a job.
    Job(JobId),
    /// Those of a worker.
    Worker(OfWorker),
}

/// All sessions of a worker, or one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfWorker {
    /// Its lasting name.
    pub worker: String,
    /// None for all.
    pub session: Option<SessionId>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct EventRecord {
    /// Its place in the history; 0 for what an image's story tells besides.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// The word of an [`EventKind`](crate::domain::event::EventKind), or of an [`ImageKind`](crate::domain::event::ImageKind).
    pub kind: String,
    /// Its job.
    pub job: Option<JobId>,
    /// Its shard.
    pub shard: Option<ShardId>,
    /// Of the shard.
    pub range: Option<Range>,
    /// Its image.
    pub index: Option<u64>,
    /// Its attempt.
    pub attempt: Option<u32>,
    /// Its session.
    pub session: Option<SessionId>,
    /// Of that session; empty when there is none.
    pub worker: String,
    /// What a session that was opened has.
    pub devices: Vec<Device>,
    /// More of it, as a JSON object.
    pub detail: String,
    /// Who wanted it.
    pub actor: String,
    /// Why; empty when nothing was said.
    pub reason: String,
}

/// What a worker logged about an image in one attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptLog {
    /// Which.
    pub attempt: u32,
    /// None when it is not known.
    pub session: Option<SessionId>,
    /// Of that session.
    pub worker: String,
    /// What the image was rendered on.
    pub device: String,
    /// When it was reported.
    pub at: Timestamp,
    /// Lines of text.
    pub log: String,
}

/// Images of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Lowest index.
    pub first: u64,
    /// Highest index; others may lie between.
    pub last: u64,
    /// How many.
    pub images: u64,
}

/// Where the newest events of somebody begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Newest {
    /// The first of them.
    pub from: u64,
    /// Events before it.
    pub older: u64,
}

/// What came of a job's or a worker's leases.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Yield {
    /// Pictures that were made.
    pub done: u64,
    /// Images that were given up.
    pub failed: u64,
    /// On the devices, those of images that were given up included.
    pub device_seconds: f64,
    /// Workers that held a lease.
    pub workers: u64,
}

/// What happened to an image, oldest first, and how it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageStory {
    /// As it is now.
    pub image: Image,
    /// Its job's events that concern it, and what its results and errors tell.
    pub events: Vec<EventRecord>,
    /// Times that a worker was lost while it rendered the image.
    pub losses: u64,
    /// Worker that has it in its lease; none when nobody has.
    pub held_by: Option<String>,
}

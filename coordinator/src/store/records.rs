//! What goes into a store and comes out of it.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::domain::blame::ErrorClass;
use crate::domain::id::{JobId, SessionId, ShardId};
use crate::domain::schedule::{Choice, Device, Needs};
use crate::domain::settings::Settings;
use crate::domain::state::{ImageState, JobState};

/// A sealed job.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Names it.
    pub id: JobId,
    /// For people.
    pub name: String,
    /// For people.
    pub owner: String,
    /// A folder as workers see it, or the name of the bundled model.
    pub model: String,
    /// Where its pictures go.
    pub output: String,
    /// Where it stands.
    pub state: JobState,
    /// All its images.
    pub images: u64,
    /// Images whose picture is committed.
    pub done: u64,
    /// Images that were given up.
    pub failed: u64,
    /// When the last row was in.
    pub submitted_at: Timestamp,
    /// First lease.
    pub started_at: Option<Timestamp>,
    /// End of it.
    pub finished_at: Option<Timestamp>,
    /// The most frequent error of its first thousand failed images.
    pub error: Option<String>,
    /// It is complete but its output cannot be written; cleared when it ends.
    pub output_error: Option<String>,
    /// Where a row says nothing else.
    pub settings: Settings,
    /// Higher goes first.
    pub priority: i32,
    /// What a worker must have.
    pub needs: Needs,
}

/// What `begin_job` found.
#[derive(Clone, Debug, PartialEq)]
pub enum Begun {
    /// Room for a new job.
    New(JobId),
    /// A sealed job has this client token.
    Existing(Box<Job>),
}

/// An image with what became of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// Place in the job.
    pub index: u64,
    /// Where it stands.
    pub state: ImageState,
    /// What it shows.
    pub prompt: String,
    /// What it does not show.
    pub negative_prompt: String,
    /// Seed of the starting noise.
    pub seed: u64,
    /// Size and sampling.
    pub settings: Settings,
    /// Name below the job's output.
    pub object: String,
    /// Its result, if it has one.
    pub result: Option<ResultRecord>,
}

/// The committed record of an image.
#[derive(Clone, Debug, PartialEq)]
pub struct ResultRecord {
    /// Size of the stored object.
    pub bytes: Option<u64>,
    /// Of the stored object, in hex.
    pub sha256: Option<String>,
    /// All that is needed to render it again, as JSON.
    pub recipe: Option<String>,
    /// Shard it belongs to.
    pub shard: ShardId,
    /// Attempt that it came from.
    pub attempt: u32,
    /// Who rendered it; empty when not known.
    pub worker: String,
    /// What rendered it.
    pub device: String,
    /// Seconds on the device.
    pub render_seconds: f64,
    /// Part of it spent on decoding.
    pub decode_seconds: f64,
    /// Why it failed, and the text of it.
    pub error: Option<(ErrorClass, String)>,
    /// Committed.
    pub finished_at: Timestamp,
}

/// An image as the manifest tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct ManifestRow {
    /// The image.
    pub image: Image,
    /// The row's own name.
    pub prompt_id: Option<String>,
    /// Line in the prompt list.
    pub line: u64,
    /// Pass-through columns as a JSON object.
    pub extra: Option<String>,
}

/// A worker that connects.
#[derive(Clone, Debug, PartialEq)]
pub struct NewSession {
    /// Lasting name of the worker.
    pub worker: String,
    /// Its program version.
    pub version: String,
    /// What it computes on.
    pub devices: Vec<Device>,
    /// What its operator says about it.
    pub labels: BTreeMap<String, String>,
    /// It lives in the coordinator's own process.
    pub embedded: bool,
}

/// One attempt at a shard.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseRef {
    /// What is leased.
    pub shard: ShardId,
    /// Which attempt it is.
    pub attempt: u32,
}

/// Most groups that an open job tells of.
pub const OPEN_GROUPS: usize = 16;

/// A session that wants a shard, and which it may have, best first.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// Who.
    pub session: SessionId,
    /// Where to look, in order. A choice with nothing ready is passed over.
    pub choices: Vec<Choice>,
}

/// What a session says about its leases.
#[derive(Clone, Debug, PartialEq)]
pub struct Renewal {
    /// Who.
    pub session: SessionId,
    /// What it holds.
    pub held: Vec<HeldLease>,
}

/// Results that one session reports of one lease.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Who.
    pub session: SessionId,
    /// Attempt that they come from.
    pub lease: LeaseRef,
    /// What became of its images.
    pub results: Vec<ImageReport>,
}

/// A lease that a worker says it holds.
#[derive(Clone, Debug, PartialEq)]
pub struct HeldLease {
    /// Which.
    pub lease: LeaseRef,
    /// Indices of the images being rendered now.
    pub rendering: Vec<u64>,
}

/// The right to render a shard.
#[derive(Clone, Debug, PartialEq)]
pub struct Lease {
    /// Which attempt at which shard.
    pub lease: LeaseRef,
    /// Its job.
    pub job: JobId,
    /// For people.
    pub job_name: String,
    /// What to render with.
    pub model: String,
    /// Where the pictures go.
    pub output: String,
    /// Size and sampling of all its images.
    pub settings: Settings,
    /// Those that have no result yet, by index.
    pub images: Vec<LeasedImage>,
    /// This was the first lease of the job.
    pub started_job: bool,
}

/// One image to render.
#[derive(Clone, Debug, PartialEq)]
pub struct LeasedImage {
    /// Place in the job.
    pub index: u64,
    /// What to show.
    pub prompt: String,
    /// What not to show.
    pub negative_prompt: String,
    /// Seed of the starting noise.
    pub seed: u64,
    /// The only name that it may be written to.
    pub object: String,
}

/// Why a lease is handed back.
#[derive(Clone, Debug, PartialEq)]
pub struct Release {
    /// One word for the history.
    pub reason: ReleaseReason,
    /// For people.
    pub message: String,
}

/// Why a lease is handed back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReleaseReason {
    /// The worker is leaving.
    Drain,
    /// Its output cannot be written.
    Storage,
    /// It has done what it could: images that failed are tried again after a while.
    Finished,
    /// It did not say.
    Unknown,
}

impl ReleaseReason {
    /// The word in the history.
    pub fn word(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Storage => "storage",
            Self::Finished => "finished",
            Self::Unknown => "unknown",
        }
    }
}

/// What a worker says about one image.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageReport {
    /// Place in the job.
    pub index: u64,
    /// What became of it.
    pub outcome: Outcome,
    /// What rendered it.
    pub device: String,
    /// Seconds on the device.
    pub render_seconds: f64,
    /// Part of it spent on decoding.
    pub decode_seconds: f64,
}

/// What became of an image in one attempt.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Its picture is stored.
    Done {
        /// Name below the output.
        object: String,
        /// Size of it.
        bytes: u64,
        /// Of it, in hex.
        sha256: String,
        /// All that is needed to render it again, as JSON.
        recipe: String,
    },
    /// It could not be rendered.
    Failed {
        /// What kind of error.
        class: ErrorClass,
        /// The text of it.
        message: String,
    },
}

/// What `report_results` did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reported {
    /// Results and errors committed now.
    pub accepted: u64,
    /// Those that were there already.
    pub known: u64,
    /// The session still holds the lease.
    pub held: bool,
    /// Every image of the job has its result now.
    pub job_complete: bool,
}

/// What a restart found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Leases of workers that lived in the process that ended.
    pub released: u64,
    /// Submissions that were never sealed.
    pub abandoned: u64,
}

/// What somebody wants of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing new of it is leased. Paused already, it stays so.
    Pause,
    /// It goes on. One that is not paused stays as it is.
    Resume,
    /// Higher goes first.
    Priority(i32),
    /// It ends; its leases are revoked at no cost. One that has ended stays as it is.
    Cancel,
    /// Its failed images, or those of one class, are tried again as if nothing had happened. Not of a cancelled job.
    Retry(Option<ErrorClass>),
}

/// Who wants something, and why: both go into the history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct By {
    /// A person or a program.
    pub actor: String,
    /// For people; may be empty.
    pub reason: String,
}

/// What became of a wish.
#[derive(Clone, Debug, PartialEq)]
pub struct Changed {
    /// The job as it is now.
    pub job: Job,
    /// Images that are tried again.
    pub retried: u64,
}

/// An open session.
#[derive(Clone, Debug, PartialEq)]
pub struct Presence {
    /// Names it.
    pub id: SessionId,
    /// What it said about itself.
    pub session: NewSession,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// Its last sign of life.
    pub seen_at: Timestamp,
    /// What it holds.
    pub leases: Vec<PresentLease>,
}

/// A lease that is held.
#[derive(Clone, Debug, PartialEq)]
pub struct PresentLease {
    /// Which.
    pub lease: LeaseRef,
    /// Its job.
    pub job: JobId,
    /// What it is rendered with.
    pub model: String,
    /// Images of the shard.
    pub images: u64,
    /// Ends then unless it is renewed.
    pub expires_at: Timestamp,
}

/// What no two coordinators do at the same time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Taking back what nobody holds any more.
    Sweep,
    /// Deleting what is left of abandoned submissions.
    Purge,
    /// Writing the manifest of this job and ending it.
    Finish(JobId),
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

//! Sessions, their leases, and what they report.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::domain::blame::ErrorClass;
use crate::domain::form::Form;
use crate::domain::id::{JobId, SessionId, ShardId};
use crate::domain::leaving::Drain;
use crate::domain::schedule::{Choice, Device, OpenJob};
use crate::domain::settings::Settings;
use crate::domain::signing::Named;
use crate::domain::tail::Held;
use crate::store::records::{NewArchive, Quality, Stats};

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

/// What a session says about its leases and itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Renewal {
    /// Who.
    pub session: SessionId,
    /// What it holds.
    pub held: Vec<HeldLease>,
    /// How it spends its time, when it tells.
    pub stats: Option<Stats>,
    /// Why it leaves; none while it stays.
    pub leaving: Option<String>,
}

/// What a session learns when it renews.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Renewed {
    /// The leases that it still holds.
    pub kept: Vec<Kept>,
    /// It is asked to leave.
    pub drain: Option<Drain>,
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
    /// The tar that holds all of its pictures.
    pub archive: Option<NewArchive>,
}

impl Report {
    /// Whether something went wrong.
    pub fn has_errors(&self) -> bool {
        self.results.iter().any(|result| matches!(result.outcome, Outcome::Failed { .. }))
    }

    /// The results that something was logged about.
    pub fn logged(&self) -> impl Iterator<Item = &ImageReport> {
        self.results.iter().filter(|result| !result.log.is_empty())
    }
}

/// A lease that a worker says it holds.
#[derive(Clone, Debug, PartialEq)]
pub struct HeldLease {
    /// Which.
    pub lease: LeaseRef,
    /// Indices of the images being rendered now.
    pub rendering: Vec<u64>,
}

/// A lease that was prolonged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Which.
    pub lease: LeaseRef,
    /// Last index of its shard now: what comes after it was cut off.
    pub last_index: u64,
}

/// A running job that has nothing to give, and who holds what of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Tail {
    /// The job, without groups.
    pub job: OpenJob,
    /// Seconds that its images took lately; none when none was rendered.
    pub pace: Option<f64>,
    /// Its leases, oldest shard first.
    pub held: Vec<Held>,
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
    /// What is written for each image.
    pub form: Form,
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
    /// The row's own name.
    pub id: Option<String>,
    /// Pass-through columns as a JSON object.
    pub extra: Option<String>,
}

/// What the images of an attempt are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptObjects {
    /// Where they go.
    pub output: String,
    /// What is written for each.
    pub form: Form,
    /// Those of its shard.
    pub images: Vec<Named>,
}

/// A worker that gets nothing of a job for a while, as it cannot render it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What it cannot render.
    pub job: JobId,
    /// Its lasting name.
    pub worker: String,
    /// What it said.
    pub why: String,
    /// It gets nothing of the job before.
    pub until: Timestamp,
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
    /// What the worker logged about it; may be empty.
    pub log: String,
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
        /// What a look at it gave.
        quality: Option<Quality>,
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reported {
    /// Results and errors committed now.
    pub accepted: u64,
    /// Those that were there already.
    pub known: u64,
    /// The session still holds the lease.
    pub held: bool,
    /// Every image of the job has its result now.
    pub job_complete: bool,
    /// Images of a report with a tar that have their result from elsewhere: then nothing of it was committed.
    pub taken: Vec<u64>,
    /// Images that have failed for good now.
    pub failed: Vec<u64>,
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
    /// Its worker was taken out and gets nothing before.
    pub excluded_until: Option<Timestamp>,
    /// What it holds.
    pub leases: Vec<PresentLease>,
    /// How it spends its time, as of a renewal of late.
    pub stats: Option<Stats>,
    /// Why it leaves, as it said; none while it stays.
    pub leaving: Option<String>,
    /// It was asked to leave.
    pub drain: Option<Drain>,
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

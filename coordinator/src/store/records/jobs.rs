//! Jobs, their images, and what people want of them.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::domain::blame::ErrorClass;
use crate::domain::form::Form;
use crate::domain::id::{JobId, ShardId};
use crate::domain::listing::ObjectState;
use crate::domain::schedule::Needs;
use crate::domain::settings::Settings;
use crate::domain::state::{ImageState, JobState};
use crate::domain::waiting::{Awaited, CallOff, Standing};
use crate::store::records::Webhook;

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
    /// The jobs that it was submitted to wait for, as they are now, oldest first.
    pub after: Vec<Awaited>,
    /// What is not rendered by then is not rendered.
    pub deadline: Option<Timestamp>,
    /// Why it was cancelled, when anything was said.
    pub end_reason: Option<String>,
    /// What is written for each image.
    pub form: Form,
    /// What is called when it ends.
    pub webhook: Option<Webhook>,
}

impl Job {
    /// The jobs that hold it back now.
    pub fn held_by(&self) -> Vec<&Awaited> {
        let waits = self.started_at.is_none() && !self.state.has_ended();
        self.after.iter().filter(|awaited| waits && awaited.holds()).collect()
    }

    /// Why it is cancelled now without anybody's wish; none when it goes on.
    pub fn call_off(&self, now: Timestamp) -> Option<CallOff> {
        let standing = Standing {
            state: self.state,
            started: self.started_at.is_some(),
            complete: self.done + self.failed == self.images,
            deadline: self.deadline,
            after: &self.after,
        };
        standing.call_off(now)
    }
}

/// A job as one that waits for it sees it.
pub(in crate::store) fn awaited(job: &Job, any_end: bool) -> Awaited {
    Awaited {
        job: job.id.clone(),
        any_end,
        state: job.state,
        images: job.images,
        finished: job.done + job.failed,
    }
}

/// What the history tells of a submission besides who made it.
pub(in crate::store) fn submitted(job: &Job, shards: i64) -> Value {
    let mut detail =
        json!({ "images": job.images, "shards": shards, "model": job.model, "output": job.output });
    for (name, any_end) in [("after", false), ("after_any", true)] {
        let jobs = job.after.iter().filter(|awaited| awaited.any_end == any_end);
        let jobs: Vec<_> = jobs.map(|awaited| awaited.job.as_str()).collect();
        if !jobs.is_empty() {
            detail[name] = json!(jobs);
        }
    }
    if let Some(deadline) = job.deadline {
        detail["deadline"] = json!(format!("{deadline:.3}"));
    }
    detail
}

/// A job that was cancelled without anybody's wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CalledOff {
    /// The job.
    pub job: JobId,
    /// Why.
    pub why: CallOff,
}

/// What `begin_job` found.
#[derive(Clone, Debug, PartialEq)]
pub enum Begun {
    /// Room for a new job, and how many images earlier ones of its output have: its names go on after theirs.
    New(JobId, u64),
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
    /// Name below the job's output, or in its tar.
    pub object: String,
    /// Its thumbnail below the job's output, if there is one.
    pub thumbnail: Option<String>,
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
    /// What a look at the picture gave.
    pub quality: Option<Quality>,
    /// The tar that holds it below the job's output, once that has its final name.
    pub archive: Option<String>,
}

/// What a look at the pixels of a picture gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quality {
    /// Of the brightness of its pixels, in bits.
    pub entropy: f64,
    /// Share of its pixels that are black or white in every channel.
    pub clipped: f64,
}

impl Quality {
    /// As it is stored.
    pub(in crate::store) fn read(entropy: Option<f64>, clipped: Option<f64>) -> Option<Self> {
        Some(Self { entropy: entropy?, clipped: clipped? })
    }
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

/// An object that an output may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Below the output.
    pub name: String,
    /// What it is to the database.
    pub state: ObjectState,
    /// Size of it, where it is known.
    pub bytes: Option<u64>,
    /// Of it, in hex, where it is known.
    pub sha256: Option<String>,
    /// The job that it belongs to, if it is one's.
    pub job: Option<JobId>,
    /// The image of the job that it belongs to, if it is one's.
    pub index: Option<u64>,
}

/// What somebody wants of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// These of its images are done, but their objects are lost or damaged: they are rendered again, and so are all others
    /// of their tars. Not of a cancelled job.
    Requeue(Vec<u64>),
}

impl Change {
    /// One word for people.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Priority(_) => "priority",
            Self::Cancel => "cancel",
            Self::Retry(_) => "retry",
            Self::Requeue(_) => "requeue",
        }
    }
}

/// Who wants something, and why: both go into the history. Somebody who tells no name is unknown there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct By {
    /// A person or a program.
    pub actor: String,
    /// For people; may be empty.
    pub reason: String,
}

impl By {
    /// In the history, the actor of what the farm does by itself.
    pub const FARM: &'static str = "coordinator";
    /// In the history, somebody who does not tell a name.
    pub const NOBODY: &'static str = "unknown";

    /// What the farm does by itself; `reason` may be empty.
    pub fn farm(reason: &str) -> Self {
        Self { actor: Self::FARM.to_owned(), reason: reason.to_owned() }
    }

    /// The name in the history.
    pub(in crate::store) fn named(&self) -> &str {
        if self.actor.is_empty() { Self::NOBODY } else { &self.actor }
    }
}

/// What became of a wish.
#[derive(Clone, Debug, PartialEq)]
pub struct Changed {
    /// The job as it is now.
    pub job: Job,
    /// Images that are rendered again.
    pub retried: u64,
}

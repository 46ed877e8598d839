//! The one truth: a database behind the trait [`Store`].
//!
//! - [`records`]: what goes in and comes out, in the words of the domain
//! - [`sqlite`]: the store of one process, a file
//! - [`postgres`]: the store of many coordinators, a server
//! - `error`: why it did not do what it was asked
//! - `parts`: the answers to analysts
//! - `story`: what several tables tell of one image
//! - `conformance`: one suite of behaviours that every store must pass

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use jiff::Timestamp;

use crate::domain::blame::Caps;
use crate::domain::explain::Backlog;
use crate::domain::id::{JobId, SessionId};
use crate::domain::leaving::Drain;
use crate::domain::schedule::OpenJob;
use crate::domain::spec::JobSpec;
use crate::domain::speed::Speed;
use crate::domain::state::{ImageState, JobState};
use crate::domain::submission::Batch;
use crate::domain::tail::Share;

#[cfg(test)]
pub(crate) mod conformance;
mod error;
mod parts;
pub mod postgres;
pub mod records;
pub mod sqlite;
mod story;

pub use error::{Error, Result};
use records::*;

/// Everything the coordinator asks of its database. The time is an argument, so that tests move it.
///
/// Each call is one transaction, or safe to be cut between its transactions. Every move of a state writes its
/// event in the same transaction.
#[async_trait]
pub trait Store: std::fmt::Debug + Send + Sync {
    /// The time that everybody who uses this database goes by.
    fn clock(&self) -> Timestamp;
    /// Sets that clock.
    async fn set_clock(&self) -> Result<()>;
    /// Makes room for a job, or finds the sealed one with this client token. What is left of an unsealed one with
    /// this token is given up. A new job is refused when its deadline has passed, when it would wait for a job that
    /// is not there or has ended without success, and when its output holds the pictures of another job, unless it is
    /// to be added to those and they have ended and lie in the same layout.
    async fn begin_job(&self, spec: &JobSpec, now: Timestamp) -> Result<Begun>;
    /// Adds rows to an unsealed job.
    async fn add_batch(&self, job: &JobId, batch: &Batch, now: Timestamp) -> Result<()>;
    /// Adds the last rows and makes the job visible and ready to be leased.
    async fn seal_job(&self, job: &JobId, batch: &Batch, now: Timestamp) -> Result<Job>;
    /// Gives up an unsealed job; `purge` deletes its rows.
    async fn abandon_job(&self, job: &JobId) -> Result<()>;
    /// Deletes some hundred rows of abandoned jobs; whether there may be more.
    async fn purge(&self) -> Result<bool>;
    /// What was measured with this model: by open jobs just now, else by the newest job that ended with such images.
    async fn speeds(&self, model: &str) -> Result<Vec<Speed>>;
    /// The sealed job with this id, or the only one whose id begins so.
    async fn job(&self, id: &str) -> Result<Job> {
        self.job_of(None, id).await
    }
    /// The same, among those of an owner when one is given.
    async fn job_of(&self, owner: Option<&str>, id: &str) -> Result<Job>;
    /// Newest first; all states when `states` is empty, everybody's without an owner.
    async fn jobs(&self, owner: Option<&str>, states: &[JobState], limit: u32) -> Result<Vec<Job>>;
    /// Images with an index of at least `from`, in order; all states when `states` is empty.
    async fn images(&self, job: &JobId, states: &[ImageState], from: u64, limit: u32) -> Result<Vec<Image>>;
    /// The shards of a sealed job that are not done, and what else decides about them.
    async fn backlog(&self, job: &JobId, now: Timestamp) -> Result<Backlog>;
    /// Whether the database answers.
    async fn reach(&self) -> Result<()>;
    /// Connections to the database.
    fn connections(&self) -> Connections;
    /// The whole farm in figures, at a cost that does not grow with its images.
    async fn overview(&self, now: Timestamp) -> Result<Overview>;
    /// Open sessions, oldest first, with what they hold.
    async fn sessions(&self) -> Result<Vec<Presence>>;
    /// Changes a sealed job.
    async fn change_job(&self, job: &JobId, change: &Change, by: &By, now: Timestamp) -> Result<Changed>;
    /// Holds the jobs of an owner back, or lets them go.
    async fn hold_owner(&self, owner: &str, held: bool, by: &By, now: Timestamp) -> Result<()>;
    /// The owner's share against others' 1.
    async fn weigh_owner(&self, owner: &str, weight: f64, by: &By, now: Timestamp) -> Result<()>;

    /// Starts the connection life of a worker.
    async fn open_session(&self, session: &NewSession, now: Timestamp) -> Result<SessionId>;
    /// Ends it and releases its leases. A session that is closed already is left as it is.
    async fn close_session(&self, session: &SessionId, reason: &str, now: Timestamp) -> Result<()>;
    /// What an open session said about itself.
    async fn session(&self, session: &SessionId) -> Result<NewSession>;
    /// Jobs with shards that may be leased now, in order of submission: none whose deadline has passed, or that has not
    /// started and waits for others.
    async fn open_jobs(&self, now: Timestamp) -> Result<Vec<OpenJob>>;
    /// Who gets nothing of which job now, as it cannot write to its output or not load its model.
    async fn refusals(&self, now: Timestamp) -> Result<Vec<Refusal>>;
    /// A shard for each claim, with the images that have no result: the oldest ready one of the first of its choices
    /// that has one and is open as in [`Self::open_jobs`]; none when none has, or when the session leaves or is asked
    /// to. One answer a claim, in order.
    async fn lease_shards(
        &self,
        claims: &[Claim],
        duration: Duration,
        now: Timestamp,
    ) -> Result<Vec<Result<Option<Lease>>>>;
    /// Running jobs whose shards are all held or done.
    async fn tails(&self, now: Timestamp) -> Result<Vec<Tail>>;
    /// Those of the sessions that hold nothing and stay.
    async fn idle(&self, sessions: &[SessionId]) -> Result<Vec<SessionId>>;
    /// Leases the session what it takes over from another one, or as much of it as can still be taken; none when it cannot.
    async fn take_over(
        &self,
        session: &SessionId,
        share: &Share,
        duration: Duration,
        now: Timestamp,
    ) -> Result<Option<Lease>>;
    /// Prolongs the sessions and those of the leases that they still hold, and returns these. What they say of
    /// themselves is kept. One answer a renewal, in order.
    async fn renew_leases(
        &self,
        renewals: &[Renewal],
        duration: Duration,
        now: Timestamp,
    ) -> Result<Vec<Result<Renewed>>>;
    /// Asks the open sessions of a worker to leave, or one of them: nothing more is leased to them. Those that it asked,
    /// oldest first. Who was asked before may be asked more urgently.
    async fn drain(&self, of: &OfWorker, drain: Drain, by: &By, now: Timestamp) -> Result<Vec<SessionId>>;
    /// What the images of an attempt's shard are called, those included that were cut off it meanwhile: for the worker
    /// that the attempt was given to, in whatever session.
    async fn attempt_objects(&self, session: &SessionId, lease: &LeaseRef) -> Result<AttemptObjects>;
    /// Hands a lease back. One that is not held any more is left as it is.
    async fn release_lease(
        &self,
        session: &SessionId,
        lease: &LeaseRef,
        release: &Release,
        now: Timestamp,
    ) -> Result<()>;
    /// Commits results. Pictures that come in a tar are committed together, or not at all when one of them has a
    /// result. Pictures are accepted from any attempt and any session for images that have none yet, errors
    /// from the worker that the attempt was given to. A report that breaks a rule is refused whole; the others are
    /// committed. One answer a report, in order.
    async fn report_results(
        &self,
        reports: &[Report],
        caps: Caps,
        now: Timestamp,
    ) -> Result<Vec<Result<Reported>>>;

    /// Ends what lived in the process that had this database open before, if no other process has it open. Called
    /// once, before anything else.
    async fn recover(&self, lease_duration: Duration, now: Timestamp) -> Result<Recovered>;
    /// The right to do something alone; none while another coordinator has it.
    async fn turn(&self, duty: &Duty) -> Result<Option<Turn>>;
    /// Takes back some expired leases; the number taken, 0 when there are no more.
    async fn expire_leases(&self, caps: Caps, now: Timestamp) -> Result<u64>;
    /// Closes sessions that hold nothing and were last seen before `before`.
    async fn close_silent_sessions(&self, before: Timestamp, now: Timestamp) -> Result<u64>;
    /// Cancels some jobs that wait in vain or have no time left; none when there are no more.
    async fn call_off(&self, now: Timestamp) -> Result<Vec<CalledOff>>;
    /// The first deadline after now of a job that has not ended.
    async fn next_deadline(&self, now: Timestamp) -> Result<Option<Timestamp>>;
    /// Begins a try of some webhooks that are due; nobody begins another one of theirs before `until`.
    async fn begin_webhooks(&self, limit: u32, until: Timestamp, now: Timestamp) -> Result<Vec<Delivery>>;
    /// Records what came of a try; nothing when another one has begun meanwhile.
    async fn end_webhook(&self, delivery: &Delivery, tried: &Tried, now: Timestamp) -> Result<()>;
    /// When a webhook is due next.
    async fn next_webhook(&self) -> Result<Option<Timestamp>>;
    /// What workers could do now and have in hand, by job in order of submission: the view `keda_backlog`, by the database's
    /// own time.
    async fn demand(&self) -> Result<Vec<Demand>>;
    /// Outputs with tars that have no final name yet.
    async fn outputs_to_publish(&self) -> Result<Vec<String>>;
    /// Numbers the committed tars of an output that have none; the first `limit` of those that are to be published.
    async fn number_archives(&self, output: &str, limit: u32) -> Result<Vec<Archive>>;
    /// Records that a tar has its final name.
    async fn archive_published(&self, lease: &LeaseRef, now: Timestamp) -> Result<()>;
    /// Published tars of an output by number, from this one on.
    async fn archives(&self, output: &str, from: u64, limit: u32) -> Result<Vec<Archive>>;
    /// Everything the manifest tells of the pictures in a tar, in index order.
    async fn archive_rows(&self, archive: &Archive) -> Result<Vec<ManifestRow>>;
    /// Jobs whose images all have their result, with no tar of their output left to publish, but which have not ended.
    async fn jobs_to_finish(&self) -> Result<Vec<Job>>;
    /// The sealed jobs of an output, in order of submission.
    async fn jobs_of_output(&self, output: &str) -> Result<Vec<Job>>;
    /// Ends such a job; the caller has written its manifest.
    async fn finish_job(&self, job: &JobId, now: Timestamp) -> Result<Job>;
    /// Records that the job's output could not be written; nothing for a job that has ended.
    async fn record_output_error(&self, job: &JobId, error: &str, now: Timestamp) -> Result<()>;
    /// Pass-through columns of the job, in order of appearance.
    async fn columns(&self, job: &JobId) -> Result<Vec<String>>;
    /// Everything the manifest tells, from index `from` on, in order.
    async fn manifest_rows(&self, job: &JobId, from: u64, limit: u32) -> Result<Vec<ManifestRow>>;

    /// All objects that this output may hold as far as the database knows, in byte order of their names, some at a time.
    /// `manifests` are the names of what is written about the pictures, which the database does not know.
    async fn objects(
        &self,
        output: &str,
        manifests: &[String],
    ) -> Result<BoxStream<'static, Result<Vec<Listed>>>>;

    /// The worker of this lasting name, or the session with this id; none when there never was one.
    async fn worker(&self, name: &str) -> Result<Option<OfWorker>>;
    /// Events after this place in the history, in order.
    async fn events(&self, of: &Subject, after: u64, limit: u32) -> Result<Vec<EventRecord>>;
    /// Where its newest `count` events begin.
    async fn newest(&self, of: &Subject, count: u64) -> Result<Newest>;
    /// How often each kind of event happened to it.
    async fn counts(&self, of: &Subject) -> Result<BTreeMap<String, u64>>;
    /// What it has made.
    async fn yielded(&self, of: &Subject) -> Result<Yield>;
    /// What workers logged about an image in attempts after this one, in order.
    async fn logs(&self, job: &JobId, index: u64, after: u32, limit: u32) -> Result<Vec<AttemptLog>>;
    /// What happened to one image; none when the job has no such image.
    async fn image_story(&self, job: &JobId, index: u64) -> Result<Option<ImageStory>>;

    /// Runs an analyst's SQL on a connection that cannot write, for `limit` at most, the time that its reader takes
    /// included. The first item holds the columns.
    async fn query(&self, sql: &str, limit: Duration) -> Result<BoxStream<'static, Result<Answer>>>;

    /// Keeps a token.
    async fn create_token(&self, token: &NewToken, now: Timestamp) -> Result<TokenRecord>;
    /// All tokens, newest first.
    async fn tokens(&self) -> Result<Vec<TokenRecord>>;
    /// Those of these that there are, in any order.
    async fn tokens_by_id(&self, ids: &[String]) -> Result<Vec<TokenRecord>>;
    /// Gives a token that is not revoked another secret; the one before is good until then.
    async fn rotate_token(
        &self,
        id: &str,
        hash: &[u8],
        old_until: Timestamp,
        now: Timestamp,
    ) -> Result<TokenRecord>;
    /// Ends a token. One that was ended before is left as it is.
    async fn revoke_token(&self, id: &str, now: Timestamp) -> Result<TokenRecord>;
    /// Records when tokens were used.
    async fn tokens_used(&self, used: &[(String, Timestamp)]) -> Result<()>;

    /// Ends all use of the database.
    async fn close(&self);
}

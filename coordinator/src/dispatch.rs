//! Shards for the sessions that wait for one.
//!
//! One task knows all waiting sessions of this coordinator: it looks at the open jobs once for all of them, has the
//! scheduler put them in order for each, and claims for all in one call. An idle farm costs one look a second,
//! however many sessions wait.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sanafarm_telemetry::coordinator::{CLAIM_SECONDS, CLAIMS};
use sanafarm_telemetry::trace;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::batch::shared;
use crate::domain::id::{JobId, SessionId};
use crate::domain::schedule::{Choice, OpenJob, Plan, Worker};
use crate::domain::tail;
use crate::store::records::{Claim, Lease, NewSession, Refusal, Release, ReleaseReason};
use crate::store::{Error, Result, Store};

/// Without a hint the open jobs are looked at this often: a shard may be ready after a pause, or another process may
/// have changed something.
const LOOK: Duration = Duration::from_secs(1);
/// Open jobs as they were this long ago still serve.
const FRESH: Duration = Duration::from_millis(200);
/// Sessions served by one call of the store.
const MOST_CLAIMS: usize = 256;
/// Takings over of one look: each is a transaction, and whoever waits for a shard that is ready waits for them too.
const MOST_SHARES: usize = 64;
/// Sessions that may wait to be looked at.
const QUEUE: usize = 4096;
/// What is known of a session that asked for nothing in this time is forgotten, and read again when needed.
const FORGET: Duration = Duration::from_secs(600);

/// A session that waits for a shard.
#[derive(Debug)]
struct Waiting {
    session: SessionId,
    /// Of this job only.
    job: Option<JobId>,
    until: Instant,
    reply: oneshot::Sender<Result<Option<Lease>>>,
}

/// The way to the task that hands out shards.
#[derive(Debug)]
pub(crate) struct Dispatcher {
    queue: mpsc::Sender<Waiting>,
}

impl Dispatcher {
    /// `ready` changes whenever a shard may have become ready. Ends with `stop`.
    pub fn start(
        tasks: &TaskTracker,
        stop: CancellationToken,
        store: Arc<dyn Store>,
        ready: watch::Receiver<()>,
        lease_duration: Duration,
    ) -> Self {
        let (queue, arrivals) = mpsc::channel(QUEUE);
        let desk = Desk {
            store,
            ready,
            lease_duration,
            waiting: Vec::new(),
            known: HashMap::new(),
            open: Vec::new(),
            refusals: Vec::new(),
            looked_at: None,
            shared_at: None,
        };
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = desk.run(arrivals) => {}
            }
        });
        Self { queue }
    }

    /// Waits for a shard until `until`; none when there was none.
    pub async fn shard(
        &self,
        session: SessionId,
        job: Option<JobId>,
        until: Instant,
    ) -> Result<Option<Lease>> {
        let (reply, answer) = oneshot::channel();
        let waiting = Waiting { session, job, until, reply };
        self.queue.send(waiting).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }
}

/// What is known of a session.
#[derive(Debug)]
struct Known {
    session: NewSession,
    /// Model and size of its last lease from here.
    last: Option<(String, (u32, u32))>,
    asked_at: Instant,
}

/// The task's own things.
struct Desk {
    store: Arc<dyn Store>,
    ready: watch::Receiver<()>,
    lease_duration: Duration,
    waiting: Vec<Waiting>,
    known: HashMap<SessionId, Known>,
    open: Vec<OpenJob>,
    refusals: Vec<Refusal>,
    /// When both were read; none when they must be read again.
    looked_at: Option<Instant>,
    /// When it was last seen who could help others.
    shared_at: Option<Instant>,
}

impl Desk {
    async fn run(mut self, mut arrivals: mpsc::Receiver<Waiting>) {
        loop {
            let wake = self.wake_at();
            tokio::select! {
                arrived = arrivals.recv_many(&mut self.waiting, MOST_CLAIMS) => {
                    if arrived == 0 {
                        return;
                    }
                }
                // The sender lives as long as the farm.
                _ = self.ready.changed() => self.looked_at = None,
                () = sleep_until(wake) => {}
            }
            // Those who went away meanwhile.
            self.waiting.retain(|waiting| !waiting.reply.is_closed());
            if !self.waiting.is_empty() {
                self.serve().await;
            }
        }
    }

    /// When to look again without an arrival or a hint.
    fn wake_at(&self) -> Instant {
        let now = Instant::now();
        let Some(first) = self.waiting.iter().map(|waiting| waiting.until).min() else {
            return now + FORGET;
        };
        let look = self.looked_at.map_or(now + LOOK, |at| at + LOOK);
        first.min(look)
    }

    /// Gives shards to those who wait, and an answer to those whose time is over.
    async fn serve(&mut self) {
        let result = self.try_serve().await;
        if let Err(error) = result {
            // The next look starts afresh.
            self.looked_at = None;
            let answers = shared(error, self.waiting.len());
            for (waiting, answer) in self.waiting.drain(..).zip(answers) {
                let _ = waiting.reply.send(answer);
            }
        }
        let now = Instant::now();
        for over in self.waiting.extract_if(.., |waiting| waiting.until <= now) {
            let _ = over.reply.send(Ok(None));
        }
        self.known.retain(|_, known| now < known.asked_at + FORGET);
    }

    async fn try_serve(&mut self) -> Result<()> {
        self.look().await?;
        if !self.open.is_empty() {
            self.learn().await?;
            self.claim().await?;
        }
        if !self.waiting.is_empty() && self.shared_at.is_none_or(|at| at.elapsed() >= LOOK) {
            self.shared_at = Some(Instant::now());
            self.share_out().await?;
        }
        Ok(())
    }

    /// Shards that are ready, for those who wait.
    async fn claim(&mut self) -> Result<()> {
        for claims in self.claims(&self.open).chunks(MOST_CLAIMS) {
            let start = SystemTime::now();
            let answers = self.store.lease_shards(claims, self.lease_duration, self.store.clock()).await?;
            metrics::histogram!(CLAIM_SECONDS).record(start.elapsed().unwrap_or_default());
            for (claim, answer) in claims.iter().zip(answers) {
                self.answer(&claim.session, answer, start).await;
            }
        }
        Ok(())
    }

    /// Parts of what others hold, for those who wait and hold nothing: at the end of a job.
    async fn share_out(&mut self) -> Result<()> {
        let mut tails = self.store.tails(self.store.clock()).await?;
        if tails.is_empty() {
            return Ok(());
        }
        self.learn().await?;
        let waiting: Vec<_> = self.waiting.iter().map(|waiting| waiting.session.clone()).collect();
        let idle: HashSet<_> = self.store.idle(&waiting).await?.into_iter().collect();
        let jobs: Vec<OpenJob> = tails.iter().map(|tail| tail.job.clone()).collect();
        let mut claims = self.claims(&jobs);
        claims.retain(|claim| idle.contains(&claim.session));
        let mut left = claims.len();
        for Claim { session, choices } in claims.into_iter().take(MOST_SHARES) {
            let taken = choices.iter().find_map(|choice| {
                let tail = tails.iter_mut().find(|tail| tail.job.id == choice.job)?;
                let share = tail::share(&tail.held, tail.pace, left)?;
                tail::take(&mut tail.held, &share);
                Some(share)
            });
            left -= 1;
            let Some(share) = taken else { continue };
            let start = SystemTime::now();
            let lease = self.store.take_over(&session, &share, self.lease_duration, self.store.clock()).await;
            self.answer(&session, lease, start).await;
        }
        Ok(())
    }

    /// Passes the answer to a claim on. Who got nothing goes on waiting.
    async fn answer(&mut self, session: &SessionId, answer: Result<Option<Lease>>, start: SystemTime) {
        if let Ok(None) = answer {
            // Others were quicker, or its worker was taken out: what was looked at may be out of date.
            self.looked_at = None;
            return;
        }
        let Some(place) = self.waiting.iter().position(|waiting| waiting.session == *session) else { return };
        let waiting = self.waiting.remove(place);
        match answer {
            Ok(Some(lease)) => {
                self.tell(session, &lease, start);
                self.give(waiting, lease).await;
            }
            Ok(None) => {}
            Err(error) => {
                self.known.remove(session);
                let _ = waiting.reply.send(Err(error));
            }
        }
    }

    /// Reads the open jobs when what was read is too old.
    async fn look(&mut self) -> Result<()> {
        let fresh = if self.open.is_empty() { LOOK } else { FRESH };
        if self.looked_at.is_none_or(|at| at.elapsed() >= fresh) {
            let now = self.store.clock();
            (self.open, self.refusals) =
                tokio::try_join!(self.store.open_jobs(now), self.store.refusals(now))?;
            self.looked_at = Some(Instant::now());
        }
        Ok(())
    }

    /// Reads what is not known about the waiting sessions. A session that is closed is told so.
    async fn learn(&mut self) -> Result<()> {
        let now = Instant::now();
        for waiting in std::mem::take(&mut self.waiting) {
            if let Some(known) = self.known.get_mut(&waiting.session) {
                known.asked_at = now;
                self.waiting.push(waiting);
                continue;
            }
            match self.store.session(&waiting.session).await {
                Ok(session) => {
                    let known = Known { session, last: None, asked_at: now };
                    self.known.insert(waiting.session.clone(), known);
                    self.waiting.push(waiting);
                }
                Err(error) => drop(waiting.reply.send(Err(error))),
            }
        }
        Ok(())
    }

    /// The claims of those for whom one of these jobs may have something.
    fn claims(&self, jobs: &[OpenJob]) -> Vec<Claim> {
        let refused = self.refusals.iter().map(|refusal| (refusal.job.as_str(), refusal.worker.as_str()));
        let mut plan = Plan::new(jobs, self.store.clock()).without(refused);
        let claims = self.waiting.iter().filter_map(|waiting| {
            let known = self.known.get(&waiting.session)?;
            let last = known.last.as_ref().map(|(model, size)| (model.as_str(), *size));
            let NewSession { worker, devices, labels, .. } = &known.session;
            let mut choices = plan.choices(&Worker { name: worker, devices, labels, last });
            if let Some(job) = &waiting.job {
                choices.retain(|choice: &Choice| choice.job == *job);
            }
            (!choices.is_empty()).then(|| Claim { session: waiting.session.clone(), choices })
        });
        claims.collect()
    }

    /// Counts a lease, and tells those of its images that are traced who has them now.
    fn tell(&self, session: &SessionId, lease: &Lease, start: SystemTime) {
        metrics::counter!(CLAIMS).increment(1);
        if !trace::is_on() {
            return;
        }
        let worker = self.known.get(session).map_or("", |known| known.session.worker.as_str());
        let end = SystemTime::now();
        for image in &lease.images {
            let Some(trace) = trace::image(lease.job.as_str(), image.index) else { continue };
            trace
                .child("claim", start, end)
                .with("worker", worker.to_owned())
                .with("shard", lease.lease.shard.to_string())
                .with("attempt", i64::from(lease.lease.attempt))
                .record();
        }
    }

    async fn give(&mut self, waiting: Waiting, lease: Lease) {
        if let Some(known) = self.known.get_mut(&waiting.session) {
            known.last = Some((lease.model.clone(), (lease.settings.width, lease.settings.height)));
        }
        let Err(Ok(Some(lease))) = waiting.reply.send(Ok(Some(lease))) else { return };
        // It went away while the lease was on its way: others need not wait until it expires.
        let release = Release {
            reason: ReleaseReason::Unknown,
            message: "the call ended before its answer".to_owned(),
        };
        let released =
            self.store.release_lease(&waiting.session, &lease.lease, &release, self.store.clock()).await;
        if let Err(error) = released {
            tracing::warn!(shard = %lease.lease.shard, session = %waiting.session, %error, "release a lease that nobody took");
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::domain::blame::ErrorClass;
    use crate::live::Live;
    use crate::store::conformance::{Bench, LEASE, error};
    use crate::store::sqlite::SqliteStore;

    #[tokio::test]
    async fn a_worker_that_gets_nothing_holds_nobody_back() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(&folder.path().join("farm.db")).await.unwrap());
        let mut bench = Bench::new(store.clone());
        // The dispatcher has the clock of the machine.
        bench.now = Timestamp::now();
        bench.submit("a", 6, 1).await;
        let (bad, good) = (bench.session("bad").await, bench.session("good").await);
        for _ in 0..3 {
            let lease = bench.lease(&bad).await.unwrap();
            bench.report(&bad, &lease.lease, &[error(&lease.images[0], ErrorClass::Internal)]).await;
        }
        let (tasks, stop, live) = (TaskTracker::new(), CancellationToken::new(), Live::new());
        let dispatcher = Dispatcher::start(&tasks, stop.clone(), store, live.watch_ready(), LEASE);
        let now = async |session: &SessionId| {
            dispatcher.shard(session.clone(), None, Instant::now()).await.unwrap()
        };
        for _ in 0..3 {
            assert_eq!(now(&bad).await, None, "it was taken out");
            assert!(
                now(&good).await.is_some(),
                "there is something ready, and nobody waits for a second look"
            );
        }
        assert_eq!(now(&good).await, None, "all are leased");
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }
}

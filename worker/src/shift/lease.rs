//! Leasing the next shard while the last images of the present one are rendered.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sanafarm_proto::v1::{Layout, Lease, ReleaseReason};
use tokio::time::{Instant, sleep};

use super::image::room_for;
use super::shard::Shard;
use super::{Aside, LOW_WATER, Shift};
use crate::Error;
use crate::engine::Commands;
use crate::leases::LeaseKey;
use crate::picture::Encoding;
use crate::session::Session;
use crate::stats::FULL;
use crate::store::open_output;

/// Pause after the coordinator said at once that there is nothing to do: it should have waited.
const NO_WORK_PAUSE: Duration = Duration::from_secs(1);
/// How long the coordinator may hold requests for a shard.
const LEASE_WAIT: Duration = Duration::from_secs(20);

/// Why nothing is leased.
const NO_ROOM: &str = "the outbox is full: nothing is rendered until finished images are uploaded";

/// A lease, and whether its output can be written.
pub(super) struct Leased {
    lease: Lease,
    output: Result<(), sanafarm_storage::Error>,
}

impl Shift {
    /// Sees whether another image can be started, now or when those in hand are kept, and says so when not.
    pub(super) fn look_for_room(&mut self) {
        let full = !self.can_keep(self.next_room().unwrap_or(self.room_wanted));
        if full != self.full {
            self.full = full;
            self.outbox.stats().set_trouble(FULL, full.then(|| NO_ROOM.to_owned()));
        }
    }

    fn can_keep(&self, picture: u64) -> bool {
        !self.images.is_empty() || self.outbox.has_room(0, picture)
    }

    /// Asks for a shard when there is room for one and nobody asks yet.
    pub(super) fn lease_ahead(&mut self, commands: &Commands) {
        let waiting: usize = self.shards.iter().map(|shard| shard.waiting.len()).sum();
        let is_ahead =
            waiting > LOW_WATER + commands.at_once() || self.shards.iter().any(|shard| shard.untouched);
        // What could not be started is left to others.
        if self.leaving || self.leasing.is_some() || is_ahead || self.full || self.limits.is_closed() {
            return;
        }
        self.outbox.lease_is_asked_for();
        let session = self.session.clone();
        let output = self.output.clone();
        let jobs = self.limits.jobs_to_ask(&self.job);
        let asking = async move { Aside::Leased(ask(session, jobs, output).await) };
        self.leasing = Some(self.asides.spawn(asking));
    }

    /// Takes a lease on.
    pub(super) fn take(&mut self, leased: Leased) {
        let Leased { lease, output } = leased;
        let (Some(key), Some(settings)) = (lease.r#ref.map(LeaseKey::from), lease.settings) else {
            return self.fail(Error::Coordinator("lease a shard: the coordinator sent half a lease".into()));
        };
        if let Err(error) = output {
            return self.refuse(key, &lease.job_id, error);
        }
        if let Some(why) = self.refusing.get(&lease.output) {
            return self.hand_back(key, ReleaseReason::Storage, why.clone());
        }
        self.accept();
        if self.leaving {
            return self.release(key, true);
        }
        tracing::info!(
            shard = %key.shard_id, attempt = key.attempt, job = %lease.job_id, images = lease.images.len(),
            "leased a shard"
        );
        self.output = Some(lease.output.clone());
        // What is in hand under a lease that was lost, or lies in the outbox, is not rendered twice: its result counts all
        // the same.
        let of_job = self.shards.iter().filter(|shard| shard.job == lease.job_id);
        let sent = of_job.flat_map(|shard| &shard.sent);
        let started: BTreeSet<u64> =
            sent.filter(|(_, claim)| claim.is_started()).map(|(index, _)| *index).collect();
        let is_there = |index| started.contains(&index) || self.outbox.holds(&lease.job_id, index);
        let (there, waiting): (Vec<_>, Vec<_>) = lease
            .images
            .into_iter()
            // What was committed after the coordinator gave the lease is done, under whatever lease that was.
            .filter(|image| !self.outbox.has_committed(&lease.job_id, image.index))
            .partition(|image| is_there(image.index));
        if there.is_empty() && waiting.is_empty() {
            // What was taken back since then comes again with the next lease.
            return self.hand_back(key, ReleaseReason::Finished, "its images were just committed".to_owned());
        }
        self.room_wanted = room_for(&settings);
        // Until now it was not known how large they are. What lies here is on its way.
        if there.is_empty() && !self.can_keep(self.room_wanted) {
            // There may be room in a moment: it is no refusal of the job.
            return self.hand_back(key, ReleaseReason::Drain, NO_ROOM.to_owned());
        }
        if !self.limits.takes(&lease.job_id) {
            return self.release(key, true);
        }
        let layout = lease.form.as_ref().map_or(Layout::Unspecified, |form| form.layout());
        let encoding = Encoding::new(lease.form.as_ref()).and_then(|encoding| {
            encoding.check_size(settings.width, settings.height)?;
            Ok(encoding)
        });
        let skip = self.skip.child_token();
        let halt = self.stop.child_token();
        self.leases.add(key.clone(), lease.job_id.clone(), skip.clone(), halt.clone());
        self.shards.push(Shard {
            key,
            job: lease.job_id,
            model: lease.model,
            settings,
            encoding,
            output: lease.output,
            presigned: lease.presigned,
            archive: (layout == Layout::Webdataset).then_some(lease.archive),
            packed: false,
            skip,
            halt,
            untouched: !waiting.is_empty(),
            waiting: waiting.into(),
            sent: BTreeMap::new(),
            last_index: u64::MAX,
            in_hand: there.into_iter().map(|image| image.index).collect(),
            held: true,
            cut_short: false,
            refused: None,
        });
    }
}

/// Asks for a shard of one of these jobs.
async fn ask(
    session: Session,
    jobs: Vec<String>,
    last: Option<String>,
) -> Result<Option<Box<Leased>>, Error> {
    let asked = Instant::now();
    let Some(lease) = lease_of(&session, &jobs).await? else {
        sleep(NO_WORK_PAUSE.saturating_sub(asked.elapsed())).await;
        return Ok(None);
    };
    let output = match last {
        Some(name) if name == lease.output => Ok(()),
        // There are no keys to try it with.
        _ if lease.presigned => Ok(()),
        Some(_) | None => open_output(&lease.output).await.map(drop),
    };
    Ok(Some(Box::new(Leased { lease, output })))
}

/// A shard of the first of these jobs that has one. Each is asked for before any of them is waited for; then they share
/// the wait of one.
async fn lease_of(session: &Session, jobs: &[String]) -> Result<Option<Lease>, Error> {
    let several = jobs.len() > 1;
    let share = LEASE_WAIT / u32::try_from(jobs.len()).unwrap_or(u32::MAX).max(1);
    let waits = [Some(Duration::ZERO).filter(|_| several), Some(share)];
    for wait in waits.into_iter().flatten() {
        for job in jobs {
            if let Some(lease) = session.lease(job, wait).await? {
                return Ok(Some(lease));
            }
        }
    }
    Ok(None)
}

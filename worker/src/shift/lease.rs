//! Leasing the next shard while the last images of the present one are rendered.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sanafarm_proto::v1::Lease;
use sanafarm_storage::Output;
use tokio::time::{Instant, sleep};

use super::{Aside, LOW_WATER, Shard, Shift};
use crate::Error;
use crate::leases::LeaseKey;
use crate::publish::open_output;
use crate::session::Session;

/// Pause after the coordinator said at once that there is nothing to do: it should have waited.
const NO_WORK_PAUSE: Duration = Duration::from_secs(1);

/// A lease, and its output when that can be written.
pub(super) struct Leased {
    lease: Lease,
    output: Result<Output, sanafarm_storage::Error>,
}

impl Shift {
    /// Asks for a shard when there is room for one and nobody asks yet.
    pub(super) fn lease_ahead(&mut self) {
        let waiting: usize = self.shards.iter().map(|shard| shard.waiting.len()).sum();
        let is_ahead = waiting > LOW_WATER || self.shards.iter().any(|shard| shard.untouched);
        if self.leaving || self.leasing.is_some() || is_ahead {
            return;
        }
        let session = self.session.clone();
        let output = self.output.clone();
        let job = self.job.clone();
        let asking = async move { Aside::Leased(ask(session, job, output).await) };
        self.leasing = Some(self.asides.spawn(asking));
    }

    /// Takes a lease on.
    pub(super) fn take(&mut self, leased: Leased) {
        let Leased { lease, output } = leased;
        let (Some(key), Some(settings)) = (lease.r#ref.map(LeaseKey::from), lease.settings) else {
            return self.fail(Error::Coordinator("lease a shard: the coordinator sent half a lease".into()));
        };
        let output = match output {
            Ok(output) => output,
            Err(error) => {
                self.fail(Error::Storage(error));
                return self.release(key, true);
            }
        };
        if self.leaving {
            return self.release(key, true);
        }
        tracing::info!(
            shard = %key.shard_id, attempt = key.attempt, job = %lease.job_id, images = lease.images.len(),
            "leased a shard"
        );
        self.output = Some((lease.output, output.clone()));
        // One that is in hand under a lease that was lost is not rendered twice: its result counts all the same.
        let of_job = self.shards.iter().filter(|shard| shard.job == lease.job_id);
        let sent = of_job.flat_map(|shard| &shard.sent);
        let in_hand: BTreeSet<u64> =
            sent.filter(|(_, claim)| claim.is_started()).map(|(index, _)| *index).collect();
        let waiting = lease.images.into_iter().filter(|image| !in_hand.contains(&image.index)).collect();
        let skip = self.skip.child_token();
        let halt = self.stop.child_token();
        self.leases.add(key.clone(), lease.job_id.clone(), skip.clone(), halt.clone());
        self.shards.push(Shard {
            key,
            job: lease.job_id,
            model: lease.model,
            settings,
            output,
            skip,
            halt,
            waiting,
            sent: BTreeMap::new(),
            last_index: u64::MAX,
            untouched: true,
            in_hand: 0,
            held: true,
            cut_short: false,
            abandoned: false,
        });
    }
}

async fn ask(
    session: Session,
    job: String,
    last: Option<(String, Output)>,
) -> Result<Option<Box<Leased>>, Error> {
    let asked = Instant::now();
    let Some(lease) = session.lease(&job).await? else {
        sleep(NO_WORK_PAUSE.saturating_sub(asked.elapsed())).await;
        return Ok(None);
    };
    let output = match last {
        Some((name, output)) if name == lease.output => Ok(output),
        Some(_) | None => open_output(&lease.output).await,
    };
    Ok(Some(Box::new(Leased { lease, output })))
}

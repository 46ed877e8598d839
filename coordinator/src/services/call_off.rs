//! Cancels jobs that wait in vain for others, and those whose deadline has passed.

use std::sync::Arc;
use std::time::Duration;

use crate::farm::Farm;
use crate::store;
use crate::store::records::{CalledOff, Duty};

pub(super) async fn run(farm: Arc<Farm>) {
    loop {
        let longest = farm.options.sweep_interval;
        let wait = match call_off(&farm).await {
            Ok(next) => next.map_or(longest, |next| next.min(longest)),
            // Nothing is lost: the next round finds the same jobs, and nothing of them is leased meanwhile.
            Err(error) => {
                tracing::warn!(%error, "call jobs off");
                longest
            }
        };
        tokio::select! {
            () = farm.stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
            () = farm.live.until_settled() => {}
        }
    }
}

/// How long it is to the next deadline, if there is one.
async fn call_off(farm: &Farm) -> store::Result<Option<Duration>> {
    let Some(_turn) = farm.store.turn(&Duty::CallOff).await? else { return Ok(None) };
    // Round by round: jobs may wait for those that were called off.
    loop {
        let now = farm.store.clock();
        let called_off = farm.store.call_off(now).await?;
        if called_off.is_empty() {
            let next = farm.store.next_deadline(now).await?;
            return Ok(next.and_then(|next| Duration::try_from(next.duration_since(now)).ok()));
        }
        for CalledOff { job, why } in &called_off {
            tracing::info!(%job, reason = %why, "job called off");
            farm.live.job_ended(job.as_str());
        }
        farm.live.job_changed();
        // For their webhooks.
        farm.live.job_settled();
        // For the jobs that waited for any end of them.
        farm.live.shards_ready();
    }
}

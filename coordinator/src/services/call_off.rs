//! Cancels jobs that wait in vain for others, and those whose deadline has passed.

use std::sync::Arc;

use jiff::Timestamp;

use crate::farm::Farm;
use crate::store;
use crate::store::records::{CalledOff, Duty};

pub(super) async fn run(farm: Arc<Farm>) {
    loop {
        // Nothing is lost when a round fails: the next one finds the same jobs, and nothing of them is leased meanwhile.
        if let Err(error) = call_off(&farm).await {
            tracing::warn!(%error, "call jobs off");
        }
        tokio::select! {
            () = farm.stop.cancelled() => return,
            () = tokio::time::sleep(farm.options.sweep_interval) => {}
            () = farm.live.until_settled() => {}
        }
    }
}

async fn call_off(farm: &Farm) -> store::Result<()> {
    let Some(_turn) = farm.store.turn(&Duty::CallOff).await? else { return Ok(()) };
    // Round by round: jobs may wait for those that were called off.
    loop {
        let called_off = farm.store.call_off(Timestamp::now()).await?;
        if called_off.is_empty() {
            return Ok(());
        }
        for CalledOff { job, why } in &called_off {
            tracing::info!(%job, reason = %why, "job called off");
            farm.live.job_ended(job.as_str());
        }
        farm.live.job_changed();
        // For the jobs that waited for any end of them.
        farm.live.shards_ready();
    }
}

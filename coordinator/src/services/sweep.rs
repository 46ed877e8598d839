//! Takes back what nobody holds any more: expired leases and silent sessions.

use std::sync::Arc;

use sanafarm_telemetry::coordinator::LEASES_LOST;
use tokio::time::MissedTickBehavior;

use crate::farm::Farm;
use crate::store;
use crate::store::records::Duty;

/// A session that holds nothing and was silent for this many lease durations is closed.
const SILENT_LEASES: u32 = 3;

pub(super) async fn run(farm: Arc<Farm>) {
    let mut ticks = tokio::time::interval(farm.options.sweep_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = farm.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        // Nothing is lost when a round fails: the next one finds the same work.
        if let Err(error) = sweep(&farm).await {
            tracing::warn!(%error, "sweep failed");
        }
    }
}

async fn sweep(farm: &Farm) -> store::Result<()> {
    farm.store.set_clock().await?;
    let Some(_turn) = farm.store.turn(&Duty::Sweep).await? else { return Ok(()) };
    let caps = farm.options.caps();
    loop {
        let expired = farm.store.expire_leases(caps, farm.store.clock()).await?;
        if expired == 0 {
            break;
        }
        tracing::warn!(leases = expired, "took back expired leases");
        metrics::counter!(LEASES_LOST).increment(expired);
        farm.live.shards_ready();
        farm.live.job_changed();
        farm.live.job_complete();
    }
    let now = farm.store.clock();
    let silence = farm.options.lease_duration * SILENT_LEASES;
    if let Ok(before) = now.checked_sub(silence) {
        let closed = farm.store.close_silent_sessions(before, now).await?;
        if closed > 0 {
            tracing::info!(sessions = closed, "closed silent sessions");
        }
    }
    Ok(())
}

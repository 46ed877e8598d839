//! Deletes the rows of submissions that were given up. Apart from the sweep: a long list takes a while, and leases
//! expire meanwhile.

use std::sync::Arc;

use crate::farm::Farm;
use crate::store;
use crate::store::records::Duty;

pub(super) async fn run(farm: Arc<Farm>) {
    loop {
        // Nothing is lost when a round fails: the next one finds the same rows.
        if let Err(error) = purge(&farm).await {
            tracing::warn!(%error, "delete abandoned submissions");
        }
        tokio::select! {
            () = farm.stop.cancelled() => return,
            () = tokio::time::sleep(farm.options.sweep_interval) => {}
            () = farm.live.until_abandoned() => {}
        }
    }
}

async fn purge(farm: &Farm) -> store::Result<()> {
    let Some(_turn) = farm.store.turn(&Duty::Purge).await? else { return Ok(()) };
    while !farm.stop.is_cancelled() && farm.store.purge().await? {}
    Ok(())
}

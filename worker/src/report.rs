//! Reporting and renewing: the two conversations that go on beside the work.

use std::sync::Arc;
use std::time::Duration;

use sanafarm_proto::v1::ImageResult;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::leases::{LeaseKey, Leases};
use crate::session::Session;

/// Most results in one report: with the longest prompts they stay below the 4 MiB that gRPC takes.
const BATCH: usize = 16;
/// Least time between two renewals.
const RENEWAL_GAP: Duration = Duration::from_millis(250);

/// A result on its way to the coordinator.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) lease: LeaseKey,
    pub(crate) result: ImageResult,
}

/// The coordinator has committed results.
#[derive(Debug)]
pub(crate) struct Acknowledged {
    pub(crate) lease: LeaseKey,
    pub(crate) results: usize,
    /// Images of the lease are left to do.
    pub(crate) held: bool,
}

/// Sends results as they come, one report in flight; what comes meanwhile makes the next one. Ends when there
/// can be no more results.
pub(crate) async fn report_results(
    session: Session,
    mut reports: mpsc::Receiver<Report>,
    acknowledged: mpsc::Sender<Acknowledged>,
) -> Result<(), Error> {
    let mut batch = Vec::with_capacity(BATCH);
    while reports.recv_many(&mut batch, BATCH).await > 0 {
        for (lease, results) in by_lease(batch.drain(..)) {
            let count = results.len();
            let answer = session.report(&lease, results).await?;
            tracing::debug!(
                shard = %lease.shard_id, attempt = lease.attempt,
                accepted = answer.accepted, known = answer.known, held = answer.held, "reported results"
            );
            let note = Acknowledged { lease, results: count, held: answer.held };
            if acknowledged.send(note).await.is_err() {
                // The shift has ended and needs no more notes; the rest is reported all the same.
                tracing::debug!("nobody waits for acknowledgements");
            }
        }
    }
    Ok(())
}

/// Results of each lease, in the order of their coming.
fn by_lease(reports: impl Iterator<Item = Report>) -> Vec<(LeaseKey, Vec<ImageResult>)> {
    let mut leases: Vec<(LeaseKey, Vec<ImageResult>)> = Vec::new();
    for Report { lease, result } in reports {
        match leases.iter_mut().find(|(known, _)| *known == lease) {
            Some((_, results)) => results.push(result),
            None => leases.push((lease, vec![result])),
        }
    }
    leases
}

/// Renews on time, and at once when an image is started, until `stop`. Leases that are gone are dropped from
/// `leases`.
pub(crate) async fn renew_leases(
    session: Session,
    leases: Arc<Leases>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let renewing = async {
        let mut last = Instant::now();
        loop {
            tokio::select! {
                () = sleep(session.renew_interval()) => {}
                () = leases.changed() => sleep_until(last + RENEWAL_GAP).await,
            }
            last = Instant::now();
            let held = leases.held();
            let answer = session.renew(held.clone()).await?;
            for gone in leases.keep_only(&held, answer) {
                tracing::warn!(shard = %gone.shard_id, attempt = gone.attempt, "lease is gone");
            }
        }
    };
    tokio::select! {
        ended = renewing => ended,
        () = stop.cancelled() => Ok(()),
    }
}

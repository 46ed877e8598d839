//! What one simulated worker does from its first shard to its leave: it leases ahead, renders, reports and renews as
//! the worker does (worker/src/shift, worker/src/report.rs).

use std::sync::Arc;
use std::time::Duration;

use sanafarm_proto::v1::{ImageResult, Lease, Settings};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::engine::Engine;
use super::leases::{LeaseKey, Leases};
use super::{Session, now_micros};
use crate::error::Error;

/// The next shard is leased when this many images are left to start.
const LOW_WATER: usize = 2;
/// Results under way.
const NOTES: usize = 64;
/// Most results in one report.
const BATCH: usize = 16;
/// Least time between two renewals.
const RENEWAL_GAP: Duration = Duration::from_millis(250);

/// A shard with the images that are left of it.
struct Shard {
    key: LeaseKey,
    settings: Settings,
    lease: Lease,
}

/// Works until it is stopped, and closes the session.
pub async fn work(
    session: Session,
    engine: Engine,
    wait: Duration,
    stop: CancellationToken,
) -> Result<(), Error> {
    let (session, leases) = (Arc::new(session), Arc::new(Leases::default()));
    let (reports, to_report) = mpsc::channel(NOTES);
    let rendering = async {
        sleep(wait).await;
        render(&session, &leases, engine, reports).await
    };
    tokio::select! {
        ended = rendering => ended?,
        ended = report(&session, &leases, to_report) => ended?,
        ended = renew(&session, &leases) => ended?,
        () = stop.cancelled() => {}
    }
    session.close().await
}

/// Asks for a shard beside the work.
fn ask(session: &Arc<Session>, leases: &Arc<Leases>) -> AbortOnDropHandle<Result<Shard, Error>> {
    let (session, leases) = (Arc::clone(session), Arc::clone(leases));
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut lease = session.lease().await?;
        let (Some(key), Some(settings)) = (lease.r#ref.take().map(LeaseKey::from), lease.settings.take())
        else {
            return Err(Error::Farm("the coordinator sent half a lease".to_owned()));
        };
        leases.add(key.clone());
        Ok(Shard { key, settings, lease })
    }))
}

/// Renders one shard after the other.
async fn render(
    session: &Arc<Session>,
    leases: &Arc<Leases>,
    engine: Engine,
    reports: mpsc::Sender<(LeaseKey, ImageResult)>,
) -> Result<(), Error> {
    let mut asking = ask(session, leases);
    loop {
        let Shard { key, settings, lease } = asking.await??;
        let mut ahead = None;
        let mut left = lease.images.len();
        for image in lease.images {
            left -= 1;
            if left <= LOW_WATER && ahead.is_none() {
                ahead = Some(ask(session, leases));
            }
            let index = image.index;
            if !leases.covers(&key, index) {
                continue;
            }
            leases.started(&key, index);
            engine.render(&image).await;
            let result = engine.result(&lease.model, &settings, image);
            if reports.send((key.clone(), result)).await.is_err() {
                // The reporter has ended with an error, which ends this worker.
                return Ok(());
            }
            leases.ended(&key, index);
        }
        asking = ahead.unwrap_or_else(|| ask(session, leases));
    }
}

/// Sends results as they come, one report in flight; what comes meanwhile makes the next one.
async fn report(
    session: &Session,
    leases: &Leases,
    mut reports: mpsc::Receiver<(LeaseKey, ImageResult)>,
) -> Result<(), Error> {
    let mut batch = Vec::with_capacity(BATCH);
    while reports.recv_many(&mut batch, BATCH).await > 0 {
        for (lease, results) in by_lease(batch.drain(..)) {
            let answer = session.report(lease.clone().into(), results).await?;
            let mut tally = session.tally().lock();
            tally.reports += 1;
            tally.accepted += answer.accepted;
            tally.known += answer.known;
            if answer.accepted > 0 {
                tally.last_accepted = now_micros();
            }
            if !answer.held {
                leases.remove(&lease);
            }
        }
    }
    Ok(())
}

/// Results of each lease, in the order of their coming.
fn by_lease(reports: impl Iterator<Item = (LeaseKey, ImageResult)>) -> Vec<(LeaseKey, Vec<ImageResult>)> {
    let mut leases: Vec<(LeaseKey, Vec<ImageResult>)> = Vec::new();
    for (lease, result) in reports {
        match leases.iter_mut().find(|(known, _)| *known == lease) {
            Some((_, results)) => results.push(result),
            None => leases.push((lease, vec![result])),
        }
    }
    leases
}

/// Renews on time, and at once when an image is started.
async fn renew(session: &Session, leases: &Leases) -> Result<(), Error> {
    let mut last = Instant::now();
    loop {
        tokio::select! {
            () = sleep(session.renew_interval) => {}
            () = leases.until_started() => sleep_until(last + RENEWAL_GAP).await,
        }
        last = Instant::now();
        let asked = leases.held();
        let held = session.renew(asked.clone()).await?;
        let mut tally = session.tally().lock();
        tally.renewals += 1;
        tally.gone += leases.keep_only(asked, held);
    }
}

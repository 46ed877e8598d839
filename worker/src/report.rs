//! Reporting and renewing: the two conversations that go on beside the work.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sanafarm_proto::v1::image_result::Outcome;
use sanafarm_proto::v1::{ImageFailed, ImageResult};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::leases::{LeaseKey, Leases};
use crate::leave::Leave;
use crate::outbox::folder::Aside;
use crate::outbox::{Id, Outbox};
use crate::recipe::Failure;
use crate::session::{CallError, Session};
use crate::stats::Stats;
use crate::told::{Origin, Period, Which};

/// Most results in one report: with the longest prompts they stay below the 4 MiB that gRPC takes.
const BATCH: usize = 16;
/// Least time between two renewals.
const RENEWAL_GAP: Duration = Duration::from_millis(250);

/// A result on its way to the coordinator.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) lease: LeaseKey,
    pub(crate) job: String,
    pub(crate) result: ImageResult,
    /// What lies in the outbox until this is acknowledged.
    pub(crate) entry: Option<Id>,
    /// Where it comes from, when this process rendered it.
    pub(crate) origin: Option<Arc<Origin>>,
    /// It is of an earlier run.
    pub(crate) recovered: bool,
}

impl Report {
    /// Of an image that failed.
    pub(crate) fn failed(
        lease: LeaseKey,
        job: String,
        index: u64,
        device_id: String,
        failure: Failure,
    ) -> Self {
        let Failure { class, message } = failure;
        tracing::warn!(index, ?class, why = message, "image failed");
        let outcome = Some(Outcome::Failed(ImageFailed { error_class: class.into(), message }));
        let result = ImageResult { index, outcome, device_id, ..ImageResult::default() };
        Self { lease, job, result, entry: None, origin: None, recovered: false }
    }

    fn was_told(&self, worker: &str, when: Period) {
        let which = Which { lease: &self.lease, job: &self.job, index: self.result.index };
        let error = match &self.result.outcome {
            Some(Outcome::Failed(failed)) => Some(failed.message.as_str()),
            Some(Outcome::Done(_)) | None => None,
        };
        which.was_acknowledged(self.origin.as_deref(), worker, &self.result.device_id, error, when);
    }
}

/// The coordinator has committed results, or had them already, or takes them from nobody.
#[derive(Debug)]
pub(crate) struct Acknowledged {
    pub(crate) lease: LeaseKey,
    pub(crate) job: String,
    pub(crate) indices: Vec<u64>,
    pub(crate) done: u64,
    pub(crate) failed: u64,
    /// Images of the lease are left to do.
    pub(crate) held: bool,
}

impl Acknowledged {
    /// Nothing of an earlier run will come of an image: a shard that was leased since waits for it no longer.
    pub(crate) fn given_up(lease: LeaseKey, job: String, index: u64) -> Self {
        Self { lease, job, indices: vec![index], done: 0, failed: 0, held: true }
    }
}

/// Tells results as they come, one report in flight; what comes meanwhile makes the next one. Ends when there
/// can be no more results, or when the worker leaves and the coordinator is away: what is in the outbox stays there.
pub(crate) async fn report_results(
    session: Session,
    outbox: Arc<Outbox>,
    mut reports: mpsc::UnboundedReceiver<Report>,
    acknowledged: mpsc::Sender<Acknowledged>,
) -> Result<(), Error> {
    let stage = outbox.stats().stage("report");
    let mut batch = Vec::with_capacity(BATCH);
    while reports.recv_many(&mut batch, BATCH).await > 0 {
        for reports in by_lease(batch.drain(..)) {
            let told = {
                let _busy = stage.busy();
                tell(&session, &outbox, reports).await
            };
            let notes = match told {
                Ok(notes) => notes,
                Err(error) if error.is_away() => {
                    tracing::warn!(%error, "results are not reported");
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            };
            for note in notes {
                if acknowledged.send(note).await.is_err() {
                    // The shift has ended and needs no more notes; the rest is reported all the same.
                    tracing::debug!("nobody waits for acknowledgements");
                }
            }
        }
    }
    Ok(())
}

/// Reports of one lease, together, and those of an earlier run one by one when they are refused.
async fn tell(
    session: &Session,
    outbox: &Outbox,
    reports: Vec<Report>,
) -> Result<Vec<Acknowledged>, CallError> {
    let refused = match tell_at_once(session, outbox, &reports).await {
        Ok(note) => return Ok(vec![note]),
        Err(error) if error.is_about_request() && reports.iter().all(|report| report.recovered) => error,
        Err(error) => return Err(error),
    };
    tracing::warn!(error = %refused, "results of an earlier run are refused: telling them one by one");
    let mut notes = Vec::new();
    for report in reports {
        match tell_at_once(session, outbox, std::slice::from_ref(&report)).await {
            Ok(note) => notes.push(note),
            Err(error) if error.is_about_request() => {
                if let Some(entry) = report.entry {
                    outbox.set_aside(entry, Aside::Refused, &error.to_string()).await;
                }
                notes.push(Acknowledged::given_up(report.lease, report.job, report.result.index));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(notes)
}

async fn tell_at_once(
    session: &Session,
    outbox: &Outbox,
    reports: &[Report],
) -> Result<Acknowledged, CallError> {
    let (lease, job) = match reports.first() {
        Some(report) => (report.lease.clone(), report.job.clone()),
        None => unreachable!("nobody tells nothing"),
    };
    let results: Vec<ImageResult> = reports.iter().map(|report| report.result.clone()).collect();
    let start = SystemTime::now();
    let answer = session.report(&lease, &job, results, None).await?;
    let told = Period::since(start);
    reports.iter().for_each(|report| report.was_told(session.worker(), told));
    tracing::debug!(
        shard = %lease.shard_id, attempt = lease.attempt,
        accepted = answer.accepted, known = answer.known, held = answer.held, "reported results"
    );
    let is_failed = |report: &&Report| matches!(report.result.outcome, Some(Outcome::Failed(_)));
    let (failures, pictures): (Vec<_>, Vec<_>) = reports.iter().partition(is_failed);
    let entries = |reports: &[&Report]| reports.iter().filter_map(|report| report.entry).collect();
    outbox.committed(entries(&pictures)).await;
    outbox.remove(entries(&failures)).await;
    let indices = reports.iter().map(|report| report.result.index).collect();
    Ok(Acknowledged {
        lease,
        job,
        indices,
        done: pictures.len() as u64,
        failed: failures.len() as u64,
        held: answer.held,
    })
}

/// Reports of each lease, in the order of their coming.
fn by_lease(reports: impl Iterator<Item = Report>) -> Vec<Vec<Report>> {
    let mut leases: Vec<Vec<Report>> = Vec::new();
    for report in reports {
        match leases.iter_mut().find(|known| known.iter().any(|other| other.lease == report.lease)) {
            Some(reports) => reports.push(report),
            None => leases.push(vec![report]),
        }
    }
    leases
}

/// Renews on time, and at once when an image is started or the worker leaves, until `stop`. Leases that are gone are
/// dropped from `leases`.
pub(crate) async fn renew_leases(
    session: Session,
    leases: Arc<Leases>,
    stats: Arc<Stats>,
    leave: Arc<Leave>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let mut reasons = leave.reasons();
    let renewing = async {
        let mut last = Instant::now();
        loop {
            tokio::select! {
                () = sleep(session.renew_interval()) => {}
                () = leases.changed() => sleep_until(last + RENEWAL_GAP).await,
                // Its sender lives in `leave`.
                Ok(()) = reasons.changed() => {}
            }
            last = Instant::now();
            let held = leases.held();
            let leaving = reasons.borrow_and_update().clone();
            let answer = session.renew(held.clone(), stats.snapshot(), leaving).await?;
            leave.asked(answer.drain(), "the coordinator asked");
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

//! Following one job.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use sanafarm_proto::v1;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::status::{status, stopping};
use super::{MessageStream, convert, own};
use crate::auth::Principal;
use crate::farm::Farm;

/// Shortest time between two looks at the database: any report of any job is a hint.
const PAUSE: Duration = Duration::from_millis(100);
/// The database is looked at this often even without a hint: another process may have changed it.
const LOOK: Duration = Duration::from_secs(1);
/// Speed is measured over this long,
const WINDOW: Duration = Duration::from_secs(120);
/// and told when it was measured over this long.
const SHORTEST_WINDOW: Duration = Duration::from_secs(2);

/// The job as it is, then whenever it differs, until it has ended.
pub(super) async fn watch(
    farm: &Arc<Farm>,
    stop: &CancellationToken,
    who: &Principal,
    job: &str,
) -> Result<MessageStream<v1::Job>, Status> {
    // Before the first look, so that nothing falls between the two.
    let changes = farm.live.watch_jobs();
    let job = own::job(farm, who, job).await?;
    let mut watch = Watch {
        farm: Arc::clone(farm),
        stop: stop.clone(),
        changes,
        sent: None,
        looked_at: Instant::now(),
        samples: VecDeque::new(),
        next: convert::job_message(job),
    };
    watch.complete();
    Ok(stream::try_unfold(Some(watch), Watch::step).boxed())
}

/// A client that follows a job.
struct Watch {
    farm: Arc<Farm>,
    stop: CancellationToken,
    changes: watch::Receiver<()>,
    sent: Option<v1::Job>,
    looked_at: Instant,
    /// Results that there were, oldest first: where their number changed.
    samples: VecDeque<(Instant, u64)>,
    next: v1::Job,
}

impl Watch {
    async fn step(watch: Option<Self>) -> Result<Option<(v1::Job, Option<Self>)>, Status> {
        let Some(mut watch) = watch else { return Ok(None) };
        while watch.sent.as_ref() == Some(&watch.next) {
            tokio::select! {
                () = watch.stop.cancelled() => return Err(stopping()),
                () = sleep(LOOK) => {}
                // The sender lives as long as the farm.
                _ = watch.changes.changed() => sleep_until(watch.looked_at + PAUSE).await,
            }
            watch.changes.mark_unchanged();
            watch.looked_at = Instant::now();
            watch.next =
                convert::job_message(watch.farm.store.job(&watch.next.job_id).await.map_err(status)?);
            watch.complete();
        }
        let job = watch.next.clone();
        if has_ended(&job) {
            return Ok(Some((job, None)));
        }
        watch.sent = Some(job.clone());
        Ok(Some((job, Some(watch))))
    }

    /// Adds what only a watch tells.
    fn complete(&mut self) {
        let results = self.next.done + self.next.failed;
        if self.samples.back().is_none_or(|(_, before)| *before != results) {
            self.samples.push_back((Instant::now(), results));
        }
        while self.samples.len() > 2 && self.samples[0].0.elapsed() > WINDOW {
            self.samples.pop_front();
        }
        if has_ended(&self.next) {
            return;
        }
        let doing = self.farm.live.rendering(&self.next.job_id);
        self.next.rendering = doing
            .into_iter()
            .map(|doing| v1::Rendering {
                worker: doing.worker,
                index: doing.index,
                stage: doing.stage,
                step: doing.step,
                steps: doing.steps,
            })
            .collect();
        self.next.images_per_minute = speed(&self.samples);
        self.next.seconds_left = self
            .next
            .images_per_minute
            .map(|speed| ((self.next.images - results) as f64 / speed * 60.0).round());
    }
}

/// Images a minute, from the oldest sample to the newest.
fn speed(samples: &VecDeque<(Instant, u64)>) -> Option<f64> {
    let ((first, before), (last, after)) = (samples.front()?, samples.back()?);
    let time = last.duration_since(*first);
    // Fewer than before: some are tried again.
    let images = after.checked_sub(*before).filter(|images| *images > 0)?;
    (time >= SHORTEST_WINDOW).then(|| (images as f64 / time.as_secs_f64() * 600.0).round() / 10.0)
}

fn has_ended(job: &v1::Job) -> bool {
    use v1::JobState::{Cancelled, Failed, Succeeded};
    matches!(job.state(), Succeeded | Failed | Cancelled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_is_told_once_there_is_something_to_measure() {
        let start = Instant::now();
        let at = |seconds, images| (start + Duration::from_secs(seconds), images);
        assert_eq!(speed(&[].into()), None);
        assert_eq!(speed(&[at(0, 5)].into()), None);
        assert_eq!(speed(&[at(0, 5), at(1, 9)].into()), None);
        assert_eq!(speed(&[at(0, 5), at(1, 9), at(30, 20)].into()), Some(30.0));
        assert_eq!(speed(&[at(0, 5), at(30, 4)].into()), None);
    }
}

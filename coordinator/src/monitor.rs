//! A coordinator as others see it who watch its process: whether it serves, and the farm as metrics.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use sanafarm_telemetry::coordinator::{
    AUTH_FAILURES, BACKLOG, DATABASE_CONNECTIONS, DATABASE_TROUBLE, JOBS, QUEUE_AGE, QUEUE_IMAGES, WORKERS,
};
use sanafarm_telemetry::http::Watched;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::auth::AuthFailure;
use crate::domain::state::JobState;
use crate::farm::Farm;
use crate::store::records::{Overview, Queued};
use crate::store::{Error, Result};

/// The farm is looked at this often at most, however many look at its coordinator.
const FRESH: Duration = Duration::from_secs(5);
/// How long the database may take to answer whoever watches.
const PATIENCE: Duration = Duration::from_secs(2);

/// Models that have metrics of their own: anybody who submits makes up their names.
const MODELS: usize = 50;
/// The label of all others.
const OTHER: &str = "other";

/// Watches a coordinator.
#[derive(Debug)]
pub struct Monitor {
    farm: Arc<Farm>,
    leaving: CancellationToken,
    last: Mutex<Last>,
}

/// What was told last.
#[derive(Debug, Default)]
struct Last {
    at: Option<Instant>,
    /// Models that had a queue then. Those that have none now are told as 0 once, and then forgotten by the recorder.
    models: BTreeSet<String>,
}

impl Monitor {
    pub(crate) fn new(farm: Arc<Farm>, leaving: CancellationToken) -> Self {
        Self { farm, leaving, last: Mutex::new(Last::default()) }
    }

    async fn look(&self, last: &mut Last) -> Result<()> {
        let store = &self.farm.store;
        let until = Instant::now() + PATIENCE;
        let Overview { jobs, queue: open, workers } = within(store.overview(store.clock())).await?;
        let named = named(&open);
        let queue = fold(queue(&open, self.paces(&open, &named, until).await?), &named);
        for &state in JobState::ALL {
            let count = jobs.iter().find(|(of, _)| *of == state).map_or(0, |(_, count)| *count);
            metrics::gauge!(JOBS, "state" => state.word()).set(count as f64);
        }
        metrics::gauge!(WORKERS).set(workers as f64);
        metrics::gauge!(QUEUE_AGE).set(age(&open, store.clock()));
        let before = std::mem::replace(&mut last.models, queue.keys().cloned().collect());
        for model in before.union(&last.models) {
            let Depth { images, seconds } = queue.get(model).copied().unwrap_or_default();
            metrics::gauge!(QUEUE_IMAGES, "model" => model.clone()).set(images as f64);
            if let Some(seconds) = seconds.or((images == 0).then_some(0.0)) {
                metrics::gauge!(BACKLOG, "model" => model.clone()).set(seconds);
            }
        }
        Ok(())
    }

    /// Seconds of an image of each of these models that nothing of an open job tells about: by jobs that have ended. As
    /// many as can be had until then.
    async fn paces(
        &self,
        jobs: &[Queued],
        models: &BTreeSet<String>,
        until: Instant,
    ) -> Result<BTreeMap<String, f64>> {
        let told: BTreeSet<_> =
            jobs.iter().filter(|job| job.pace.is_some()).map(|job| job.model.clone()).collect();
        let mut paces = BTreeMap::new();
        for model in models.difference(&told) {
            let Ok(speeds) = timeout_at(until, self.farm.store.speeds(model)).await else { break };
            let speeds = speeds?;
            let images: u64 = speeds.iter().map(|speed| speed.images).sum();
            if images > 0 {
                let seconds: f64 = speeds.iter().map(|speed| speed.seconds * speed.images as f64).sum();
                paces.insert(model.clone(), seconds / images as f64);
            }
        }
        Ok(paces)
    }
}

/// The models of which most waits.
fn named(jobs: &[Queued]) -> BTreeSet<String> {
    let mut images: BTreeMap<&str, u64> = BTreeMap::new();
    for job in jobs {
        *images.entry(&job.model).or_default() += job.images;
    }
    let mut models: Vec<_> = images.into_iter().collect();
    models.sort_by_key(|(_, images)| Reverse(*images));
    models.into_iter().take(MODELS).map(|(model, _)| model.to_owned()).collect()
}

/// All models but these are one.
fn fold(queue: BTreeMap<String, Depth>, named: &BTreeSet<String>) -> BTreeMap<String, Depth> {
    let mut folded: BTreeMap<String, Depth> = BTreeMap::new();
    for (model, depth) in queue {
        let label = if named.contains(&model) { model } else { OTHER.to_owned() };
        let sum = folded.entry(label).or_default();
        sum.images += depth.images;
        if let Some(seconds) = depth.seconds {
            *sum.seconds.get_or_insert(0.0) += seconds;
        }
    }
    folded
}

/// What waits for one model.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Depth {
    images: u64,
    /// That a device would take; none when nobody knows.
    seconds: Option<f64>,
}

/// A job that has rendered nothing yet goes by what other jobs of its model took.
fn queue(jobs: &[Queued], known: BTreeMap<String, f64>) -> BTreeMap<String, Depth> {
    let mut of_model: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for job in jobs {
        of_model.entry(&job.model).or_default().extend(job.pace);
    }
    let mut queue: BTreeMap<String, Depth> = BTreeMap::new();
    for job in jobs {
        let others = &of_model[job.model.as_str()];
        let usual = (!others.is_empty()).then(|| others.iter().sum::<f64>() / others.len() as f64);
        let pace = job.pace.or(usual).or_else(|| known.get(&job.model).copied());
        let depth = queue.entry(job.model.clone()).or_default();
        depth.images += job.images;
        if let Some(pace) = pace {
            *depth.seconds.get_or_insert(0.0) += pace * job.images as f64;
        }
    }
    queue
}

fn age(jobs: &[Queued], now: Timestamp) -> f64 {
    let oldest = jobs.iter().filter(|job| job.ready).map(|job| job.submitted_at).min();
    oldest.map_or(0.0, |oldest| now.duration_since(oldest).as_secs_f64().max(0.0))
}

async fn within<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(PATIENCE, call).await.unwrap_or(Err(Error::Busy))
}

#[async_trait]
impl Watched for Monitor {
    async fn measure(&self) {
        let connections = self.farm.store.connections();
        for (state, count) in [("idle", connections.idle), ("busy", connections.busy)] {
            metrics::gauge!(DATABASE_CONNECTIONS, "state" => state).set(f64::from(count));
        }
        for reason in AuthFailure::ALL {
            let count = self.farm.auth_failures.count(*reason);
            metrics::counter!(AUTH_FAILURES, "reason" => reason.word()).absolute(count);
        }
        let mut last = self.last.lock().await;
        if last.at.is_some_and(|at| at.elapsed() < FRESH) {
            return;
        }
        let looked = self.look(&mut last).await;
        last.at = Some(Instant::now());
        if let Err(error) = &looked {
            tracing::warn!(%error, "the farm is not measured");
        }
        metrics::gauge!(DATABASE_TROUBLE).set(if looked.is_ok() { 0.0 } else { 1.0 });
    }

    async fn troubles(&self) -> Vec<String> {
        if self.leaving.is_cancelled() || self.farm.stop.is_cancelled() {
            return vec!["the coordinator is stopping".to_owned()];
        }
        match within(self.farm.store.reach()).await {
            Ok(()) => Vec::new(),
            Err(error) => vec![format!("the database does not answer: {error}")],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(model: &str, images: u64, pace: Option<f64>) -> Queued {
        Queued { model: model.to_owned(), images, submitted_at: Timestamp::UNIX_EPOCH, ready: true, pace }
    }

    #[test]
    fn a_queue_takes_as_long_as_its_jobs_by_what_is_known_of_them() {
        let jobs = [
            job("a", 10, Some(2.0)),
            job("a", 4, None),
            job("a", 1, Some(4.0)),
            job("b", 7, None),
            job("c", 3, None),
        ];
        let queue = queue(&jobs, BTreeMap::from([("b".to_owned(), 0.5)]));
        assert_eq!(queue["a"], Depth { images: 15, seconds: Some(20.0 + 12.0 + 4.0) });
        assert_eq!(queue["b"], Depth { images: 7, seconds: Some(3.5) });
        assert_eq!(queue["c"], Depth { images: 3, seconds: None });
    }

    #[test]
    fn made_up_models_are_told_as_one() {
        let mut jobs: Vec<_> =
            (0..1000).map(|number| job(&format!("m{number}"), 1000 - number, Some(1.0))).collect();
        jobs.push(job("unknown", 1, None));
        let folded = fold(queue(&jobs, BTreeMap::new()), &named(&jobs));
        assert_eq!(folded.len(), MODELS + 1);
        assert_eq!(folded["m0"], Depth { images: 1000, seconds: Some(1000.0) });
        let rest: u64 = (1..=1000 - MODELS as u64).sum();
        assert_eq!(folded[OTHER], Depth { images: rest + 1, seconds: Some(rest as f64) });
    }

    #[test]
    fn the_age_is_that_of_the_oldest_job_that_a_worker_could_begin_with() {
        let held = Queued { ready: false, ..job("a", 1, None) };
        let ready = Queued { submitted_at: Timestamp::from_second(40).unwrap(), ..job("a", 1, None) };
        let now = Timestamp::from_second(100).unwrap();
        assert_eq!(age(&[held.clone(), ready], now), 60.0);
        assert_eq!(age(&[held], now), 0.0);
    }
}

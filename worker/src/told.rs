//! What a worker tells about each image besides its result: how long it was in each stage, as metrics, and as spans of
//! those that are traced.

use std::time::{Duration, SystemTime};

use sana::Recipe;
use sanafarm_telemetry::trace::{self, Attempt};
use sanafarm_telemetry::worker::{IMAGES, STAGE_SECONDS};

use crate::leases::LeaseKey;

/// Which attempt at which image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Which<'a> {
    pub(crate) lease: &'a LeaseKey,
    pub(crate) job: &'a str,
    pub(crate) index: u64,
}

/// When something began and ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Period {
    pub(crate) start: SystemTime,
    pub(crate) end: SystemTime,
}

impl Period {
    /// Ends now.
    pub(crate) fn since(start: SystemTime) -> Self {
        Self { start, end: SystemTime::now() }
    }

    fn length(self) -> Duration {
        self.end.duration_since(self.start).unwrap_or_default()
    }
}

/// Where an image comes from, for its span.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// When this attempt began.
    start: SystemTime,
    model: String,
    size: (u32, u32),
    steps: u32,
}

impl Origin {
    /// Of an image that begins now.
    pub(crate) fn now(model: &str, recipe: &Recipe) -> Self {
        let size = (recipe.width, recipe.height);
        Self { start: SystemTime::now(), model: model.to_owned(), size, steps: recipe.steps }
    }
}

impl Which<'_> {
    fn attempt(&self) -> Attempt<'_> {
        Attempt { shard: &self.lease.shard_id, number: self.lease.attempt }
    }

    /// It was in this stage.
    pub(crate) fn was_in(&self, stage: &'static str, period: Period) {
        metrics::histogram!(STAGE_SECONDS, "stage" => stage).record(period.length());
        if let Some(trace) = trace::image(self.job, self.index) {
            trace.stage(&self.attempt(), stage, period.start, period.end).record();
        }
    }

    /// Its result is acknowledged. `origin` is not known of one that an earlier process rendered.
    pub(crate) fn was_acknowledged(
        &self,
        origin: Option<&Origin>,
        worker: &str,
        device: &str,
        error: Option<&str>,
        report: Period,
    ) {
        let outcome = if error.is_some() { "error" } else { "picture" };
        metrics::counter!(IMAGES, "outcome" => outcome).increment(1);
        self.was_in("report", report);
        let Some(trace) = trace::image(self.job, self.index) else { return };
        let start = origin.map_or(report.start, |origin| origin.start);
        let mut span = trace
            .attempt(&self.attempt(), start, report.end)
            .with("index", i64::try_from(self.index).unwrap_or(i64::MAX))
            .with("worker", worker.to_owned())
            .with("device", device.to_owned())
            .of_job(self.job);
        if let Some(Origin { model, size: (width, height), steps, .. }) = origin {
            span = span
                .with("model", model.clone())
                .with("size", format!("{width}x{height}"))
                .with("steps", i64::from(*steps));
        }
        if let Some(error) = error {
            span = span.failed(error);
        }
        span.record();
    }
}

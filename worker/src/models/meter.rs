//! How far a download is, for the log and for whoever watches.

use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time between two lines of the log.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// How far a download is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The file under way; empty before the first.
    pub file: String,
    /// Bytes that are here, of the files that were missing.
    pub done: u64,
    /// Bytes of the files that were missing; one whose size is not known counts as it comes.
    pub total: u64,
}

/// Hears how far a download is.
pub type Observer = Arc<dyn Fn(&Progress) + Send + Sync>;

pub(super) struct Meter {
    model: String,
    progress: Progress,
    observer: Option<Observer>,
    started: Instant,
    told: Instant,
    /// Bytes of `done` that an earlier try had brought.
    there: u64,
}

impl Meter {
    pub(super) fn start(model: String, total: u64, observer: Option<Observer>) -> Self {
        tracing::info!(%model, bytes = total, "downloading model");
        let progress = Progress { file: String::new(), done: 0, total };
        let meter =
            Self { model, progress, observer, started: Instant::now(), told: Instant::now(), there: 0 };
        meter.show();
        meter
    }

    pub(super) fn file(&mut self, name: &str) {
        name.clone_into(&mut self.progress.file);
        self.show();
    }

    /// So much was here of a file that broke off.
    pub(super) fn found(&mut self, bytes: u64) {
        self.there += bytes;
        self.add(bytes);
    }

    pub(super) fn add(&mut self, bytes: u64) {
        self.progress.done += bytes;
        self.progress.total = self.progress.total.max(self.progress.done);
        self.show();
        if self.told.elapsed() >= LINE_INTERVAL {
            self.told = Instant::now();
            let Progress { file, done, total } = &self.progress;
            tracing::info!(model = %self.model, file, done, total, bytes_per_second = self.speed(), "downloading model");
        }
    }

    /// What was there turned out to be of no use.
    pub(super) fn take_back(&mut self, bytes: u64) {
        self.progress.done = self.progress.done.saturating_sub(bytes);
        self.there = self.there.min(self.progress.done);
        self.show();
    }

    pub(super) fn finish(self) {
        tracing::info!(
            model = %self.model, bytes = self.progress.done, elapsed = ?self.started.elapsed(),
            bytes_per_second = self.speed(), "downloaded model"
        );
    }

    fn speed(&self) -> u64 {
        let fetched = self.progress.done.saturating_sub(self.there);
        (fetched as f64 / self.started.elapsed().as_secs_f64().max(1e-3)) as u64
    }

    fn show(&self) {
        if let Some(observer) = &self.observer {
            observer(&self.progress);
        }
    }
}

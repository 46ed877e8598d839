//! Hints inside one process. Whoever waits for one also looks at the database now and then, so that a hint that
//! is lost, or that another process would have had to give, costs delay only.

use tokio::sync::{Notify, watch};

/// The hints.
#[derive(Debug)]
pub(crate) struct Live {
    ready: watch::Sender<()>,
    jobs: watch::Sender<()>,
    complete: Notify,
    abandoned: Notify,
}

impl Live {
    pub fn new() -> Self {
        Self {
            ready: watch::Sender::new(()),
            jobs: watch::Sender::new(()),
            complete: Notify::new(),
            abandoned: Notify::new(),
        }
    }

    /// A shard may have become ready.
    pub fn shards_ready(&self) {
        self.ready.send_replace(());
    }

    /// A job changed.
    pub fn job_changed(&self) {
        self.jobs.send_replace(());
    }

    /// All images of a job have their result.
    pub fn job_complete(&self) {
        self.complete.notify_one();
    }

    /// A submission was given up: its rows can go.
    pub fn job_abandoned(&self) {
        self.abandoned.notify_one();
    }

    /// Changes from now on whenever a shard may have become ready.
    pub fn watch_ready(&self) -> watch::Receiver<()> {
        self.ready.subscribe()
    }

    /// Changes from now on whenever a job changed.
    pub fn watch_jobs(&self) -> watch::Receiver<()> {
        self.jobs.subscribe()
    }

    /// Returns once after a job became complete.
    pub async fn until_complete(&self) {
        self.complete.notified().await;
    }

    /// Returns once after a submission was given up.
    pub async fn until_abandoned(&self) {
        self.abandoned.notified().await;
    }
}

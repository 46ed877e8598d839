//! Leaving: what is in hand is finished if there is time, the rest is handed back, and what is in the outbox is told.

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use super::Shift;
use crate::Error;

impl Shift {
    /// The machine is gone soon after this time: what is not done then is left. Each device stops before that what it cannot
    /// finish by then.
    pub(super) fn end_at(&mut self, end: Option<Instant>) {
        self.end_by = self.end_by.into_iter().chain(end).min();
    }

    /// Starts no more images and leases no more shards; what is in hand goes on.
    pub(super) fn leave(&mut self, why: &str) {
        if self.leaving {
            return;
        }
        tracing::info!(why, "leaving");
        self.leave.say(why);
        self.outbox.stats().leaves(why);
        self.leaving = true;
        self.skip.cancel();
        if let Some(leasing) = self.leasing.take() {
            // A lease granted in this moment is released when the session closes.
            leasing.abort();
        }
        for shard in &mut self.shards {
            shard.cut_short |= !shard.waiting.is_empty();
            shard.waiting.clear();
        }
    }

    /// Leaves with an error; the first one is told.
    pub(super) fn fail(&mut self, failure: Error) {
        tracing::error!(error = %failure, "worker ends");
        self.failure.get_or_insert(failure);
        self.leave("an error");
    }

    /// Closes one stage after the other when the worker leaves: each has all that it will get.
    pub(super) fn wind_down(&mut self) {
        if !self.leaving {
            return;
        }
        if !self.images.is_empty() {
            return;
        }
        if !self.flushing {
            self.flushing = true;
            self.end_at(Some(Instant::now() + self.drain_timeout));
        }
        self.outbox.close();
        if !self.storing {
            self.outbox.close_reports();
        }
    }

    /// There is no more time: what is in hand is stopped, and what is in the outbox stays there. What is rendered may still get
    /// there.
    pub(super) fn end(&mut self) {
        self.end_by = None;
        self.stop_by.get_or_insert_with(|| Instant::now() + self.stop_limit);
        self.stop.cancel();
        self.stop_storing.cancel();
    }

    /// The disk does not take what is rendered.
    pub(super) fn abandon(&mut self) {
        tracing::warn!(images = self.images.len(), "rendered images are not kept in time");
        self.images.abort_all();
    }

    /// Whether nothing is left to finish, report or hand back.
    pub(super) fn has_left(&self) -> bool {
        let at_work = self.storing
            || self.reporting
            || self.releasing > 0
            || !self.images.is_empty()
            || !self.shards.is_empty();
        self.leaving && !at_work
    }

    pub(super) async fn wait_for_engine(&mut self, ended: oneshot::Receiver<Result<(), Error>>) {
        let (stop, stop_by, limit) = (self.stop.clone(), self.stop_by, self.stop_limit);
        let too_long = async {
            stop.cancelled().await;
            sleep_until(stop_by.unwrap_or_else(|| Instant::now() + limit)).await;
        };
        tokio::select! {
            biased;
            end = ended => self.engine_ended(end),
            () = too_long => tracing::warn!("engine does not stop: leaving it to the end of the process"),
        }
    }
}

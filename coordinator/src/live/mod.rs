//! Hints: inside one process, and to the other coordinators of the same database when there is a relay for them.
//! Whoever waits for one also looks at the database now and then, so that a hint that is lost costs delay only.
//!
//! - [`relay`]: to and from the other coordinators
//! - [`redis`]: through Redis

use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::{Notify, watch};

pub(crate) mod redis;
pub(crate) mod relay;

/// Something that somebody may wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hint {
    /// A shard may have become ready.
    Ready,
    /// A job changed.
    Changed,
    /// All images of a job have their result.
    Complete,
    /// A submission was given up: its rows can go.
    Abandoned,
}

impl Hint {
    const ALL: [Self; 4] = [Self::Ready, Self::Changed, Self::Complete, Self::Abandoned];

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Hints that were given since the relay last looked: each counts once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hints(u8);

impl Hints {
    /// Every hint: after a time in which some may have been missed.
    pub fn all() -> Self {
        Self(Hint::ALL.iter().fold(0, |bits, hint| bits | hint.bit()))
    }

    /// As a relay sends them.
    pub fn to_text(self) -> String {
        self.0.to_string()
    }

    /// What another coordinator sent; hints that this program does not know are left out.
    pub fn from_text(text: &str) -> Option<Self> {
        text.parse().ok().map(Self)
    }
}

/// The hints.
#[derive(Debug)]
pub(crate) struct Live {
    ready: watch::Sender<()>,
    jobs: watch::Sender<()>,
    complete: Notify,
    abandoned: Notify,
    /// For the other coordinators, not sent yet.
    outgoing: AtomicU8,
    sending: Notify,
}

impl Live {
    pub fn new() -> Self {
        Self {
            ready: watch::Sender::new(()),
            jobs: watch::Sender::new(()),
            complete: Notify::new(),
            abandoned: Notify::new(),
            outgoing: AtomicU8::new(0),
            sending: Notify::new(),
        }
    }

    /// A shard may have become ready.
    pub fn shards_ready(&self) {
        self.give(Hint::Ready);
    }

    /// A job changed.
    pub fn job_changed(&self) {
        self.give(Hint::Changed);
    }

    /// All images of a job have their result.
    pub fn job_complete(&self) {
        self.give(Hint::Complete);
    }

    /// A submission was given up: its rows can go.
    pub fn job_abandoned(&self) {
        self.give(Hint::Abandoned);
    }

    /// Here and to the others.
    fn give(&self, hint: Hint) {
        self.wake(hint);
        self.outgoing.fetch_or(hint.bit(), Ordering::Relaxed);
        self.sending.notify_one();
    }

    fn wake(&self, hint: Hint) {
        match hint {
            Hint::Ready => self.ready.send_modify(|()| {}),
            Hint::Changed => self.jobs.send_modify(|()| {}),
            Hint::Complete => self.complete.notify_one(),
            Hint::Abandoned => self.abandoned.notify_one(),
        }
    }

    /// Hints for the other coordinators, when there are any. For one relay.
    pub async fn outgoing(&self) -> Hints {
        loop {
            self.sending.notified().await;
            let hints = self.outgoing.swap(0, Ordering::Relaxed);
            if hints != 0 {
                return Hints(hints);
            }
        }
    }

    /// Hints from another coordinator.
    pub fn incoming(&self, hints: Hints) {
        for hint in Hint::ALL {
            if hints.0 & hint.bit() != 0 {
                self.wake(hint);
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn hints_cross_to_another_coordinator_once() {
        let (here, there) = (Live::new(), Live::new());
        let (ready, jobs) = (there.watch_ready(), there.watch_jobs());
        here.shards_ready();
        here.shards_ready();
        here.job_complete();
        let text = here.outgoing().await.to_text();
        there.incoming(Hints::from_text(&text).unwrap());
        assert_eq!((ready.has_changed().unwrap(), jobs.has_changed().unwrap()), (true, false));
        there.until_complete().await;
        // What came from elsewhere is not sent on.
        there.job_changed();
        assert_eq!(there.outgoing().await, Hints(Hint::Changed.bit()));
        assert_eq!(Hints::from_text("nonsense"), None);
    }
}

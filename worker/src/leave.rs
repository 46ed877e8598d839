//! Leaving: who asks for it, why, and by when.

use std::sync::{Mutex, PoisonError};

use sanafarm_proto::v1::Drain;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Shutdown;

/// Shared by the shift and all that may ask it to leave.
#[derive(Debug)]
pub(crate) struct Leave {
    /// Follows the shutdown from outside.
    shutdown: Shutdown,
    /// Empty while the worker stays.
    why: watch::Sender<String>,
    /// The machine is gone then.
    deadline: Mutex<Option<Instant>>,
}

impl Leave {
    pub(crate) fn new(shutdown: &Shutdown) -> Self {
        let shutdown = Shutdown { soft: shutdown.soft.child_token(), hard: shutdown.hard.child_token() };
        Self { shutdown, why: watch::Sender::new(String::new()), deadline: Mutex::new(None) }
    }

    /// Cancelled when the image in hand is to be the last.
    pub(crate) fn soft(&self) -> &CancellationToken {
        &self.shutdown.soft
    }

    /// Cancelled when even that is to be stopped.
    pub(crate) fn hard(&self) -> &CancellationToken {
        &self.shutdown.hard
    }

    /// The coordinator asks, or not.
    pub(crate) fn asked(&self, drain: Drain, why: &str) {
        match drain {
            Drain::Unspecified => {}
            Drain::Soon => self.soon(why),
            Drain::Now => {
                self.say(why);
                self.shutdown.hard.cancel();
            }
        }
    }

    /// After the image in hand.
    pub(crate) fn soon(&self, why: &str) {
        self.say(why);
        self.shutdown.soft.cancel();
    }

    /// After the image in hand, if that is finished before the machine is gone.
    pub(crate) fn by(&self, deadline: Instant, why: &str) {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = Some(deadline);
        self.soon(why);
    }

    /// When the machine is gone.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says why the worker leaves; the first reason is the one that is told.
    pub(crate) fn say(&self, why: &str) {
        self.why.send_if_modified(|said| {
            let first = said.is_empty();
            if first {
                why.clone_into(said);
            }
            first
        });
    }

    /// What is said.
    pub(crate) fn reasons(&self) -> watch::Receiver<String> {
        self.why.subscribe()
    }
}

//! Leaving: who asks for it, why, and by when.

use std::time::Duration;

use sanafarm_proto::v1::Drain;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Shutdown;

/// Set aside before the machine is gone, for the last words.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Shared by the shift and all that may ask it to leave.
#[derive(Debug)]
pub(crate) struct Leave {
    /// Follows the shutdown from outside.
    shutdown: Shutdown,
    /// Empty while the worker stays.
    why: watch::Sender<String>,
    /// The end of all work: soon after it the machine is gone.
    end: watch::Sender<Option<Instant>>,
}

impl Leave {
    pub(crate) fn new(shutdown: &Shutdown) -> Self {
        let shutdown = Shutdown { soft: shutdown.soft.child_token(), hard: shutdown.hard.child_token() };
        Self { shutdown, why: watch::Sender::new(String::new()), end: watch::Sender::new(None) }
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
            Drain::Now => self.cancel(&self.shutdown.hard, why),
        }
    }

    /// After the image in hand.
    pub(crate) fn soon(&self, why: &str) {
        self.cancel(&self.shutdown.soft, why);
    }

    fn cancel(&self, token: &CancellationToken, why: &str) {
        self.say_when(why, || token.cancel());
    }

    /// After the image in hand, if that is finished before the machine is gone: at the first of the times that are told.
    pub(crate) fn by(&self, gone: Instant, why: &str) {
        let end = gone.checked_sub(LAST_WORDS).unwrap_or(gone);
        self.end.send_if_modified(|known| {
            let is_first = known.is_none_or(|known| end < known);
            if is_first {
                *known = Some(end);
            }
            is_first
        });
        self.soon(why);
    }

    /// When all work must be done; none while nobody says that the machine will be gone.
    pub(crate) fn ends(&self) -> watch::Receiver<Option<Instant>> {
        self.end.subscribe()
    }

    /// Says why the worker leaves; the first reason is the one that is told.
    pub(crate) fn say(&self, why: &str) {
        self.say_when(why, || {});
    }

    /// The same, with something that is done in one step with it: who finds one of the two finds the other.
    fn say_when(&self, why: &str, done: impl FnOnce()) {
        self.why.send_if_modified(|said| {
            done();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_and_what_is_cancelled_come_together() {
        // One look may meet the moment between the two, if there were one; so many do.
        for _ in 0..500 {
            let leave = Leave::new(&Shutdown::default());
            std::thread::scope(|scope| {
                let hears = scope.spawn(|| {
                    while leave.reasons().borrow().is_empty() {}
                    leave.soft().is_cancelled()
                });
                let finds = scope.spawn(|| {
                    while !leave.soft().is_cancelled() {}
                    leave.reasons().borrow().clone()
                });
                leave.soon("it was asked to");
                assert_eq!(
                    (hears.join().unwrap(), finds.join().unwrap().as_str()),
                    (true, "it was asked to")
                );
            });
        }
    }
}

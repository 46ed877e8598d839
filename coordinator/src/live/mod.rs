//! Hints: inside one process, and to the other coordinators of the same database when there is a relay for them.
//! Whoever waits for one also looks at the database now and then, so that a hint that is lost costs delay only.
//!
//! - `progress`: what workers do at this moment
//! - [`relay`]: to and from the other coordinators
//! - [`redis`]: through Redis; [`postgres`]: through the database itself

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, broadcast, watch};

use crate::domain::leaving::Drain;
use progress::Progress;
pub(crate) use progress::{Doing, Notice};

pub(crate) mod postgres;
mod progress;
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
    /// A job has ended: others may wait for it in vain.
    Settled,
    /// A tar was committed: it can get its final name.
    Archived,
}

impl Hint {
    const ALL: [Self; 6] =
        [Self::Ready, Self::Changed, Self::Complete, Self::Abandoned, Self::Settled, Self::Archived];

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// What was given since the relay last looked: each hint counts once, of each session the newest word.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hints {
    bits: u8,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    doing: BTreeMap<String, Option<Doing>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ended: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    drained: BTreeMap<String, Drain>,
}

impl Hints {
    /// Every hint: after a time in which some may have been missed.
    pub fn all() -> Self {
        let bits = Hint::ALL.iter().fold(0, |bits, hint| bits | hint.bit());
        Self { bits, ..Self::default() }
    }

    /// As a relay sends them, in `most` bytes: what workers do is left out first.
    pub fn to_text(&self, most: usize) -> String {
        let text =
            |hints: &Self| serde_json::to_string(hints).unwrap_or_else(|_| r#"{"bits":255}"#.to_owned());
        let whole = text(self);
        if whole.len() <= most {
            return whole;
        }
        let short = text(&Self { doing: BTreeMap::new(), ..self.clone() });
        if short.len() <= most { short } else { text(&Self { bits: self.bits, ..Self::default() }) }
    }

    /// What another coordinator sent; hints that this program does not know are left out.
    pub fn from_text(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The hints.
#[derive(Debug)]
pub(crate) struct Live {
    ready: watch::Sender<()>,
    jobs: watch::Sender<()>,
    complete: Notify,
    abandoned: Notify,
    settled: Notify,
    ended: Notify,
    archived: Notify,
    /// For the other coordinators, not sent yet.
    outgoing: Mutex<Hints>,
    sending: Notify,
    progress: Progress,
}

impl Live {
    pub fn new() -> Self {
        Self {
            ready: watch::Sender::new(()),
            jobs: watch::Sender::new(()),
            complete: Notify::new(),
            abandoned: Notify::new(),
            settled: Notify::new(),
            ended: Notify::new(),
            archived: Notify::new(),
            outgoing: Mutex::default(),
            sending: Notify::new(),
            progress: Progress::new(),
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

    /// A job has ended: others may wait for it in vain.
    pub fn job_settled(&self) {
        self.give(Hint::Settled);
    }

    /// A tar was committed: it can get its final name.
    pub fn archive_committed(&self) {
        self.give(Hint::Archived);
    }

    /// Here and to the others.
    fn give(&self, hint: Hint) {
        self.wake(hint);
        self.send(|outgoing| outgoing.bits |= hint.bit());
    }

    /// What a session does now; none when it waits or is gone.
    pub fn doing(&self, session: &str, doing: Option<Doing>) {
        self.progress.set(session, doing.clone());
        self.jobs.send_modify(|()| {});
        self.send(|outgoing| drop(outgoing.doing.insert(session.to_owned(), doing)));
    }

    /// What is rendered of a job.
    pub fn rendering(&self, job: &str) -> Vec<Doing> {
        self.progress.of(job)
    }

    /// A job has ended before its time: workers stop what they have in hand of it.
    pub fn job_ended(&self, job: &str) {
        self.progress.notify(Notice::Ended(job.to_owned()));
        self.send(|outgoing| outgoing.ended.push(job.to_owned()));
    }

    /// A session is asked to leave.
    pub fn drained(&self, session: &str, drain: Drain) {
        self.progress.notify(Notice::Drain { session: session.to_owned(), drain });
        self.send(|outgoing| outgoing.drained.extend([(session.to_owned(), drain)]));
    }

    /// What workers should know at once, from now on.
    pub fn notices(&self) -> broadcast::Receiver<Notice> {
        self.progress.notices()
    }

    fn send(&self, add: impl FnOnce(&mut Hints)) {
        // No critical section leaves it half-changed.
        add(&mut self.outgoing.lock().unwrap_or_else(PoisonError::into_inner));
        self.sending.notify_one();
    }

    fn wake(&self, hint: Hint) {
        match hint {
            Hint::Ready => self.ready.send_modify(|()| {}),
            Hint::Changed => self.jobs.send_modify(|()| {}),
            Hint::Complete => self.complete.notify_one(),
            Hint::Abandoned => self.abandoned.notify_one(),
            Hint::Settled => {
                self.settled.notify_one();
                self.ended.notify_one();
            }
            Hint::Archived => self.archived.notify_one(),
        }
    }

    /// Hints for the other coordinators, when there are any. For one relay.
    pub async fn outgoing(&self) -> Hints {
        loop {
            self.sending.notified().await;
            let hints = std::mem::take(&mut *self.outgoing.lock().unwrap_or_else(PoisonError::into_inner));
            if !hints.is_empty() {
                return hints;
            }
        }
    }

    /// Hints from another coordinator.
    pub fn incoming(&self, hints: Hints) {
        for hint in Hint::ALL {
            if hints.bits & hint.bit() != 0 {
                self.wake(hint);
            }
        }
        if !hints.doing.is_empty() {
            self.jobs.send_modify(|()| {});
        }
        for (session, doing) in hints.doing {
            self.progress.set(&session, doing);
        }
        for job in hints.ended {
            self.progress.notify(Notice::Ended(job));
        }
        for (session, drain) in hints.drained {
            self.progress.notify(Notice::Drain { session, drain });
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

    /// Returns once after a job has ended.
    pub async fn until_settled(&self) {
        self.settled.notified().await;
    }

    /// The same, apart from those who wait for the jobs that it held back.
    pub async fn until_ended(&self) {
        self.ended.notified().await;
    }

    /// Returns once after a tar was committed.
    pub async fn until_archived(&self) {
        self.archived.notified().await;
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
        let text = here.outgoing().await.to_text(usize::MAX);
        there.incoming(Hints::from_text(&text).unwrap());
        assert_eq!((ready.has_changed().unwrap(), jobs.has_changed().unwrap()), (true, false));
        there.until_complete().await;
        // What came from elsewhere is not sent on.
        there.job_changed();
        assert_eq!(there.outgoing().await, Hints { bits: Hint::Changed.bit(), ..Hints::default() });
        assert_eq!(Hints::from_text("nonsense"), None);
    }

    #[tokio::test]
    async fn what_workers_do_is_known_elsewhere_and_left_out_when_it_is_too_much() {
        let (here, there) = (Live::new(), Live::new());
        let doing = Doing {
            worker: "w".to_owned(),
            job: "j".to_owned(),
            index: 3,
            stage: "denoise".to_owned(),
            step: 4,
            steps: 20,
        };
        let mut notices = there.notices();
        here.doing("s", Some(doing.clone()));
        here.job_ended("k");
        here.drained("s", Drain::Now);
        let hints = here.outgoing().await;
        there.incoming(Hints::from_text(&hints.to_text(1000)).unwrap());
        assert_eq!(there.rendering("j"), [doing]);
        assert_eq!(there.rendering("k"), []);
        assert_eq!(notices.recv().await.unwrap(), Notice::Ended("k".to_owned()));
        assert_eq!(
            notices.recv().await.unwrap(),
            Notice::Drain { session: "s".to_owned(), drain: Drain::Now }
        );
        assert_eq!(hints.to_text(50), r#"{"bits":0,"ended":["k"],"drained":{"s":"now"}}"#);
        assert_eq!(hints.to_text(20), r#"{"bits":0}"#);
        here.doing("s", None);
        there.incoming(here.outgoing().await);
        assert_eq!(there.rendering("j"), []);
    }
}

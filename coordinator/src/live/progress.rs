//! What workers do at this moment, and what they should know at once: in memory only.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tokio::time::Instant;

use crate::domain::leaving::Drain;

/// What a session said is out of date after this. It says something new with each step; a step of a large picture may
/// take a while.
const STALE: Duration = Duration::from_secs(120);
/// Notices that a slow listener may be behind by; what it misses it learns when it renews.
const NOTICES: usize = 256;

/// An image that is being rendered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Doing {
    pub worker: String,
    pub job: String,
    pub index: u64,
    pub stage: String,
    pub step: u32,
    pub steps: u32,
}

/// What workers should know at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// This job has ended before its time.
    Ended(String),
    /// A session is asked to leave.
    Drain { session: String, drain: Drain },
}

/// By session.
#[derive(Debug)]
pub(super) struct Progress {
    doing: Mutex<HashMap<String, (Instant, Doing)>>,
    notices: broadcast::Sender<Notice>,
}

impl Progress {
    pub fn new() -> Self {
        Self { doing: Mutex::default(), notices: broadcast::Sender::new(NOTICES) }
    }

    /// What a session does now; none when it waits or is gone.
    pub fn set(&self, session: &str, doing: Option<Doing>) {
        let now = Instant::now();
        let mut all = self.lock();
        all.retain(|_, (said_at, _)| now < *said_at + STALE);
        match doing {
            Some(doing) => drop(all.insert(session.to_owned(), (now, doing))),
            None => drop(all.remove(session)),
        }
    }

    /// What is rendered of a job, by worker.
    pub fn of(&self, job: &str) -> Vec<Doing> {
        let now = Instant::now();
        let mut found: Vec<_> = self
            .lock()
            .values()
            .filter(|(said_at, doing)| doing.job == job && now < *said_at + STALE)
            .map(|(_, doing)| doing.clone())
            .collect();
        found.sort_by(|a, b| (&a.worker, a.index).cmp(&(&b.worker, b.index)));
        found
    }

    /// Tells those that listen, if anybody does.
    pub fn notify(&self, notice: Notice) {
        let _ = self.notices.send(notice);
    }

    /// Notices from now on.
    pub fn notices(&self) -> broadcast::Receiver<Notice> {
        self.notices.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Instant, Doing)>> {
        // No critical section above leaves the map half-changed.
        self.doing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

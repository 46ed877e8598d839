//! Events of one sort that follow each other, as one line: a long job has thousands of leases.

use std::collections::BTreeSet;

use prost_types::Timestamp;
use sanafarm_coordinator::domain::event::EventKind;
use sanafarm_proto::v1::Event;

use super::words::{Telling, Words, when};
use crate::printer::amounts::{count, counted};
use crate::printer::one_line;

/// So many events are told one by one.
const FEW: usize = 4;

/// Joins events into lines. Keeps some of them, however many there are.
#[derive(Debug)]
pub struct Runs {
    words: Words,
    /// A line for each event.
    all: bool,
    run: Option<Run>,
}

/// What events have in common that are told together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    /// Leases that are granted and finished.
    Work,
    Released,
    Lost,
    Revoked,
    Failed,
}

/// Events of one sort.
#[derive(Debug)]
struct Run {
    sort: Sort,
    job: String,
    /// Why it happened.
    why: String,
    /// The first ones.
    few: Vec<Event>,
    last_at: Option<Timestamp>,
    granted: u64,
    /// All others.
    events: u64,
    /// Of these.
    images: u64,
    /// As many as the farm has.
    workers: BTreeSet<String>,
}

impl Runs {
    /// Nothing yet.
    pub fn new(words: Words, all: bool) -> Self {
        Self { words, all, run: None }
    }

    /// The next event; the lines that it completes.
    pub fn push(&mut self, event: Event) -> Vec<String> {
        let sort = if self.all { None } else { sort(&event) };
        let Some(sort) = sort else { return self.alone(&event) };
        let why = why(sort, &event);
        let joins = |run: &Run| run.sort == sort && run.job == event.job_id && run.why == why;
        let lines = if self.run.as_ref().is_some_and(joins) { Vec::new() } else { self.end() };
        let run = self.run.get_or_insert_with(|| Run::new(sort, event.job_id.clone(), why));
        run.add(event);
        lines
    }

    /// The lines that are left.
    pub fn end(&mut self) -> Vec<String> {
        self.run.take().map(|run| run.lines(self.words)).unwrap_or_default()
    }

    fn alone(&mut self, event: &Event) -> Vec<String> {
        // A job starts with its first lease, and that may be written down before.
        let started = event.kind == EventKind::JobStarted.word();
        let with = |run: &Run| run.few.first().is_some_and(|first| first.at == event.at);
        if started && self.run.as_ref().is_some_and(with) {
            return vec![self.words.line(event)];
        }
        let mut lines = self.end();
        lines.push(self.words.line(event));
        lines
    }
}

fn sort(event: &Event) -> Option<Sort> {
    match event.kind.parse::<EventKind>().ok()? {
        EventKind::LeaseGranted | EventKind::LeaseFinished => Some(Sort::Work),
        EventKind::LeaseReleased => Some(Sort::Released),
        EventKind::LeaseLost => Some(Sort::Lost),
        EventKind::LeaseRevoked => Some(Sort::Revoked),
        EventKind::ImageFailed => Some(Sort::Failed),
        EventKind::JobSubmitted
        | EventKind::JobStarted
        | EventKind::JobFinished
        | EventKind::JobCancelled
        | EventKind::JobPaused
        | EventKind::JobResumed
        | EventKind::JobPrioritised
        | EventKind::JobRetried
        | EventKind::JobRequeued
        | EventKind::ShardCut
        | EventKind::SessionOpened
        | EventKind::SessionClosed
        | EventKind::OutputError
        | EventKind::OwnerHeld
        | EventKind::OwnerLetGo
        | EventKind::OwnerWeighed
        | EventKind::WorkerExcluded
        | EventKind::WorkerForgiven
        | EventKind::WorkerDrained
        | EventKind::WorkerLeaving
        | EventKind::WebhookDelivered
        | EventKind::WebhookFailed => None,
    }
}

fn why(sort: Sort, event: &Event) -> String {
    let telling = Telling::new(event, Words { with_job: false });
    match sort {
        Sort::Work | Sort::Lost => String::new(),
        Sort::Released => telling.release_reason(),
        Sort::Revoked => format!(" by {}{}", telling.who(), telling.why()),
        Sort::Failed => telling.error(),
    }
}

impl Run {
    fn new(sort: Sort, job: String, why: String) -> Self {
        Self {
            sort,
            job,
            why,
            few: Vec::new(),
            last_at: None,
            granted: 0,
            events: 0,
            images: 0,
            workers: BTreeSet::new(),
        }
    }

    fn add(&mut self, event: Event) {
        self.last_at = event.at;
        if event.kind == EventKind::LeaseGranted.word() {
            self.granted += 1;
        } else {
            self.events += 1;
            self.images += event.range.map_or(0, |range| range.images);
        }
        if !self.workers.contains(&event.worker) {
            self.workers.insert(event.worker.clone());
        }
        if self.few.len() < FEW {
            self.few.push(event);
        }
    }

    fn lines(self, words: Words) -> Vec<String> {
        if self.granted + self.events <= FEW as u64 {
            return self.few.iter().map(|event| words.line(event)).collect();
        }
        let first = self.few.first().and_then(|event| event.at);
        let until = if first == self.last_at {
            String::new()
        } else {
            format!(", until {}", when(self.last_at.as_ref()))
        };
        vec![format!("{}  {}{until}", when(first.as_ref()), one_line(&self.sentence(words)))]
    }

    fn sentence(&self, words: Words) -> String {
        let of_job = self.few.first().map(|event| Telling::new(event, words).of_job()).unwrap_or_default();
        let on = match self.workers.first() {
            Some(worker) if self.workers.len() == 1 => worker.clone(),
            Some(_) | None => counted(self.workers.len() as u64, "worker"),
        };
        let (leases, images) = (counted(self.events, "lease"), counted(self.images, "image"));
        let why = &self.why;
        match self.sort {
            Sort::Work => {
                let granted = counted(self.granted, "lease");
                match (self.granted, self.events) {
                    (_, 0) => format!("{granted}{of_job} granted to {on}"),
                    (0, _) => format!("{leases}{of_job} done ({images}) on {on}"),
                    (_, done) => {
                        let done = count(done);
                        format!("{granted}{of_job} granted and {done} done ({images}) on {on}")
                    }
                }
            }
            Sort::Released => format!("{leases}{of_job} ({images}) handed back by {on}{why}"),
            Sort::Lost => format!("{leases}{of_job} ({images}) lost with {on}"),
            Sort::Revoked => format!("{leases}{of_job} ({images}) taken away from {on}{why}"),
            Sort::Failed => {
                let first = self.few.first().and_then(|event| event.image_index).unwrap_or_default();
                let images = counted(self.events, "image");
                format!("{images}{of_job} given up on {on}, the first is image {first}{why}")
            }
        }
    }
}

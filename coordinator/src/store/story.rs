//! The story of an image, out of what several tables tell of it.

use std::collections::HashMap;

use jiff::Timestamp;
use serde_json::json;

use super::records::{By, EventRecord, Image, ImageStory};
use crate::domain::blame::ErrorClass;
use crate::domain::event::{EventKind, ImageKind};
use crate::domain::id::{JobId, SessionId};
use crate::domain::state::ImageState;

/// An error that a worker reported of the image.
#[derive(Clone, Debug)]
pub(super) struct ImageError {
    pub at: Timestamp,
    pub attempt: u32,
    pub session: Option<SessionId>,
    pub worker: String,
    pub device: String,
    pub class: ErrorClass,
    pub error: String,
}

/// A result that was taken back.
#[derive(Clone, Debug)]
pub(super) struct Retried {
    pub attempt: u32,
    pub finished_at: Timestamp,
    pub retried_at: Timestamp,
    /// None of a failure: the history tells of it.
    pub picture: Option<Picture>,
}

/// A picture of the image.
#[derive(Clone, Debug)]
pub(super) struct Picture {
    pub session: Option<SessionId>,
    pub worker: String,
    pub device: String,
    pub bytes: Option<u64>,
    pub sha256: Option<String>,
    pub render_seconds: f64,
    pub decode_seconds: f64,
}

/// What the tables tell of one image.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub job: JobId,
    pub image: Image,
    /// Session that its result came from.
    pub session: Option<SessionId>,
    /// In order: those of its shard, its own, and those of its job.
    pub events: Vec<EventRecord>,
    pub errors: Vec<ImageError>,
    pub retried: Vec<Retried>,
}

/// A time in which the image had a result.
struct Settled {
    from: Timestamp,
    /// It was taken back.
    until: Option<Timestamp>,
    attempt: u32,
}

impl Told {
    /// The events that concern the image, in order.
    pub fn story(self) -> ImageStory {
        let mut settled: Vec<Settled> = self
            .retried
            .iter()
            .map(|retried| Settled {
                from: retried.finished_at,
                until: Some(retried.retried_at),
                attempt: retried.attempt,
            })
            .collect();
        if let Some(result) = &self.image.result {
            settled.push(Settled { from: result.finished_at, until: None, attempt: result.attempt });
        }
        let besides = self.besides();
        let granted: HashMap<Option<u32>, Timestamp> = self
            .events
            .iter()
            .filter(|event| event.kind == EventKind::LeaseGranted.word())
            .map(|event| (event.attempt, event.at))
            .collect();
        let events = self.events.iter().filter(|event| self.concerns(event, &granted, &settled));
        let mut story: Vec<EventRecord> = events.cloned().collect();
        for more in besides {
            let granted = story.iter().position(|event| {
                event.kind == EventKind::LeaseGranted.word() && event.attempt == more.attempt
            });
            let from = granted.map_or(0, |granted| granted + 1);
            let place = story.iter().skip(from).position(|event| follows(event, &more));
            story.insert(place.map_or(story.len(), |place| from + place), more);
        }
        let losses = story.iter().filter(|event| self.lost_by(event, &settled)).count() as u64;
        let newest = story.iter().rev().find(|event| event.shard.is_some() && event.index.is_none());
        let held = newest.filter(|event| event.kind == EventKind::LeaseGranted.word());
        let open = self.image.state == ImageState::Pending;
        let held_by = held.filter(|_| open).map(|event| event.worker.clone());
        ImageStory { image: self.image, losses, held_by, events: story }
    }

    /// Whether a worker was lost while it rendered the image.
    fn lost_by(&self, event: &EventRecord, settled: &[Settled]) -> bool {
        #[derive(serde::Deserialize)]
        struct Lost {
            rendering: Vec<u64>,
        }
        let had_result = |at: Timestamp| {
            settled.iter().any(|settled| settled.from < at && settled.until.is_none_or(|until| at < until))
        };
        event.kind == EventKind::LeaseLost.word()
            && !had_result(event.at)
            && serde_json::from_str::<Lost>(&event.detail)
                .is_ok_and(|lost| lost.rendering.contains(&self.image.index))
    }

    /// Whether an event tells of this image: an attempt at its shard does unless the image had its result by then.
    /// `granted` is when each attempt began.
    fn concerns(
        &self,
        event: &EventRecord,
        granted: &HashMap<Option<u32>, Timestamp>,
        settled: &[Settled],
    ) -> bool {
        let open_at = |at: Timestamp, attempt: u32| {
            !settled.iter().any(|settled| {
                settled.from <= at
                    && settled.until.is_none_or(|until| at < until)
                    && settled.attempt < attempt
            })
        };
        match event.kind.parse::<EventKind>() {
            Ok(
                EventKind::LeaseGranted
                | EventKind::LeaseFinished
                | EventKind::LeaseReleased
                | EventKind::LeaseLost
                | EventKind::LeaseRevoked,
            ) => {
                let attempt = event.attempt.unwrap_or_default();
                open_at(granted.get(&event.attempt).copied().unwrap_or(event.at), attempt)
            }
            Ok(EventKind::JobRetried | EventKind::JobRequeued) => {
                self.retried.iter().any(|retried| retried.retried_at == event.at)
            }
            Ok(EventKind::JobPaused | EventKind::JobResumed | EventKind::JobCancelled) => {
                open_at(event.at, u32::MAX)
            }
            Ok(_) | Err(_) => true,
        }
    }

    /// What is no event: errors that did not end it, and its pictures.
    fn besides(&self) -> Vec<EventRecord> {
        let event =
            |at, kind: ImageKind, attempt, session: &Option<SessionId>, worker: &str, detail| EventRecord {
                seq: 0,
                at,
                kind: kind.word().to_owned(),
                job: Some(self.job.clone()),
                shard: None,
                range: None,
                index: Some(self.image.index),
                attempt: Some(attempt),
                session: session.clone(),
                worker: worker.to_owned(),
                devices: Vec::new(),
                detail,
                actor: if worker.is_empty() { By::NOBODY } else { worker }.to_owned(),
                reason: String::new(),
            };
        let errors = self.errors.iter().map(|error| {
            let detail =
                json!({ "error_class": error.class.word(), "error": error.error, "device": error.device });
            let kind = ImageKind::ImageError;
            event(error.at, kind, error.attempt, &error.session, &error.worker, detail.to_string())
        });
        let mut besides: Vec<EventRecord> = errors.collect();
        let mut done = |at, attempt, picture: &Picture| {
            let detail = json!({
                "object": self.image.object,
                "bytes": picture.bytes,
                "sha256": picture.sha256,
                "device": picture.device,
                "render_seconds": picture.render_seconds,
                "decode_seconds": picture.decode_seconds,
            });
            let Picture { session, worker, .. } = picture;
            besides.push(event(at, ImageKind::ImageDone, attempt, session, worker, detail.to_string()));
        };
        for retried in &self.retried {
            if let Some(picture) = &retried.picture {
                done(retried.finished_at, retried.attempt, picture);
            }
        }
        if let (ImageState::Done, Some(result)) = (self.image.state, &self.image.result) {
            let picture = Picture {
                session: self.session.clone(),
                worker: result.worker.clone(),
                device: result.device.clone(),
                bytes: result.bytes,
                sha256: result.sha256.clone(),
                render_seconds: result.render_seconds,
                decode_seconds: result.decode_seconds,
            };
            done(result.finished_at, result.attempt, &picture);
        }
        besides
    }
}

/// Whether an event, which comes after the beginning of an attempt, comes after what that attempt reported. Of one
/// moment, it ends the attempt or comes later.
fn follows(event: &EventRecord, reported: &EventRecord) -> bool {
    event.at > reported.at
        || event.at == reported.at
            && match event.attempt {
                Some(_) => event.attempt >= reported.attempt && event.kind != ImageKind::ImageError.word(),
                None => event.kind != EventKind::JobSubmitted.word(),
            }
}

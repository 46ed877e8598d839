//! What happened, in words. Pure: an event in, a sentence out.

use prost_types::Timestamp;
use sanafarm_coordinator::domain::event::{EventKind, ImageKind};
use sanafarm_proto::v1::Event;
use serde_json::Value;

use crate::printer::amounts::{count, counted};
use crate::printer::one_line;

/// How events are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Words {
    /// Also of which job they are: in the story of a worker.
    pub with_job: bool,
}

impl Words {
    /// One line without its time. A kind that this program does not know is told as far as it goes.
    pub fn sentence(self, event: &Event) -> String {
        let telling = Telling::new(event, self);
        let text = match event.kind.parse::<EventKind>() {
            Ok(kind) => telling.known(kind),
            Err(_) => match event.kind.parse::<ImageKind>() {
                Ok(ImageKind::ImageError) => telling.image_error(),
                Ok(ImageKind::ImageDone) => telling.image_done(),
                Err(_) => telling.unknown(),
            },
        };
        one_line(&text)
    }

    /// The same with its time.
    pub fn line(self, event: &Event) -> String {
        format!("{}  {}", when(event.at.as_ref()), self.sentence(event))
    }
}

/// A time in UTC, for people.
pub fn when(time: Option<&Timestamp>) -> String {
    let text = time.map(ToString::to_string).unwrap_or_default();
    match (text.get(..10), text.get(11..19)) {
        (Some(day), Some(time)) => format!("{day} {time} UTC"),
        _ => text,
    }
}

/// An event with its detail.
pub(super) struct Telling<'a> {
    event: &'a Event,
    words: Words,
    detail: Value,
}

impl<'a> Telling<'a> {
    pub fn new(event: &'a Event, words: Words) -> Self {
        Self { event, words, detail: serde_json::from_str(&event.detail).unwrap_or_default() }
    }

    fn known(&self, kind: EventKind) -> String {
        let (who, why, worker) = (self.who(), self.why(), self.worker());
        match kind {
            EventKind::JobSubmitted => self.submitted(),
            EventKind::JobStarted => "the job started".to_owned(),
            EventKind::JobFinished => {
                let how = if self.text("state") == "succeeded" { "succeeded" } else { "failed" };
                format!("the job {how}: {}", self.made())
            }
            EventKind::JobCancelled => format!("{who} cancelled the job with {}{why}", self.made()),
            EventKind::JobPaused => format!("{who} paused the job{why}"),
            EventKind::JobResumed => format!("{who} resumed the job{why}"),
            EventKind::JobPrioritised => {
                let (from, to) = (self.integer("from"), self.integer("to"));
                format!("{who} changed the priority of the job from {from} to {to}{why}")
            }
            EventKind::JobRetried => {
                let images = counted(self.number("images"), "failed image");
                let class = self.text("error_class");
                let class = if class.is_empty() { String::new() } else { format!(" of class {class}") };
                format!("{who} had {images}{class} tried again{why}")
            }
            EventKind::JobRequeued => {
                let images = counted(self.number("images"), "image");
                format!("{who} had {images} rendered again, whose objects are lost or damaged{why}")
            }
            EventKind::LeaseGranted => match self.event.attempt {
                // Some may have their result.
                Some(2..) => format!("{worker} took what is left of {}", self.lease()),
                Some(_) | None => format!("{worker} took {}", self.lease()),
            },
            EventKind::LeaseFinished => format!("{worker} is done with {}", self.lease()),
            EventKind::LeaseReleased => {
                let why = self.release_reason();
                match self.by_worker() {
                    true => format!("{worker} handed back {}{why}", self.lease()),
                    false => format!("the {who} took back {} from {worker}{why}", self.lease()),
                }
            }
            EventKind::LeaseLost => format!("{worker} was lost with {}{}", self.lease(), self.rendering()),
            EventKind::LeaseRevoked => match self.by_worker() {
                true => format!("{worker} lost the right to {}: the job ended", self.lease()),
                false => format!("{who} took away {} from {worker}{why}", self.lease()),
            },
            EventKind::ShardCut => {
                let (images, first) = (counted(self.number("images"), "image"), self.number("first_index"));
                format!(
                    "{images} from image {first} on were cut off for another worker: {worker} keeps {}",
                    self.lease()
                )
            }
            EventKind::ImageFailed => {
                let (image, of_job, error) = (self.image(), self.of_job(), self.error());
                format!("{image}{of_job} was given up on {worker}{}{error}", self.attempt())
            }
            EventKind::SessionOpened => self.opened(),
            EventKind::SessionClosed => {
                let (reason, session) = (colon(self.text("reason")), self.session());
                match self.by_worker() {
                    true => format!("{worker} left{reason}{session}"),
                    false => format!("the {who} took {worker} for gone{reason}{session}"),
                }
            }
            EventKind::OutputError => {
                format!("the output of the job could not be written: {}", self.text("error"))
            }
            EventKind::OwnerHeld => format!("{who} held back the jobs of {}{why}", self.text("owner")),
            EventKind::OwnerLetGo => format!("{who} let the jobs of {} go on{why}", self.text("owner")),
            EventKind::OwnerWeighed => {
                let (owner, weight) = (self.text("owner"), self.real("weight"));
                format!("{who} changed the share of {owner} to {weight}{why}")
            }
            EventKind::WorkerExcluded => {
                let until = self.text("until").parse::<Timestamp>().ok();
                let times = counted(self.number("times"), "time");
                let until = when(until.as_ref());
                format!(
                    "{worker} failed image after image and gets nothing until {until} ({times} since its last picture)"
                )
            }
            EventKind::WorkerForgiven => {
                let times = counted(self.number("times"), "time");
                format!("{worker} rendered an image again and is forgiven (taken out {times} before)")
            }
            EventKind::WorkerDrained => {
                let how = if self.text("drain") == "now" { " at once" } else { "" };
                format!("{who} asked {worker} to leave{how}{why}")
            }
            EventKind::WorkerLeaving => format!("{worker} is leaving{why}"),
            EventKind::WebhookDelivered => {
                format!("the webhook was delivered at attempt {}", self.number("attempts"))
            }
            EventKind::WebhookFailed => {
                let attempts = counted(self.number("attempts"), "attempt");
                format!("the webhook was given up after {attempts}{}", colon(self.text("error")))
            }
        }
    }

    fn submitted(&self) -> String {
        let images = counted(self.number("images"), "image");
        // Older programs did not tell.
        let shards = match self.number("shards") {
            0 => String::new(),
            shards => format!(" in {}", counted(shards, "shard")),
        };
        let (model, output) = (self.text("model"), self.text("output"));
        format!(
            "{} submitted the job: {images}{shards}, model {model}, output {output}{}",
            self.who(),
            self.why()
        )
    }

    fn opened(&self) -> String {
        let devices: Vec<&str> = self.event.devices.iter().map(|device| device.id.as_str()).collect();
        let devices =
            if devices.is_empty() { String::new() } else { format!(", with {}", devices.join(", ")) };
        let version = self.text("version");
        format!("{} connected with version {version}{devices}{}", self.worker(), self.session())
    }

    fn image_error(&self) -> String {
        let (worker, image, on) = (self.worker(), self.image(), self.on_device());
        format!("{worker} could not render {image}{on}{}{}", self.attempt(), self.error())
    }

    fn image_done(&self) -> String {
        let (worker, image, on) = (self.worker(), self.image(), self.on_device());
        let (seconds, bytes) = (self.real("render_seconds"), count(self.number("bytes")));
        let (object, sha256) = (self.text("object"), self.text("sha256"));
        format!(
            "{worker} rendered {image}{on} in {seconds:.1} s{}: {object}, {bytes} bytes, sha256 {sha256}",
            self.attempt()
        )
    }

    /// A kind of a newer program.
    fn unknown(&self) -> String {
        let mut text = self.event.kind.replace('_', " ");
        if self.event.range.is_some() || self.event.image_index.is_some() {
            text.push_str(&format!(" with {}{}", self.images(), self.of_job()));
        }
        text.push_str(&self.attempt());
        if !self.event.worker.is_empty() {
            text.push_str(&format!(" on {}", self.event.worker));
        }
        text.push_str(&format!(" by {}{}", self.who(), self.why()));
        if !matches!(self.event.detail.as_str(), "" | "{}") {
            text.push_str(&format!(" {}", self.event.detail));
        }
        text
    }

    /// Images of a lease with its job and attempt.
    fn lease(&self) -> String {
        format!("{}{}{}", self.images(), self.of_job(), self.attempt())
    }

    fn images(&self) -> String {
        match self.event.range {
            None => self.image(),
            Some(range) if range.images == 1 => format!("image {}", range.first_index),
            Some(range) if range.last_index - range.first_index + 1 == range.images => {
                format!("images {} to {}", range.first_index, range.last_index)
            }
            Some(range) => {
                let images = counted(range.images, "image");
                format!("{images} between {} and {}", range.first_index, range.last_index)
            }
        }
    }

    fn image(&self) -> String {
        self.event.image_index.map_or_else(|| "an image".to_owned(), |index| format!("image {index}"))
    }

    pub fn of_job(&self) -> String {
        match (self.words.with_job, self.event.job_id.as_str()) {
            (true, job) if !job.is_empty() => format!(" of job {job}"),
            _ => String::new(),
        }
    }

    fn attempt(&self) -> String {
        self.event.attempt.map(|attempt| format!(" (attempt {attempt})")).unwrap_or_default()
    }

    fn session(&self) -> String {
        match self.event.session_id.as_str() {
            "" => String::new(),
            session => format!(" (session {session})"),
        }
    }

    fn worker(&self) -> &'a str {
        if self.event.worker.is_empty() { "an unknown worker" } else { &self.event.worker }
    }

    fn on_device(&self) -> String {
        match self.text("device") {
            "" => String::new(),
            device => format!(" on {device}"),
        }
    }

    /// It was the worker itself that did it.
    fn by_worker(&self) -> bool {
        self.event.actor == self.event.worker
    }

    pub fn who(&self) -> &'a str {
        &self.event.actor
    }

    pub fn why(&self) -> String {
        colon(&self.event.reason)
    }

    /// Why a lease was handed back.
    pub fn release_reason(&self) -> String {
        let cause = match self.text("reason") {
            "drain" => "it is leaving",
            "storage" => "its output cannot be written",
            "finished" => "some are to be tried again later",
            "session_closed" => "its session ended",
            // Nothing was said, or by a newer program.
            "unknown" | "" => "",
            other => other,
        };
        let said: Vec<&str> =
            [cause, self.text("message")].into_iter().filter(|said| !said.is_empty()).collect();
        colon(&said.join(", "))
    }

    fn rendering(&self) -> String {
        let indices = self.detail["rendering"].as_array().map(Vec::as_slice).unwrap_or_default();
        let indices: Vec<String> = indices.iter().map(ToString::to_string).collect();
        match indices.as_slice() {
            [] => ", none of them in hand".to_owned(),
            [index] => format!(" while it rendered image {index}"),
            many => format!(" while it rendered images {}", many.join(", ")),
        }
    }

    /// The class and the text of an error.
    pub fn error(&self) -> String {
        format!("{}{}", colon(self.text("error_class")), colon(self.text("error")))
    }

    fn made(&self) -> String {
        let (done, failed) = (counted(self.number("done"), "image"), self.number("failed"));
        if failed == 0 { format!("{done} done") } else { format!("{done} done, {} failed", count(failed)) }
    }

    fn text(&self, name: &str) -> &str {
        self.detail[name].as_str().unwrap_or_default()
    }

    fn number(&self, name: &str) -> u64 {
        self.detail[name].as_u64().unwrap_or_default()
    }

    fn integer(&self, name: &str) -> i64 {
        self.detail[name].as_i64().unwrap_or_default()
    }

    fn real(&self, name: &str) -> f64 {
        self.detail[name].as_f64().unwrap_or_default()
    }
}

/// What is said after a colon, if anything.
fn colon(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

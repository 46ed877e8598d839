//! The first lines of a story and its last.

use sanafarm_coordinator::domain::event::{EventKind, ImageKind};
use sanafarm_proto::v1::story_begin::Subject;
use sanafarm_proto::v1::{Image, ImageState, Job, JobState, StoryBegin, StoryEnd};

use crate::job_view::{error_class, job_state};
use crate::printer::amounts::{count, counted};
use crate::printer::one_line;

/// Whose story it is, and how much of it is not told.
pub fn heading(begin: &StoryBegin) -> Vec<String> {
    let subject = match &begin.subject {
        Some(Subject::Job(job)) => format!("job {}: {}", job.job_id, job.name),
        Some(Subject::Image(told)) => {
            let job = told.job.as_ref().map(|job| job.job_id.as_str()).unwrap_or_default();
            told.image.as_ref().map(|image| image_heading(job, image)).unwrap_or_default()
        }
        Some(Subject::Worker(told)) if told.session_id.is_empty() => format!("worker {}", told.worker),
        Some(Subject::Worker(told)) => format!("session {} of worker {}", told.session_id, told.worker),
        // Of a newer program.
        None => String::new(),
    };
    let mut lines = vec![one_line(&subject)];
    if begin.older > 0 {
        lines.push(older(begin.older));
    }
    lines
}

/// What the limit leaves out.
pub fn older(events: u64) -> String {
    match events {
        1 => "1 older event is not shown".to_owned(),
        many => format!("{} older events are not shown", count(many)),
    }
}

fn image_heading(job: &str, image: &Image) -> String {
    let mut text = format!("image {} of job {job}: {:?}", image.index, image.prompt);
    if !image.negative_prompt.is_empty() {
        text.push_str(&format!(", not {:?}", image.negative_prompt));
    }
    text.push_str(&format!(", seed {}", image.seed));
    if let Some(settings) = &image.settings {
        let (width, height) = (settings.width, settings.height);
        let steps = counted(u64::from(settings.steps), "step");
        text.push_str(&format!(", {width}x{height}, {steps}, guidance {}", settings.guidance));
    }
    text
}

/// How it stands.
pub fn closing(begin: &StoryBegin, end: &StoryEnd) -> String {
    let text = match &begin.subject {
        Some(Subject::Job(job)) => job_closing(end.job.as_ref().unwrap_or(job), end),
        Some(Subject::Image(told)) => {
            told.image.as_ref().map(|image| image_closing(image, end)).unwrap_or_default()
        }
        Some(Subject::Worker(_)) => worker_closing(end),
        None => String::new(),
    };
    one_line(&text)
}

/// How often something happened.
fn often(end: &StoryEnd, kind: EventKind) -> u64 {
    end.kinds.get(kind.word()).copied().unwrap_or_default()
}

fn job_closing(job: &Job, end: &StoryEnd) -> String {
    format!(
        "{}: {} of {} done, {} failed, {} open; {}, {} lost; {:.1} device seconds on {}",
        job_state(job.state()),
        count(job.done),
        counted(job.images, "image"),
        count(job.failed),
        count(job.images.saturating_sub(job.done + job.failed)),
        counted(often(end, EventKind::LeaseGranted), "attempt"),
        count(often(end, EventKind::LeaseLost)),
        end.device_seconds,
        counted(end.workers, "worker")
    )
}

fn image_closing(image: &Image, end: &StoryEnd) -> String {
    let errors = end.kinds.get(ImageKind::ImageError.word()).copied().unwrap_or_default();
    let went = format!(
        "after {}, {}, {}",
        counted(often(end, EventKind::LeaseGranted), "attempt"),
        counted(errors, "error"),
        if end.losses == 1 { "1 loss".to_owned() } else { format!("{} losses", count(end.losses)) }
    );
    match image.state() {
        ImageState::Done => format!("done {went}"),
        ImageState::Failed => {
            format!("failed {went}: {}: {}", error_class(image.error_class()), image.error)
        }
        ImageState::Pending | ImageState::Unspecified => format!("open {went}: {}", waits(end)),
    }
}

/// Why an image has no result.
fn waits(end: &StoryEnd) -> String {
    let state = end.job.as_ref().map_or(JobState::Unspecified, Job::state);
    match (end.held_by.as_str(), state) {
        ("", JobState::Paused) => "the job is paused".to_owned(),
        ("", JobState::Cancelled) => "the job was cancelled".to_owned(),
        ("", _) => "it waits for a worker".to_owned(),
        (worker, _) => format!("{worker} has it"),
    }
}

fn worker_closing(end: &StoryEnd) -> String {
    let (opened, closed) = (often(end, EventKind::SessionOpened), often(end, EventKind::SessionClosed));
    let granted = often(end, EventKind::LeaseGranted);
    let ended = [
        (EventKind::LeaseFinished, "done"),
        (EventKind::LeaseReleased, "handed back"),
        (EventKind::LeaseLost, "lost"),
        (EventKind::LeaseRevoked, "taken away"),
    ];
    let held = granted.saturating_sub(ended.iter().map(|(kind, _)| often(end, *kind)).sum());
    let mut outcomes: Vec<String> =
        ended.iter().map(|(kind, word)| format!("{} {word}", count(often(end, *kind)))).collect();
    outcomes.push(format!("{} held", count(held)));
    format!(
        "{}, {} open; {}: {}; {} done, {} failed, {:.1} device seconds; taken out {}",
        counted(opened, "session"),
        count(opened.saturating_sub(closed)),
        counted(granted, "lease"),
        outcomes.join(", "),
        counted(end.done, "image"),
        count(end.failed),
        end.device_seconds,
        counted(often(end, EventKind::WorkerExcluded), "time")
    )
}

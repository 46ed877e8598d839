//! Jobs and images.

use sanafarm_proto::v1;
use tonic::Status;

use super::worker::error_class;
use super::{Converted, form, form_message, missing, settings, settings_message, time, timestamp};
use crate::domain::UnknownWord;
use crate::domain::blame::ErrorClass;
use crate::domain::explain::Explanation;
use crate::domain::schedule::Needs;
use crate::domain::spec::{JobSpec, Row};
use crate::domain::state::{ImageState, JobState};
use crate::domain::waiting::{Awaited, Wanted};
use crate::store::records::*;

pub(in crate::grpc) fn spec(spec: v1::JobSpec) -> Converted<JobSpec> {
    let wanted = spec.settings.as_ref().ok_or_else(|| missing("settings"))?;
    let after = spec.after.into_iter().map(|job| Wanted { job, any_end: false });
    let after_any = spec.after_any.into_iter().map(|job| Wanted { job, any_end: true });
    Ok(JobSpec {
        settings: settings(wanted),
        client_token: spec.client_token,
        name: spec.name,
        owner: spec.owner,
        model: spec.model,
        output: output(&spec.output)?,
        negative_prompt: spec.negative_prompt,
        seed: spec.seed,
        images_per_prompt: spec.images_per_prompt,
        name_template: spec.name_template,
        priority: spec.priority,
        needs: spec.needs.map(needs).transpose()?.unwrap_or_default(),
        after: after.chain(after_any).collect(),
        deadline: spec.deadline.map(|deadline| time("deadline", deadline)).transpose()?,
        form: form(spec.form)?,
        append: spec.append,
        webhook: Some(spec.webhook).filter(|url| !url.is_empty()),
    })
}

/// The one name of an output: two of one place are of one place. None is left to the domain to refuse.
pub(in crate::grpc) fn output(output: &str) -> Converted<String> {
    if output.is_empty() {
        return Ok(String::new());
    }
    sanafarm_storage::canonical(output).map_err(|error| Status::invalid_argument(error.to_string()))
}

pub(in crate::grpc) fn row(row: v1::PromptRow) -> Row {
    Row {
        prompt: row.prompt,
        negative_prompt: row.negative_prompt,
        seed: row.seed,
        width: row.width,
        height: row.height,
        steps: row.steps,
        guidance: row.guidance,
        id: row.id,
        extra: row.extra,
        line: row.line,
    }
}

fn state_message(state: JobState) -> v1::JobState {
    match state {
        JobState::Pending => v1::JobState::Pending,
        JobState::Running => v1::JobState::Running,
        JobState::Paused => v1::JobState::Paused,
        JobState::Succeeded => v1::JobState::Succeeded,
        JobState::Failed => v1::JobState::Failed,
        JobState::Cancelled => v1::JobState::Cancelled,
    }
}

fn awaited_message(awaited: &Awaited, holds: bool) -> v1::Awaited {
    v1::Awaited {
        job_id: awaited.job.to_string(),
        any_end: awaited.any_end,
        state: state_message(awaited.state).into(),
        images: awaited.images,
        finished: awaited.finished,
        holds,
    }
}

pub(in crate::grpc) fn job_message(job: Job) -> v1::Job {
    let held_by = job.held_by();
    let after =
        job.after.iter().map(|awaited| awaited_message(awaited, held_by.contains(&awaited))).collect();
    v1::Job {
        after,
        job_id: job.id.into(),
        name: job.name,
        owner: job.owner,
        model: job.model,
        output: job.output,
        state: state_message(job.state).into(),
        images: job.images,
        done: job.done,
        failed: job.failed,
        submitted_at: Some(timestamp(job.submitted_at)),
        started_at: job.started_at.map(timestamp),
        finished_at: job.finished_at.map(timestamp),
        error: job.error,
        output_error: job.output_error,
        settings: Some(settings_message(&job.settings)),
        priority: job.priority,
        needs: Some(needs_message(job.needs)),
        deadline: job.deadline.map(timestamp),
        end_reason: job.end_reason,
        form: Some(form_message(&job.form)),
        webhook: job.webhook.map(webhook_message),
        ..v1::Job::default()
    }
}

fn webhook_message(webhook: Webhook) -> v1::Webhook {
    v1::Webhook {
        url: webhook.url,
        state: webhook.state.word().to_owned(),
        attempts: webhook.attempts,
        error: webhook.error.unwrap_or_default(),
        at: webhook.at.map(timestamp),
    }
}

pub(in crate::grpc) fn by(by: Option<v1::By>) -> By {
    by.map_or_else(By::default, |by| By { actor: by.actor, reason: by.reason })
}

pub(in crate::grpc) fn change(change: Option<v1::change_job_request::Change>) -> Converted<Change> {
    use v1::change_job_request::Change as Wanted;
    Ok(match change.ok_or_else(|| missing("change"))? {
        Wanted::Pause(v1::Pause {}) => Change::Pause,
        Wanted::Resume(v1::Resume {}) => Change::Resume,
        Wanted::Cancel(v1::Cancel {}) => Change::Cancel,
        Wanted::Priority(priority) => Change::Priority(priority),
        Wanted::Retry(v1::Retry { error_class: number }) => Change::Retry(retried_class(number)?),
        Wanted::Requeue(v1::Requeue { indices }) => Change::Requeue(indices),
    })
}

/// None for all. Here a class that this program does not know is no guess: it would try the wrong images again.
fn retried_class(number: i32) -> Converted<Option<ErrorClass>> {
    match v1::ErrorClass::try_from(number) {
        Ok(v1::ErrorClass::Unspecified) => Ok(None),
        Ok(v1::ErrorClass::WorkerLost) => Ok(Some(ErrorClass::WorkerLost)),
        Ok(_) => error_class(number).map(Some),
        Err(_) => Err(Status::invalid_argument(format!("unknown error class {number}"))),
    }
}

fn unknown_state(number: i32) -> Status {
    Status::invalid_argument(format!("unknown state {number}"))
}

pub(in crate::grpc) fn job_states(numbers: &[i32]) -> Converted<Vec<JobState>> {
    let state = |number: &i32| match v1::JobState::try_from(*number) {
        Ok(v1::JobState::Pending) => Ok(JobState::Pending),
        Ok(v1::JobState::Running) => Ok(JobState::Running),
        Ok(v1::JobState::Paused) => Ok(JobState::Paused),
        Ok(v1::JobState::Succeeded) => Ok(JobState::Succeeded),
        Ok(v1::JobState::Failed) => Ok(JobState::Failed),
        Ok(v1::JobState::Cancelled) => Ok(JobState::Cancelled),
        Ok(v1::JobState::Unspecified) | Err(_) => Err(unknown_state(*number)),
    };
    numbers.iter().map(state).collect()
}

pub(in crate::grpc) fn image_states(numbers: &[i32]) -> Converted<Vec<ImageState>> {
    let state = |number: &i32| match v1::ImageState::try_from(*number) {
        Ok(v1::ImageState::Pending) => Ok(ImageState::Pending),
        Ok(v1::ImageState::Done) => Ok(ImageState::Done),
        Ok(v1::ImageState::Failed) => Ok(ImageState::Failed),
        Ok(v1::ImageState::Unspecified) | Err(_) => Err(unknown_state(*number)),
    };
    numbers.iter().map(state).collect()
}

pub(in crate::grpc) fn image_message(image: Image) -> v1::Image {
    let state = match image.state {
        ImageState::Pending => v1::ImageState::Pending,
        ImageState::Done => v1::ImageState::Done,
        ImageState::Failed => v1::ImageState::Failed,
    };
    let mut message = v1::Image {
        index: image.index,
        state: state.into(),
        prompt: image.prompt,
        negative_prompt: image.negative_prompt,
        seed: image.seed,
        settings: Some(settings_message(&image.settings)),
        object: image.object,
        thumbnail: image.thumbnail.unwrap_or_default(),
        ..v1::Image::default()
    };
    if let Some(result) = image.result {
        message.shard_id = result.shard.into();
        message.bytes = result.bytes.unwrap_or_default();
        message.sha256 = result.sha256.unwrap_or_default();
        message.attempt = result.attempt;
        message.worker = result.worker;
        message.device = result.device;
        message.seconds = result.render_seconds;
        message.finished_at = Some(timestamp(result.finished_at));
        message.archive = result.archive.unwrap_or_default();
        message.quality = result.quality.map(quality_message);
        if let Some((class, error)) = result.error {
            message.error_class = class_message(class).into();
            message.error = error;
        }
    }
    message
}

fn quality_message(quality: Quality) -> v1::Quality {
    v1::Quality { entropy: quality.entropy, clipped: quality.clipped }
}

pub(in crate::grpc) fn listed_message(listed: Listed) -> v1::ListedObject {
    v1::ListedObject {
        name: listed.name,
        state: listed.state.word().to_owned(),
        bytes: listed.bytes,
        sha256: listed.sha256.unwrap_or_default(),
        job_id: listed.job.map(String::from).unwrap_or_default(),
        index: listed.index,
    }
}

fn class_message(class: ErrorClass) -> v1::ErrorClass {
    match class {
        ErrorClass::Prompt => v1::ErrorClass::Prompt,
        ErrorClass::Size => v1::ErrorClass::Size,
        ErrorClass::Model => v1::ErrorClass::Model,
        ErrorClass::OutOfMemory => v1::ErrorClass::OutOfMemory,
        ErrorClass::BadImage => v1::ErrorClass::BadImage,
        ErrorClass::Encode => v1::ErrorClass::Encode,
        ErrorClass::Conflict => v1::ErrorClass::Conflict,
        ErrorClass::Internal => v1::ErrorClass::Internal,
        ErrorClass::WorkerLost => v1::ErrorClass::WorkerLost,
    }
}

fn needs(needs: v1::Needs) -> Converted<Needs> {
    let device_kind = match needs.device_kind.as_str() {
        "" => None,
        word => Some(word.parse().map_err(|error: UnknownWord| {
            Status::invalid_argument(format!("{error}; there are cpu and cuda"))
        })?),
    };
    Ok(Needs { labels: needs.labels.into_iter().collect(), device_kind, memory_bytes: needs.memory_bytes })
}

fn needs_message(needs: Needs) -> v1::Needs {
    v1::Needs {
        labels: needs.labels.into_iter().collect(),
        device_kind: needs.device_kind.map_or_else(String::new, |kind| kind.word().to_owned()),
        memory_bytes: needs.memory_bytes,
    }
}

pub(in crate::grpc) fn explanation_message(job: Job, explanation: Explanation) -> v1::ExplainJobResponse {
    let parts = explanation.parts.into_iter().map(|part| v1::JobPart {
        shards: part.shards,
        cause: part.cause.word().to_owned(),
        text: part.text,
        at: part.at.map(timestamp),
    });
    v1::ExplainJobResponse {
        job: Some(job_message(job)),
        parts: parts.collect(),
        workers: explanation.workers,
        fitting: explanation.fitting,
    }
}

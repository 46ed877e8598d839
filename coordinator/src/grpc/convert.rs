//! Between messages and the words of the domain.

use jiff::Timestamp;
use sanafarm_proto::v1;
use serde_json::json;
use tonic::Status;

use crate::domain::blame::ErrorClass;
use crate::domain::id::ShardId;
use crate::domain::settings::{BinMode, DecodeMode, Settings};
use crate::domain::spec::{JobSpec, Row};
use crate::domain::state::{ImageState, JobState};
use crate::store::records::*;

type Converted<T> = Result<T, Status>;

/// A message without one of its parts.
pub(super) fn missing(what: &str) -> Status {
    Status::invalid_argument(format!("the message has no {what}"))
}

pub(super) fn settings(settings: &v1::Settings) -> Settings {
    Settings {
        width: settings.width,
        height: settings.height,
        steps: settings.steps,
        guidance: settings.guidance,
        bin: match settings.bin() {
            v1::BinMode::Unspecified | v1::BinMode::Auto => BinMode::Auto,
            v1::BinMode::Always => BinMode::Always,
            v1::BinMode::Never => BinMode::Never,
        },
        decode: match settings.decode() {
            v1::DecodeMode::Unspecified | v1::DecodeMode::Exact => DecodeMode::Exact,
            v1::DecodeMode::Blend => DecodeMode::Blend,
            v1::DecodeMode::Whole => DecodeMode::Whole,
        },
    }
}

pub(super) fn settings_message(settings: &Settings) -> v1::Settings {
    let bin = match settings.bin {
        BinMode::Auto => v1::BinMode::Auto,
        BinMode::Always => v1::BinMode::Always,
        BinMode::Never => v1::BinMode::Never,
    };
    let decode = match settings.decode {
        DecodeMode::Exact => v1::DecodeMode::Exact,
        DecodeMode::Blend => v1::DecodeMode::Blend,
        DecodeMode::Whole => v1::DecodeMode::Whole,
    };
    v1::Settings {
        width: settings.width,
        height: settings.height,
        steps: settings.steps,
        guidance: settings.guidance,
        bin: bin.into(),
        decode: decode.into(),
    }
}

pub(super) fn spec(spec: v1::JobSpec) -> Converted<JobSpec> {
    let wanted = spec.settings.as_ref().ok_or_else(|| missing("settings"))?;
    Ok(JobSpec {
        settings: settings(wanted),
        client_token: spec.client_token,
        name: spec.name,
        owner: spec.owner,
        model: spec.model,
        output: spec.output,
        negative_prompt: spec.negative_prompt,
        seed: spec.seed,
        images_per_prompt: spec.images_per_prompt,
        name_template: spec.name_template,
    })
}

pub(super) fn row(row: v1::PromptRow) -> Row {
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

fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    // The sub-second part of a time before 1970 would be negative, which no time here is.
    prost_types::Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() }
}

pub(super) fn job_message(job: Job) -> v1::Job {
    let state = match job.state {
        JobState::Pending => v1::JobState::Pending,
        JobState::Running => v1::JobState::Running,
        JobState::Paused => v1::JobState::Paused,
        JobState::Succeeded => v1::JobState::Succeeded,
        JobState::Failed => v1::JobState::Failed,
        JobState::Cancelled => v1::JobState::Cancelled,
    };
    v1::Job {
        job_id: job.id.into(),
        name: job.name,
        owner: job.owner,
        model: job.model,
        output: job.output,
        state: state.into(),
        images: job.images,
        done: job.done,
        failed: job.failed,
        submitted_at: Some(timestamp(job.submitted_at)),
        started_at: job.started_at.map(timestamp),
        finished_at: job.finished_at.map(timestamp),
        error: job.error,
        output_error: job.output_error,
        settings: Some(settings_message(&job.settings)),
    }
}

fn unknown_state(number: i32) -> Status {
    Status::invalid_argument(format!("unknown state {number}"))
}

pub(super) fn job_states(numbers: &[i32]) -> Converted<Vec<JobState>> {
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

pub(super) fn image_states(numbers: &[i32]) -> Converted<Vec<ImageState>> {
    let state = |number: &i32| match v1::ImageState::try_from(*number) {
        Ok(v1::ImageState::Pending) => Ok(ImageState::Pending),
        Ok(v1::ImageState::Done) => Ok(ImageState::Done),
        Ok(v1::ImageState::Failed) => Ok(ImageState::Failed),
        Ok(v1::ImageState::Unspecified) | Err(_) => Err(unknown_state(*number)),
    };
    numbers.iter().map(state).collect()
}

pub(super) fn image_message(image: Image) -> v1::Image {
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
        ..v1::Image::default()
    };
    if let Some(result) = image.result {
        message.bytes = result.bytes.unwrap_or_default();
        message.sha256 = result.sha256.unwrap_or_default();
        message.attempt = result.attempt;
        message.worker = result.worker;
        message.device = result.device;
        message.seconds = result.render_seconds;
        message.finished_at = Some(timestamp(result.finished_at));
        if let Some((class, error)) = result.error {
            message.error_class = class_message(class).into();
            message.error = error;
        }
    }
    message
}

fn class_message(class: ErrorClass) -> v1::ErrorClass {
    match class {
        ErrorClass::Prompt => v1::ErrorClass::Prompt,
        ErrorClass::Size => v1::ErrorClass::Size,
        ErrorClass::Model => v1::ErrorClass::Model,
        ErrorClass::OutOfMemory => v1::ErrorClass::OutOfMemory,
        ErrorClass::Numeric => v1::ErrorClass::Numeric,
        ErrorClass::Encode => v1::ErrorClass::Encode,
        ErrorClass::Conflict => v1::ErrorClass::Conflict,
        ErrorClass::Internal => v1::ErrorClass::Internal,
        ErrorClass::WorkerLost => v1::ErrorClass::WorkerLost,
    }
}

/// A class that this program does not know counts as internal: the error itself must not get lost.
fn error_class(number: i32) -> Converted<ErrorClass> {
    match v1::ErrorClass::try_from(number) {
        Ok(v1::ErrorClass::Prompt) => Ok(ErrorClass::Prompt),
        Ok(v1::ErrorClass::Size) => Ok(ErrorClass::Size),
        Ok(v1::ErrorClass::Model) => Ok(ErrorClass::Model),
        Ok(v1::ErrorClass::OutOfMemory) => Ok(ErrorClass::OutOfMemory),
        Ok(v1::ErrorClass::Numeric) => Ok(ErrorClass::Numeric),
        Ok(v1::ErrorClass::Encode) => Ok(ErrorClass::Encode),
        Ok(v1::ErrorClass::Conflict) => Ok(ErrorClass::Conflict),
        Ok(v1::ErrorClass::Internal | v1::ErrorClass::Unspecified) | Err(_) => Ok(ErrorClass::Internal),
        Ok(v1::ErrorClass::WorkerLost) => {
            Err(Status::invalid_argument("only the coordinator can say that a worker was lost"))
        }
    }
}

pub(super) fn session(request: v1::OpenSessionRequest, embedded: bool) -> Converted<NewSession> {
    if request.worker.is_empty() {
        return Err(missing("worker name"));
    }
    let devices: Vec<_> = request
        .devices
        .iter()
        .map(|device| {
            json!({
                "id": device.id,
                "name": device.name,
                "memory_bytes": device.memory_bytes,
                "memory_free_bytes": device.memory_free_bytes,
                "compute_capability": device.compute_capability,
            })
        })
        .collect();
    // Sorted, so that equal labels are equal text.
    let labels: std::collections::BTreeMap<_, _> = request.labels.into_iter().collect();
    Ok(NewSession {
        worker: request.worker,
        version: request.version,
        devices: json!(devices).to_string(),
        labels: json!(labels).to_string(),
        embedded,
    })
}

pub(super) fn lease_ref(message: Option<v1::LeaseRef>) -> Converted<LeaseRef> {
    let message = message.ok_or_else(|| missing("lease"))?;
    Ok(LeaseRef { shard: ShardId::from(message.shard_id), attempt: message.attempt })
}

pub(super) fn lease_ref_message(lease: LeaseRef) -> v1::LeaseRef {
    v1::LeaseRef { shard_id: lease.shard.into(), attempt: lease.attempt }
}

pub(super) fn lease_message(lease: Lease) -> v1::Lease {
    let images = lease.images.into_iter().map(|image| v1::LeasedImage {
        index: image.index,
        prompt: image.prompt,
        negative_prompt: image.negative_prompt,
        seed: image.seed,
        object: image.object,
    });
    v1::Lease {
        images: images.collect(),
        r#ref: Some(lease_ref_message(lease.lease)),
        job_id: lease.job.into(),
        job_name: lease.job_name,
        model: lease.model,
        output: lease.output,
        settings: Some(settings_message(&lease.settings)),
    }
}

pub(super) fn held_lease(held: v1::HeldLease) -> Converted<HeldLease> {
    Ok(HeldLease { lease: lease_ref(held.r#ref)?, rendering: held.rendering })
}

pub(super) fn release(reason: v1::ReleaseReason, message: String) -> Release {
    let reason = match reason {
        v1::ReleaseReason::Unspecified => ReleaseReason::Unknown,
        v1::ReleaseReason::Drain => ReleaseReason::Drain,
        v1::ReleaseReason::Storage => ReleaseReason::Storage,
        v1::ReleaseReason::Finished => ReleaseReason::Finished,
    };
    Release { reason, message }
}

pub(super) fn report(result: v1::ImageResult) -> Converted<ImageReport> {
    let outcome = match result.outcome.ok_or_else(|| missing("outcome"))? {
        v1::image_result::Outcome::Done(done) => {
            Outcome::Done { object: done.object, bytes: done.bytes, sha256: done.sha256, recipe: done.recipe }
        }
        v1::image_result::Outcome::Failed(failed) => {
            Outcome::Failed { class: error_class(failed.error_class)?, message: failed.message }
        }
    };
    Ok(ImageReport {
        index: result.index,
        outcome,
        device: result.device_id,
        render_seconds: result.render_seconds,
        decode_seconds: result.decode_seconds,
    })
}

pub(super) fn answer_message(answer: Answer) -> v1::QueryResponse {
    let part = match answer {
        Answer::Columns(names) => v1::query_response::Part::Columns(v1::Columns { names }),
        Answer::Rows(rows) => {
            let rows = rows
                .into_iter()
                .map(|cells| v1::Row { cells: cells.into_iter().map(cell_message).collect() })
                .collect();
            v1::query_response::Part::Rows(v1::Rows { rows })
        }
    };
    v1::QueryResponse { part: Some(part) }
}

fn cell_message(cell: Cell) -> v1::Cell {
    let value = match cell {
        Cell::Null => None,
        Cell::Integer(number) => Some(v1::cell::Value::Integer(number)),
        Cell::Real(number) => Some(v1::cell::Value::Real(number)),
        Cell::Text(text) => Some(v1::cell::Value::Text(text)),
        Cell::Blob(bytes) => Some(v1::cell::Value::Blob(bytes)),
    };
    v1::Cell { value }
}

//! Sessions, leases and reports.

use sanafarm_proto::v1;
use tonic::Status;

use super::{Converted, drain_message, form_message, missing, settings_message, stats_message, timestamp};
use crate::domain::archive;
use crate::domain::blame::ErrorClass;
use crate::domain::form::Layout;
use crate::domain::id::ShardId;
use crate::domain::schedule::Device;
use crate::store::records::*;

/// What is kept of a log.
const LOG_BYTES: usize = 16 << 10;

/// A class that this program does not know counts as internal: the error itself must not get lost.
pub(super) fn error_class(number: i32) -> Converted<ErrorClass> {
    match v1::ErrorClass::try_from(number) {
        Ok(v1::ErrorClass::Prompt) => Ok(ErrorClass::Prompt),
        Ok(v1::ErrorClass::Size) => Ok(ErrorClass::Size),
        Ok(v1::ErrorClass::Model) => Ok(ErrorClass::Model),
        Ok(v1::ErrorClass::OutOfMemory) => Ok(ErrorClass::OutOfMemory),
        Ok(v1::ErrorClass::BadImage) => Ok(ErrorClass::BadImage),
        Ok(v1::ErrorClass::Encode) => Ok(ErrorClass::Encode),
        Ok(v1::ErrorClass::Conflict) => Ok(ErrorClass::Conflict),
        Ok(v1::ErrorClass::Internal | v1::ErrorClass::Unspecified) | Err(_) => Ok(ErrorClass::Internal),
        Ok(v1::ErrorClass::WorkerLost) => {
            Err(Status::invalid_argument("only the coordinator can say that a worker was lost"))
        }
    }
}

pub(in crate::grpc) fn session(request: v1::OpenSessionRequest, embedded: bool) -> Converted<NewSession> {
    if request.worker.is_empty() {
        return Err(missing("worker name"));
    }
    let devices = request.devices.into_iter().map(|device| Device {
        id: device.id,
        name: device.name,
        memory_bytes: device.memory_bytes,
        memory_free_bytes: device.memory_free_bytes,
        compute_capability: device.compute_capability,
        driver: device.driver,
    });
    Ok(NewSession {
        worker: request.worker,
        version: request.version,
        devices: devices.collect(),
        labels: request.labels.into_iter().collect(),
        embedded,
    })
}

pub(in crate::grpc) fn lease_ref(message: Option<v1::LeaseRef>) -> Converted<LeaseRef> {
    let message = message.ok_or_else(|| missing("lease"))?;
    Ok(LeaseRef { shard: ShardId::from(message.shard_id), attempt: message.attempt })
}

pub(in crate::grpc) fn lease_ref_message(lease: LeaseRef) -> v1::LeaseRef {
    v1::LeaseRef { shard_id: lease.shard.into(), attempt: lease.attempt }
}

pub(in crate::grpc) fn lease_message(lease: Lease) -> v1::Lease {
    let form = lease.form;
    let images = lease.images.into_iter().map(|image| v1::LeasedImage {
        thumbnail: form.thumbnail(&image.object).unwrap_or_default(),
        index: image.index,
        prompt: image.prompt,
        negative_prompt: image.negative_prompt,
        seed: image.seed,
        object: image.object,
        id: image.id.unwrap_or_default(),
        extra: image.extra.unwrap_or_default(),
    });
    let archive = match form.layout {
        Layout::Files => String::new(),
        Layout::Webdataset => archive::staged_name(lease.lease.shard.as_str(), lease.lease.attempt),
    };
    v1::Lease {
        images: images.collect(),
        r#ref: Some(lease_ref_message(lease.lease)),
        job_id: lease.job.into(),
        job_name: lease.job_name,
        model: lease.model,
        output: lease.output,
        settings: Some(settings_message(&lease.settings)),
        form: Some(form_message(&form)),
        archive,
        ..Default::default()
    }
}

pub(in crate::grpc) fn archive(message: v1::Archive) -> NewArchive {
    NewArchive { object: message.object, bytes: message.bytes, sha256: message.sha256 }
}

pub(in crate::grpc) fn held_lease(held: v1::HeldLease) -> Converted<HeldLease> {
    Ok(HeldLease { lease: lease_ref(held.r#ref)?, rendering: held.rendering })
}

pub(in crate::grpc) fn release(reason: v1::ReleaseReason, message: String) -> Release {
    let reason = match reason {
        v1::ReleaseReason::Unspecified => ReleaseReason::Unknown,
        v1::ReleaseReason::Drain => ReleaseReason::Drain,
        v1::ReleaseReason::Storage => ReleaseReason::Storage,
        v1::ReleaseReason::Finished => ReleaseReason::Finished,
    };
    Release { reason, message }
}

pub(in crate::grpc) fn report(result: v1::ImageResult) -> Converted<ImageReport> {
    let outcome = match result.outcome.ok_or_else(|| missing("outcome"))? {
        v1::image_result::Outcome::Done(done) => Outcome::Done {
            object: done.object,
            bytes: done.bytes,
            sha256: done.sha256,
            recipe: done.recipe,
            quality: done.quality.map(|told| quality(told, result.index)).transpose()?,
        },
        v1::image_result::Outcome::Failed(failed) => {
            Outcome::Failed { class: error_class(failed.error_class)?, message: failed.message }
        }
    };
    Ok(ImageReport {
        index: result.index,
        outcome,
        device: result.device_id,
        render_seconds: seconds(result.render_seconds, result.index)?,
        decode_seconds: seconds(result.decode_seconds, result.index)?,
        log: log(&result.log),
    })
}

/// Both are numbers within their bounds: one that is none would spoil every mean.
fn quality(quality: v1::Quality, index: u64) -> Converted<Quality> {
    let v1::Quality { entropy, clipped } = quality;
    if (0.0..=8.0).contains(&entropy) && (0.0..=1.0).contains(&clipped) {
        return Ok(Quality { entropy, clipped });
    }
    let what = format!(
        "image {index} has entropy {entropy} and share {clipped} of clipped pixels; they are 0 to 8 and 0 to 1"
    );
    Err(Status::invalid_argument(what))
}

/// What is kept of a log: its end, from the beginning of a line on when it has lines, as the database can hold it.
fn log(log: &str) -> String {
    let text = log.replace('\0', "\u{fffd}");
    let over = text.len().saturating_sub(LOG_BYTES);
    if over == 0 {
        return text;
    }
    let line = text.bytes().enumerate().skip(over - 1).find(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
    let start = line.filter(|start| *start < text.len()).unwrap_or_else(|| text.ceil_char_boundary(over));
    text.split_at(start).1.to_owned()
}

/// What an image took. Others are added to it: one that is no number would make all of them none.
fn seconds(seconds: f64, index: u64) -> Converted<f64> {
    if seconds.is_finite() && seconds >= 0.0 {
        return Ok(seconds);
    }
    Err(Status::invalid_argument(format!("image {index} took {seconds} seconds, which is no time")))
}

pub(super) fn device_message(device: Device) -> v1::Device {
    v1::Device {
        id: device.id,
        name: device.name,
        memory_bytes: device.memory_bytes,
        memory_free_bytes: device.memory_free_bytes,
        compute_capability: device.compute_capability,
        driver: device.driver,
    }
}

pub(in crate::grpc) fn presence_message(presence: Presence) -> v1::PresentWorker {
    let devices = presence.session.devices.into_iter().map(device_message);
    let leases = presence.leases.into_iter().map(|held| v1::PresentLease {
        shard_id: held.lease.shard.into(),
        attempt: held.lease.attempt,
        job_id: held.job.into(),
        model: held.model,
        images: held.images,
        expires_at: Some(timestamp(held.expires_at)),
    });
    v1::PresentWorker {
        session_id: presence.id.into(),
        worker: presence.session.worker,
        version: presence.session.version,
        devices: devices.collect(),
        labels: presence.session.labels.into_iter().collect(),
        opened_at: Some(timestamp(presence.opened_at)),
        seen_at: Some(timestamp(presence.seen_at)),
        leases: leases.collect(),
        stats: presence.stats.map(stats_message),
        leaving: presence.leaving.unwrap_or_default(),
        drain: drain_message(presence.drain).into(),
        // Who lists them knows how long is too long.
        silent_for: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_log_its_last_lines_are_kept() {
        assert_eq!(log("one\ntwo\0"), "one\ntwo\u{fffd}");
        let lines: String = (0..5000).map(|number| format!("line {number}\n")).collect();
        let kept = log(&lines);
        assert!(kept.len() <= LOG_BYTES && kept.len() > LOG_BYTES - 12, "{}", kept.len());
        assert!(kept.starts_with("line ") && kept.ends_with("line 4999\n"), "{kept}");
        let exact = format!("{}\n{}", "x".repeat(9), "y".repeat(LOG_BYTES));
        assert_eq!(log(&exact), "y".repeat(LOG_BYTES));
        let one = "ü".repeat(LOG_BYTES);
        assert_eq!(log(&one), "ü".repeat(LOG_BYTES / 2));
        assert_eq!(log(&format!("{}\n", "ü".repeat(LOG_BYTES))).len(), LOG_BYTES - 1);
    }
}

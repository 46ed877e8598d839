//! Jobs and images as the user sees them.

use sanafarm_proto::v1::{
    Awaited, BinMode, DecodeMode, ErrorClass, Form, Image, ImageFormat, ImageState, Job, JobState, Layout,
    Needs, Rendering, Settings, Webhook,
};
use serde_json::{Map, Value, json};

use crate::printer::one_line;

/// The word for a job state.
pub fn job_state(state: JobState) -> &'static str {
    match state {
        JobState::Unspecified => "unknown",
        JobState::Pending => "pending",
        JobState::Running => "running",
        JobState::Paused => "paused",
        JobState::Succeeded => "succeeded",
        JobState::Failed => "failed",
        JobState::Cancelled => "cancelled",
    }
}

/// Whether nothing more will happen to the job.
pub fn has_ended(job: &Job) -> bool {
    match job.state() {
        JobState::Succeeded | JobState::Failed | JobState::Cancelled => true,
        JobState::Unspecified | JobState::Pending | JobState::Running | JobState::Paused => false,
    }
}

/// The word for an image state.
pub fn image_state(state: ImageState) -> &'static str {
    match state {
        ImageState::Unspecified => "unknown",
        ImageState::Pending => "pending",
        ImageState::Done => "done",
        ImageState::Failed => "failed",
    }
}

/// The word for an error class: the one of the audit views and the manifest.
pub fn error_class(class: ErrorClass) -> &'static str {
    match class {
        ErrorClass::Unspecified => "unknown",
        ErrorClass::Prompt => "prompt",
        ErrorClass::Size => "size",
        ErrorClass::Model => "model",
        ErrorClass::OutOfMemory => "out_of_memory",
        ErrorClass::BadImage => "bad_image",
        ErrorClass::Encode => "encode",
        ErrorClass::Conflict => "conflict",
        ErrorClass::Internal => "internal",
        ErrorClass::WorkerLost => "worker_lost",
    }
}

/// A job as one JSON object.
pub fn job_json(job: &Job) -> Value {
    let mut object = Map::new();
    let mut add = |name: &str, value: Value| object.insert(name.to_owned(), value);
    add("job_id", json!(job.job_id));
    add("name", json!(job.name));
    add("owner", json!(job.owner));
    add("state", json!(job_state(job.state())));
    add("images", json!(job.images));
    add("done", json!(job.done));
    add("failed", json!(job.failed));
    add("model", json!(job.model));
    add("output", json!(job.output));
    add("settings", job.settings.as_ref().map_or(Value::Null, settings_json));
    add("form", job.form.as_ref().map_or(Value::Null, form_json));
    add("priority", json!(job.priority));
    add("needs", job.needs.as_ref().map_or(Value::Null, needs_json));
    add("after", job.after.iter().map(awaited_json).collect());
    add("deadline", time_json(job.deadline.as_ref()));
    add("submitted_at", time_json(job.submitted_at.as_ref()));
    add("started_at", time_json(job.started_at.as_ref()));
    add("finished_at", time_json(job.finished_at.as_ref()));
    add("error", json!(job.error));
    add("end_reason", json!(job.end_reason));
    if let Some(webhook) = &job.webhook {
        add("webhook", webhook_json(webhook));
    }
    if !job.rendering.is_empty() || job.images_per_minute.is_some() {
        let rendering: Vec<_> = job.rendering.iter().map(rendering_json).collect();
        add("rendering", json!(rendering));
        add("images_per_minute", json!(job.images_per_minute));
        add("seconds_left", json!(job.seconds_left));
    }
    Value::Object(object)
}

fn webhook_json(webhook: &Webhook) -> Value {
    json!({
        "url": webhook.url,
        "state": webhook.state,
        "attempts": webhook.attempts,
        "error": text_or_null(&webhook.error),
        "at": time_json(webhook.at.as_ref()),
    })
}

/// `https://host/path (delivered at TIME, attempt 2)`.
fn webhook_text(webhook: &Webhook) -> String {
    let Webhook { url, state, attempts, error, at } = webhook;
    let at = at.as_ref().map(ToString::to_string).unwrap_or_default();
    let attempt = if *attempts == 0 { String::new() } else { format!(", attempt {attempts}") };
    let error = if error.is_empty() { String::new() } else { format!(": {}", one_line(error)) };
    let told = match state.as_str() {
        "waiting" => "when the job has ended".to_owned(),
        "pending" => format!("due at {at}{attempt}{error}"),
        "delivered" => format!("delivered at {at}{attempt}"),
        "failed" => format!("given up at {at}{attempt}{error}"),
        other => format!("{other}{attempt}{error}"),
    };
    format!("{url} ({told})")
}

fn awaited_json(awaited: &Awaited) -> Value {
    json!({
        "job_id": awaited.job_id,
        "any_end": awaited.any_end,
        "state": job_state(awaited.state()),
        "images": awaited.images,
        "finished": awaited.finished,
        "holds": awaited.holds,
    })
}

/// `waits for job X (running, 40 of 100 images)`, and without the first words once it waits no more.
fn awaited_text(awaited: &Awaited) -> String {
    let waits = match (awaited.holds, awaited.any_end) {
        (true, true) => "waits for the end of ",
        (true, false) => "waits for ",
        (false, _) => "",
    };
    let Awaited { job_id, images, finished, .. } = awaited;
    format!("{waits}job {job_id} ({}, {finished} of {images} images)", job_state(awaited.state()))
}

/// The jobs that hold it back now, in words; `None` when there is none.
pub fn waits_for(job: &Job) -> Option<String> {
    let holding: Vec<&Awaited> = job.after.iter().filter(|awaited| awaited.holds).collect();
    let first = awaited_text(holding.first()?);
    Some(match holding.len() - 1 {
        0 => first,
        others => format!("{first} and {others} more"),
    })
}

fn rendering_json(rendering: &Rendering) -> Value {
    json!({
        "worker": rendering.worker,
        "index": rendering.index,
        "stage": rendering.stage,
        "step": rendering.step,
        "steps": rendering.steps,
    })
}

/// A job as names and values, one a line.
pub fn job_lines(job: &Job) -> Vec<(&'static str, String)> {
    let time = |time: Option<&prost_types::Timestamp>| time.map(ToString::to_string).unwrap_or_default();
    let mut lines = vec![
        ("job", job.job_id.clone()),
        ("name", job.name.clone()),
        ("owner", job.owner.clone()),
        ("state", job_state(job.state()).to_owned()),
        ("images", format!("{} ({} done, {} failed)", job.images, job.done, job.failed)),
        ("model", job.model.clone()),
        ("output", job.output.clone()),
    ];
    if let Some(settings) = &job.settings {
        let text = format!(
            "{}x{}, {} steps, guidance {}, bin {}, decode {}",
            settings.width,
            settings.height,
            settings.steps,
            settings.guidance,
            bin(settings.bin()),
            decode(settings.decode())
        );
        lines.push(("settings", text));
    }
    lines.push(("form", job.form.as_ref().map(form_text).unwrap_or_default()));
    if job.priority != 0 {
        lines.push(("priority", job.priority.to_string()));
    }
    lines.push(("needs", job.needs.as_ref().map(needs_text).unwrap_or_default()));
    lines.extend(job.after.iter().map(|awaited| ("after", awaited_text(awaited))));
    lines.push(("deadline", time(job.deadline.as_ref())));
    lines.push(("submitted", time(job.submitted_at.as_ref())));
    lines.push(("started", time(job.started_at.as_ref())));
    lines.push(("finished", time(job.finished_at.as_ref())));
    lines.push(("error", job.error.clone().unwrap_or_default()));
    lines.push(("reason", job.end_reason.clone().unwrap_or_default()));
    lines.push(("webhook", job.webhook.as_ref().map(webhook_text).unwrap_or_default()));
    lines.retain(|(_, value)| !value.is_empty());
    lines
}

/// An image as one JSON object.
pub fn image_json(image: &Image) -> Value {
    let failed = image.state() == ImageState::Failed;
    let mut object = Map::new();
    let mut add = |name: &str, value: Value| object.insert(name.to_owned(), value);
    add("index", json!(image.index));
    add("state", json!(image_state(image.state())));
    add("prompt", json!(image.prompt));
    add("negative_prompt", json!(image.negative_prompt));
    add("seed", json!(image.seed));
    add("settings", image.settings.as_ref().map_or(Value::Null, settings_json));
    add("object", json!(image.object));
    add("archive", text_or_null(&image.archive));
    add("thumbnail", text_or_null(&image.thumbnail));
    add("bytes", json!(image.bytes));
    add("sha256", json!(image.sha256));
    add("shard_id", if image.shard_id.is_empty() { Value::Null } else { json!(image.shard_id) });
    add("attempt", json!(image.attempt));
    add("worker", json!(image.worker));
    add("device", json!(image.device));
    add("error_class", if failed { json!(error_class(image.error_class())) } else { Value::Null });
    add("error", if failed { json!(image.error) } else { Value::Null });
    add("seconds", json!(image.seconds));
    add("entropy", json!(image.quality.map(|quality| quality.entropy)));
    add("clipped", json!(image.quality.map(|quality| quality.clipped)));
    add("finished_at", time_json(image.finished_at.as_ref()));
    Value::Object(object)
}

fn text_or_null(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { json!(text) }
}

fn form_json(form: &Form) -> Value {
    json!({
        "format": image_format(form.format()),
        "quality": (form.quality > 0).then_some(form.quality),
        "layout": layout(form.layout()),
        "thumbnails": form.thumbnails,
    })
}

fn form_text(form: &Form) -> String {
    let quality = if form.quality > 0 { format!(" of quality {}", form.quality) } else { String::new() };
    let thumbnails = if form.thumbnails { ", thumbnails" } else { "" };
    format!("{}{quality}, {}{thumbnails}", image_format(form.format()), layout(form.layout()))
}

fn image_format(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Unspecified => "unknown",
        ImageFormat::Png => "png",
        ImageFormat::Jpeg => "jpeg",
        ImageFormat::Webp => "webp",
        ImageFormat::WebpLossless => "webp-lossless",
    }
}

fn layout(layout: Layout) -> &'static str {
    match layout {
        Layout::Unspecified => "unknown",
        Layout::Files => "files",
        Layout::Webdataset => "webdataset",
    }
}

fn needs_json(needs: &Needs) -> Value {
    json!({
        "labels": needs.labels,
        "device_kind": if needs.device_kind.is_empty() { Value::Null } else { json!(needs.device_kind) },
        "memory_bytes": needs.memory_bytes,
    })
}

fn needs_text(needs: &Needs) -> String {
    let mut parts: Vec<String> =
        needs.labels.iter().map(|(name, value)| format!("label {name}={value}")).collect();
    parts.sort();
    if !needs.device_kind.is_empty() {
        parts.push(format!("a {} device", needs.device_kind));
    }
    if needs.memory_bytes > 0 {
        parts.push(format!("{:.1} GB of free device memory", needs.memory_bytes as f64 / 1e9));
    }
    parts.join(", ")
}

/// Settings as one JSON object.
pub fn settings_json(settings: &Settings) -> Value {
    json!({
        "width": settings.width,
        "height": settings.height,
        "steps": settings.steps,
        "guidance": settings.guidance,
        "bin": bin(settings.bin()),
        "decode": decode(settings.decode()),
    })
}

fn bin(mode: BinMode) -> &'static str {
    match mode {
        BinMode::Unspecified => "unknown",
        BinMode::Auto => "auto",
        BinMode::Always => "always",
        BinMode::Never => "never",
    }
}

fn decode(mode: DecodeMode) -> &'static str {
    match mode {
        DecodeMode::Unspecified => "unknown",
        DecodeMode::Exact => "exact",
        DecodeMode::Blend => "blend",
        DecodeMode::Whole => "whole",
    }
}

/// A time as text.
pub fn time_json(time: Option<&prost_types::Timestamp>) -> Value {
    time.map_or(Value::Null, |time| json!(time.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sanafarm_coordinator::domain::blame;

    #[test]
    fn what_a_job_waits_for_is_told_while_it_does() {
        let awaited = Awaited {
            job_id: "a".to_owned(),
            state: JobState::Running.into(),
            images: 100,
            finished: 40,
            holds: true,
            any_end: false,
        };
        let end = Awaited { any_end: true, ..awaited.clone() };
        let over = Awaited { holds: false, state: JobState::Succeeded.into(), ..awaited.clone() };
        let mut job = Job { after: vec![over, awaited, end], ..Job::default() };
        let lines = job_lines(&job);
        let told: Vec<_> = lines.iter().filter(|(name, _)| *name == "after").map(|(_, text)| text).collect();
        assert_eq!(
            told,
            [
                "job a (succeeded, 40 of 100 images)",
                "waits for job a (running, 40 of 100 images)",
                "waits for the end of job a (running, 40 of 100 images)"
            ]
        );
        assert_eq!(
            waits_for(&job).as_deref(),
            Some("waits for job a (running, 40 of 100 images) and 1 more")
        );
        job.after.truncate(1);
        assert_eq!(waits_for(&job), None);
    }

    #[test]
    fn error_classes_have_the_words_of_the_history() {
        let words: Vec<&str> =
            (0..).map_while(|number| ErrorClass::try_from(number).ok()).map(error_class).collect();
        let history: Vec<&str> = blame::ErrorClass::ALL.iter().map(|class| class.word()).collect();
        assert_eq!(words[1..], history);
    }
}

//! `sanafarm workers`: who is connected, and what they do.

use std::time::Duration;

use sanafarm_proto::v1::job_service_client::JobServiceClient;
use sanafarm_proto::v1::{Device, DeviceStats, Drain, ListWorkersRequest, PresentWorker, WorkerStats};
use serde_json::{Value, json};

use crate::args::ListArgs;
use crate::connect::Connection;
use crate::error::{Error, Exit};
use crate::job_view::time_json;
use crate::printer::amounts::{bytes, count, duration};
use crate::printer::{Printer, Table};

/// Lists connected workers, oldest first.
pub async fn run(args: ListArgs, printer: &Printer) -> Result<Exit, Error> {
    let connection = Connection::reading(args.place.into()).await?;
    let mut client = JobServiceClient::new(connection.channel.clone());
    let answer = client.list_workers(ListWorkersRequest {}).await;
    let workers = answer.map_err(|status| Error::call("list workers", &status))?.into_inner().workers;
    if args.json {
        for worker in &workers {
            printer.data(worker_json(worker))?;
        }
    } else {
        let mut table = Table::on_stdout(&[
            "worker", "version", "devices", "labels", "state", "stages", "outbox", "model", "job", "seen",
        ]);
        for worker in &workers {
            table.row(cells(worker))?;
        }
        table.finish()?;
    }
    if workers.is_empty() {
        printer.note("no worker is connected");
    }
    drop(client);
    connection.close().await;
    Ok(Exit::Success)
}

fn cells(worker: &PresentWorker) -> Vec<String> {
    let mut labels: Vec<_> = worker.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    labels.sort();
    let devices: Vec<_> = worker
        .devices
        .iter()
        .map(|has| {
            let stats = worker.stats.iter().flat_map(|stats| &stats.devices);
            device(has, stats.clone().find(|stats| stats.device_id == has.id))
        })
        .collect();
    let held = worker.leases.first();
    vec![
        worker.worker.clone(),
        worker.version.clone(),
        devices.join(", "),
        labels.join(","),
        state_text(worker),
        worker.stats.as_ref().map(stages).unwrap_or_default(),
        worker.stats.as_ref().map(outbox).unwrap_or_default(),
        held.map(|held| held.model.clone()).unwrap_or_default(),
        held.map(|held| held.job_id.clone()).unwrap_or_default(),
        worker.seen_at.as_ref().map(ToString::to_string).unwrap_or_default(),
    ]
}

/// One word for programs.
fn state(worker: &PresentWorker) -> &'static str {
    match (worker.leaving.is_empty(), worker.drain()) {
        (false, _) => "leaving",
        (true, Drain::Soon | Drain::Now) => "draining",
        (true, Drain::Unspecified) if worker.leases.is_empty() => "idle",
        (true, Drain::Unspecified) => "working",
    }
}

/// The same for people.
fn state_text(worker: &PresentWorker) -> String {
    if let Some(silent) = silent_seconds(worker) {
        return match silent < 60.0 {
            true => format!("not heard of for {silent} s"),
            false => format!("not heard of for {}", duration(silent)),
        };
    }
    let trouble = worker.stats.as_ref().map(|stats| stats.trouble.as_str()).unwrap_or_default();
    let parts = [state(worker), worker.leaving.as_str(), trouble];
    let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join(": ")
}

/// For how long nothing was heard of it, when that is longer than it should be.
fn silent_seconds(worker: &PresentWorker) -> Option<f64> {
    let silent = Duration::try_from(worker.silent_for?).ok()?;
    Some(silent.as_secs_f64().round())
}

fn percent(share: f64) -> String {
    format!("{:.0}%", share * 100.0)
}

/// Its memory, and how it spends its time when that is known.
fn device(device: &Device, stats: Option<&DeviceStats>) -> String {
    let giga = |bytes: u64| bytes as f64 / 1e9;
    let mut parts = Vec::new();
    if device.memory_bytes > 0 {
        parts.push(format!(
            "{:.0} of {:.0} GB free",
            giga(device.memory_free_bytes),
            giga(device.memory_bytes)
        ));
    }
    match stats {
        Some(stats) if !stats.broken.is_empty() => parts.push(format!("broken: {}", stats.broken)),
        Some(stats) => {
            parts.push(format!("idle {}", percent(stats.idle)));
            if stats.batch > 1 {
                parts.push(format!("batch {}", stats.batch));
            }
            if stats.steps_down > 0 {
                parts.push(format!("out of memory {}x", stats.steps_down));
            }
        }
        None => {}
    }
    if parts.is_empty() { device.id.clone() } else { format!("{} ({})", device.id, parts.join(", ")) }
}

/// How busy the stages behind the devices are.
fn stages(stats: &WorkerStats) -> String {
    let mut stages: Vec<_> =
        stats.busy.iter().map(|(stage, busy)| format!("{stage} {}", percent(*busy))).collect();
    stages.sort();
    stages.join(" ")
}

/// What is finished and not acknowledged.
fn outbox(stats: &WorkerStats) -> String {
    match stats.outbox_images {
        0 => String::new(),
        images => format!("{} ({})", count(images), bytes(stats.outbox_bytes as f64)),
    }
}

/// A worker as one JSON object.
pub(super) fn worker_json(worker: &PresentWorker) -> Value {
    let devices: Vec<_> = worker
        .devices
        .iter()
        .map(|device| {
            json!({
                "id": device.id,
                "name": device.name,
                "memory_bytes": device.memory_bytes,
                "memory_free_bytes": device.memory_free_bytes,
                "compute_capability": device.compute_capability,
                "driver": device.driver,
            })
        })
        .collect();
    let leases: Vec<_> = worker
        .leases
        .iter()
        .map(|lease| {
            json!({
                "shard_id": lease.shard_id,
                "attempt": lease.attempt,
                "job_id": lease.job_id,
                "model": lease.model,
                "images": lease.images,
                "expires_at": time_json(lease.expires_at.as_ref()),
            })
        })
        .collect();
    json!({
        "worker": worker.worker,
        "session_id": worker.session_id,
        "version": worker.version,
        "state": state(worker),
        "devices": devices,
        "labels": worker.labels,
        "opened_at": time_json(worker.opened_at.as_ref()),
        "seen_at": time_json(worker.seen_at.as_ref()),
        "leases": leases,
        "drain": drain_json(worker.drain()),
        "silent_seconds": silent_seconds(worker),
        "leaving": if worker.leaving.is_empty() { Value::Null } else { json!(worker.leaving) },
        "stats": worker.stats.as_ref().map_or(Value::Null, stats_json),
    })
}

fn drain_json(drain: Drain) -> Value {
    match drain {
        Drain::Unspecified => Value::Null,
        Drain::Soon => json!("soon"),
        Drain::Now => json!("now"),
    }
}

fn stats_json(stats: &WorkerStats) -> Value {
    let devices: Vec<_> = stats
        .devices
        .iter()
        .map(|device| {
            json!({
                "id": device.device_id,
                "idle": device.idle,
                "busy": device.busy,
                "batch": device.batch,
                "resident": device.resident,
                "broken": device.broken,
                "steps_down": device.steps_down,
            })
        })
        .collect();
    json!({
        "devices": devices,
        "busy": stats.busy,
        "outbox_images": stats.outbox_images,
        "outbox_bytes": stats.outbox_bytes,
        "trouble": stats.trouble,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn a_worker_tells_how_it_spends_its_time_and_that_it_leaves() {
        let gpu = |id: &str| Device {
            id: id.to_owned(),
            memory_bytes: 80_000_000_000,
            memory_free_bytes: 70_000_000_000,
            ..Device::default()
        };
        let well = DeviceStats {
            device_id: "cuda:0".to_owned(),
            idle: 0.021,
            batch: 4,
            steps_down: 1,
            ..DeviceStats::default()
        };
        let broken = DeviceStats {
            device_id: "cuda:1".to_owned(),
            idle: 1.0,
            broken: "an illegal address".to_owned(),
            ..DeviceStats::default()
        };
        let stats = WorkerStats {
            devices: vec![well, broken],
            busy: HashMap::from([("store".to_owned(), 0.1), ("encode".to_owned(), 0.456)]),
            outbox_images: 1200,
            outbox_bytes: 3_400_000,
            trouble: "s3://bucket is out of reach".to_owned(),
        };
        let mut worker = PresentWorker {
            worker: "w".to_owned(),
            devices: vec![gpu("cuda:0"), gpu("cuda:1")],
            stats: Some(stats),
            ..PresentWorker::default()
        };
        let told = cells(&worker);
        assert_eq!(
            told[2],
            "cuda:0 (70 of 80 GB free, idle 2%, batch 4, out of memory 1x), \
             cuda:1 (70 of 80 GB free, broken: an illegal address)"
        );
        assert_eq!(
            told[4..7],
            ["idle: s3://bucket is out of reach", "encode 46% store 10%", "1,200 (3.40 MB)"]
        );
        worker.drain = Drain::Soon.into();
        assert_eq!((state(&worker), worker_json(&worker)["drain"].as_str()), ("draining", Some("soon")));
        (worker.leaving, worker.stats) = ("spot notice".to_owned(), None);
        assert_eq!(state_text(&worker), "leaving: spot notice");
        worker.silent_for = Some(prost_types::Duration { seconds: 36, nanos: 400_000_000 });
        assert_eq!(state_text(&worker), "not heard of for 36 s");
        assert_eq!(worker_json(&worker)["silent_seconds"], 36.0);
        let bare = cells(&PresentWorker {
            devices: vec![Device { id: "cpu".to_owned(), ..Device::default() }],
            ..PresentWorker::default()
        });
        assert_eq!(bare[2..7], ["cpu", "", "idle", "", ""]);
    }
}

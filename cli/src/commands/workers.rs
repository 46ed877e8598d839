//! `sanafarm workers`: who is connected, and what they do.

use sanafarm_proto::v1::job_service_client::JobServiceClient;
use sanafarm_proto::v1::{Device, ListWorkersRequest, PresentWorker};
use serde_json::{Value, json};

use crate::args::ListArgs;
use crate::connect::Connection;
use crate::error::{Error, Exit};
use crate::job_view::time_json;
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
        let mut table =
            Table::on_stdout(&["worker", "version", "devices", "labels", "state", "model", "job", "seen"]);
        for worker in &workers {
            table.row(cells(worker))?;
        }
        table.finish()?;
    }
    drop(client);
    connection.close().await;
    Ok(Exit::Success)
}

fn cells(worker: &PresentWorker) -> Vec<String> {
    let mut labels: Vec<_> = worker.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    labels.sort();
    let devices: Vec<_> = worker.devices.iter().map(device).collect();
    let held = worker.leases.first();
    vec![
        worker.worker.clone(),
        worker.version.clone(),
        devices.join(", "),
        labels.join(","),
        state(worker).to_owned(),
        held.map(|held| held.model.clone()).unwrap_or_default(),
        held.map(|held| held.job_id.clone()).unwrap_or_default(),
        worker.seen_at.as_ref().map(ToString::to_string).unwrap_or_default(),
    ]
}

fn state(worker: &PresentWorker) -> &'static str {
    if worker.leases.is_empty() { "idle" } else { "working" }
}

fn device(device: &Device) -> String {
    let giga = |bytes: u64| bytes as f64 / 1e9;
    match device.memory_bytes {
        0 => device.id.clone(),
        total => {
            format!("{} ({:.0} of {:.0} GB free)", device.id, giga(device.memory_free_bytes), giga(total))
        }
    }
}

fn worker_json(worker: &PresentWorker) -> Value {
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
    })
}

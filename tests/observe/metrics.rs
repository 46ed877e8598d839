//! Metrics of a farm at work, and whether its processes are ready.

use std::collections::BTreeMap;

use sanafarm_telemetry::{Kind, Metric, coordinator, worker};

use super::metrics_of;
use crate::support::cluster::Cluster;
use crate::support::http::get;
use crate::support::wait_until;

/// Values by name with labels, as Prometheus reads them.
fn scrape(address: &str) -> BTreeMap<String, f64> {
    let (status, text) = get(address, "/metrics");
    assert_eq!(status, 200);
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

/// Whether a metric has any value. Some have none before others build on them.
fn is_there(values: &BTreeMap<String, f64>, metric: &Metric) -> bool {
    let name = match metric.kind {
        Kind::Histogram(_) => format!("{}_bucket{{", metric.name),
        Kind::Counter | Kind::Gauge => metric.name.to_owned(),
    };
    let comes_later = [worker::OUT_OF_MEMORY];
    let mut names = values.keys().filter(|value| value.starts_with(&name));
    comes_later.contains(&metric.name)
        || names.any(|value| value == metric.name || value.contains('{') && value.starts_with(&name))
}

#[test]
fn a_farm_at_work_tells_all_its_metrics() {
    const IMAGES: usize = 6;
    let cluster = Cluster::new();
    let served = cluster.coordinator(&["--http", "127.0.0.1:0"]);
    let coordinator_at = metrics_of(&cluster.sandbox, "coordinator");
    let job = cluster.submit(&served.address, IMAGES, "64x64", "2");
    let before = scrape(&coordinator_at);
    assert_eq!(before["sanafarm_jobs{state=\"pending\"}"], 1.0);
    assert_eq!(before["sanafarm_workers"], 0.0);
    assert_eq!(before["sanafarm_results_total{outcome=\"picture\"}"], 0.0);
    let args = ["worker", "--coordinator", &served.address, "--name", "w", "--http", "127.0.0.1:0"];
    let working = cluster.sandbox.start(&args);
    let worker_at = metrics_of(&cluster.sandbox, "worker");
    cluster.watch(&served.address, &job);

    let mut told = BTreeMap::new();
    wait_until("the farm to be measured again", || {
        told = scrape(&coordinator_at);
        told["sanafarm_workers"] == 1.0
    });
    for metric in coordinator::TABLE {
        assert!(is_there(&told, metric), "{} is not in {told:#?}", metric.name);
    }
    assert_eq!(told["sanafarm_results_total{outcome=\"picture\"}"], IMAGES as f64);
    assert_eq!(told["sanafarm_jobs{state=\"succeeded\"}"], 1.0);
    assert!(told["sanafarm_claims_total"] >= 1.0 && told["sanafarm_commit_seconds_count"] >= 1.0);
    assert_eq!(told["sanafarm_database_trouble"], 0.0);
    let submitted = "sanafarm_rpc_seconds_count{method=\"JobService/SubmitJob\",code=\"OK\"}";
    assert_eq!(told.get(submitted), Some(&1.0), "{told:#?}");

    // It hears a moment after the job has ended that its last report has arrived.
    let mut told = BTreeMap::new();
    wait_until("the worker to know of all", || {
        told = scrape(&worker_at);
        told.get("sanafarm_worker_stage_seconds_count{stage=\"report\"}") == Some(&(IMAGES as f64))
    });
    for metric in worker::TABLE {
        assert!(is_there(&told, metric), "{} is not in {told:#?}", metric.name);
    }
    assert_eq!(told["sanafarm_worker_images_total{outcome=\"picture\"}"], IMAGES as f64);
    assert_eq!(told["sanafarm_worker_uploads_total{outcome=\"stored\"}"], IMAGES as f64);
    for stage in ["text", "denoise", "decode", "encode", "upload", "report"] {
        let count = told[&format!("sanafarm_worker_stage_seconds_count{{stage=\"{stage}\"}}")];
        assert_eq!(count, IMAGES as f64, "{stage}");
    }
    let bytes = cluster.number("select sum(bytes)::bigint from results") as f64;
    assert_eq!(told["sanafarm_worker_upload_bytes_total"], bytes);
    assert!(told["sanafarm_worker_device_memory_bytes{device=\"cpu\",kind=\"free\"}"] > 0.0);
    working.terminate();
    assert_eq!(working.wait().code(), Some(0), "{}", cluster.sandbox.running_log());
}

#[test]
fn a_process_is_ready_while_it_can_do_its_work() {
    let mut cluster = Cluster::new();
    let served = cluster.coordinator(&["--http", "127.0.0.1:0"]);
    let coordinator_at = metrics_of(&cluster.sandbox, "coordinator");
    assert_eq!(get(&coordinator_at, "/healthz"), (200, "ok\n".to_owned()));
    wait_until("it to be ready", || get(&coordinator_at, "/readyz") == (200, "ready\n".to_owned()));
    cluster.postgres.stop();
    let (status, why) = get(&coordinator_at, "/readyz");
    assert!(status == 503 && why.contains("the database does not answer"), "{why}");
    assert_eq!(get(&coordinator_at, "/healthz").0, 200);
    let (_, text) = get(&coordinator_at, "/metrics");
    assert!(text.contains("\nsanafarm_database_trouble 1\n"), "{text}");
    cluster.postgres.restart();
    wait_until("it to be ready again", || get(&coordinator_at, "/readyz").0 == 200);

    // Nobody is there to open a session with.
    let args = ["worker", "--coordinator", "127.0.0.1:1", "--name", "w", "--http", "127.0.0.1:0"];
    let _alone = cluster.sandbox.start(&args);
    let worker_at = metrics_of(&cluster.sandbox, "worker");
    let (status, why) = get(&worker_at, "/readyz");
    assert!(status == 503 && why.contains("no session"), "{why}");
    assert_eq!(get(&worker_at, "/healthz").0, 200);
    assert_eq!(get(&worker_at, "/nothing").0, 404);
    drop(served);
}

#[test]
fn a_worker_that_leaves_is_not_ready() {
    let cluster = Cluster::new();
    let served = cluster.coordinator(&[]);
    // None of them ends before it is told to.
    cluster.submit(&served.address, 4, "512x512", "1000");
    let args = ["worker", "--coordinator", &served.address, "--name", "w", "--http", "127.0.0.1:0"];
    let working = cluster.sandbox.start(&args);
    let worker_at = metrics_of(&cluster.sandbox, "worker");
    wait_until("it to be ready", || get(&worker_at, "/readyz").0 == 200);
    let rendering = "select count(*) from audit_attempts where outcome = 'held' and rendering <> '[]'";
    wait_until("a picture that is being rendered", || cluster.number(rendering) > 0);
    cluster.sandbox.run(&["drain", "w", "--coordinator", &served.address]).ok();
    wait_until("it to be told", || cluster.sandbox.running_log().contains("leaving"));
    let (status, why) = get(&worker_at, "/readyz");
    assert!(status == 503 && why.contains("leaving"), "{why}");
    cluster.sandbox.run(&["drain", "w", "--now", "--coordinator", &served.address]).ok();
    assert_eq!(working.wait().code(), Some(0), "{}", cluster.sandbox.running_log());
}

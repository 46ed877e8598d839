//! Workers that leave: at once, because somebody wants it, and by themselves.

use crate::support::books::assert_whole;
use crate::support::cluster::{Cluster, LONG_LEASES};
use crate::support::{Running, wait_until};

/// A worker `w` in the middle of an image that takes a while.
fn in_the_middle(cluster: &Cluster, address: &str) -> Running {
    let worker = cluster.worker(address, "w");
    cluster.submit(address, 2, "512x512", "1000");
    let rendering = "select count(*) from audit_attempts where outcome = 'held' and rendering <> '[]'";
    wait_until("an image in hand", || cluster.number(rendering) > 0);
    worker
}

/// A worker `w` that leaves by itself after that.
fn limited(cluster: &Cluster, address: &str, limit: [&str; 2]) -> Running {
    let args = ["worker", "--coordinator", address, "--name", "w"];
    cluster.sandbox.start(&[&args[..], &limit[..]].concat())
}

/// The worker ends well, and says why it left; nothing was lost, and nobody is to blame.
#[track_caller]
fn assert_left(cluster: &Cluster, worker: Running, why: &str) {
    assert_eq!(worker.wait().code(), Some(0), "{}", cluster.sandbox.running_log());
    assert_eq!(cluster.sql("select close_reason from sessions"), why);
    let unfinished = "select count(*) from audit_attempts where outcome not in ('finished', 'released')";
    assert_eq!(cluster.number(unfinished), 0);
    assert_eq!(cluster.number("select coalesce(sum(errors + losses), 0) from audit_images"), 0);
}

/// The image in hand was not finished: its shard was handed back.
#[track_caller]
fn assert_stopped(cluster: &Cluster, worker: Running, why: &str) {
    assert_left(cluster, worker, why);
    assert_eq!(cluster.number("select count(*) from results"), 0, "{}", cluster.sandbox.running_log());
    assert_eq!(cluster.sql("select outcome from audit_attempts"), "released");
}

#[test]
fn a_second_signal_stops_the_image_in_hand() {
    let cluster = Cluster::new();
    let coordinator = cluster.coordinator(&LONG_LEASES);
    let worker = in_the_middle(&cluster, &coordinator.address);
    worker.terminate();
    // It finishes the image.
    let leaving = "select count(*) from audit_workers where leaving is not null";
    wait_until("the worker to say that it leaves", || cluster.number(leaving) > 0);
    assert_eq!(cluster.sql("select outcome from audit_attempts"), "held");
    worker.terminate();
    assert_stopped(&cluster, worker, "finishing the image in hand");
}

#[test]
fn a_worker_that_is_drained_now_stops_the_image_in_hand() {
    let cluster = Cluster::new();
    let coordinator = cluster.coordinator(&LONG_LEASES);
    let address = coordinator.address.as_str();
    let worker = in_the_middle(&cluster, address);
    cluster.sandbox.run(&["drain", "w", "--now", "--coordinator", address]).ok();
    assert_stopped(&cluster, worker, "the coordinator asked");
}

#[test]
fn a_worker_for_so_many_jobs_finishes_those_and_leaves_others_alone() {
    const IMAGES: usize = 3;
    let cluster = Cluster::new();
    let coordinator = cluster.coordinator(&LONG_LEASES);
    let address = coordinator.address.as_str();
    let jobs = ["64x64", "64x96", "96x64"].map(|size| cluster.submit(address, IMAGES, size, "2"));
    let worker = limited(&cluster, address, ["--max-jobs", "2"]);
    assert_left(&cluster, worker, "it has worked for as many jobs as it was to");
    assert_eq!(cluster.number("select count(*) from results"), 2 * IMAGES);
    assert_eq!(cluster.sql("select count(distinct job_id) from audit_attempts"), "2");
    for job in &jobs {
        let begun = format!("select count(*) from audit_attempts where job_id = '{job}'");
        if cluster.number(&begun) > 0 {
            cluster.watch(address, job);
            assert_whole(&cluster, job, IMAGES);
        }
    }
}

#[test]
fn an_idle_worker_leaves_when_its_work_is_done() {
    const IMAGES: usize = 3;
    let cluster = Cluster::new();
    let coordinator = cluster.coordinator(&LONG_LEASES);
    let address = coordinator.address.as_str();
    let job = cluster.submit(address, IMAGES, "64x64", "2");
    let worker = limited(&cluster, address, ["--max-idle", "10s"]);
    assert_left(&cluster, worker, "idle for long enough");
    cluster.watch(address, &job);
    assert_whole(&cluster, &job, IMAGES);
}

#[test]
fn an_old_worker_leaves_in_the_middle_of_its_work() {
    const IMAGES: usize = 4000;
    let cluster = Cluster::new();
    let coordinator = cluster.coordinator(&LONG_LEASES);
    cluster.submit(&coordinator.address, IMAGES, "64x64", "2");
    let worker = limited(&cluster, &coordinator.address, ["--max-lifetime", "2s"]);
    assert_left(&cluster, worker, "its time is over");
    assert!(cluster.number("select count(*) from results") < IMAGES);
}

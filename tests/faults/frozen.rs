//! A worker that stops for longer than its lease and then goes on as if nothing had happened.

use crate::support::books::assert_whole;
use crate::support::cluster::Cluster;
use crate::support::wait_until;

#[test]
fn a_frozen_worker_hears_that_its_lease_is_gone_and_takes_new_work() {
    const IMAGES: usize = 8;
    let cluster = Cluster::new();
    let coordinator = cluster.coordinator(&[]);
    let at = coordinator.address.as_str();
    let frozen = cluster.worker(at, "frozen");
    let job = cluster.submit(at, IMAGES, "128x128", "20");
    let rendering =
        "select count(*) from audit_attempts where outcome = 'held' and done > 0 and rendering <> '[]'";
    wait_until("a picture that is being rendered", || cluster.number(rendering) > 0);
    frozen.freeze();
    // Nobody is there to take over what it holds before its time is over.
    let lost = "select count(*) from audit_attempts where outcome = 'lost'";
    wait_until("its lease to expire", || cluster.number(lost) > 0);
    let other = cluster.worker(at, "other");
    cluster.watch(at, &job);
    assert_eq!(cluster.sql("select worker, outcome from audit_attempts where attempt = 1"), "frozen|lost");

    frozen.thaw();
    let gone = || cluster.sandbox.running_log().contains("lease is gone");
    wait_until("the worker to hear of it", gone);
    assert_whole(&cluster, &job, IMAGES);
    other.terminate();
    assert_eq!(other.wait().code(), Some(0), "{}", cluster.sandbox.running_log());
    let next = cluster.submit(at, IMAGES, "64x64", "2");
    cluster.watch(at, &next);
    assert_whole(&cluster, &next, IMAGES);
    assert_whole(&cluster, &job, IMAGES);
    let who = format!("select distinct worker from audit_images where job_id = '{next}'");
    assert_eq!(cluster.sql(&who), "frozen");
}

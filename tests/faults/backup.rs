//! A farm whose database is put back to where it was in the middle of a job, as after the loss of its server. Workers know
//! nothing of it and go on.

use super::tars::{self, assert_published, kept};
use crate::support::books::assert_whole;
use crate::support::cluster::{Cluster, LONG_LEASES};
use crate::support::gate::Gate;
use crate::support::{Running, wait_until};

/// Puts the backup in the place of the database, which knew more, and has the coordinator and the workers go on until
/// the job has succeeded.
fn put_back(cluster: &Cluster, at: &str, job: &str) {
    let committed = "select count(*) from results";
    let lost = cluster.number(committed);
    cluster.restore("backup");
    let known = cluster.number(committed);
    assert!((1..lost).contains(&known), "{known} of {lost} are known");
    let _again = cluster.coordinator_at(at, &LONG_LEASES);
    cluster.watch(at, job);
    let verified = cluster.sandbox.run(&["verify", job, "--coordinator", at]);
    assert_eq!(verified.code, Some(0), "{}{}", verified.stdout, verified.stderr);
    let left = cluster.sandbox.run(&["gc", job, "--coordinator", at, "--older-than", "0s"]).ok();
    assert!(left.stderr.starts_with("nothing to clean up in "), "{}", left.stderr);
}

#[test]
fn a_database_that_was_put_back_takes_up_the_pictures_that_it_does_not_know() {
    const IMAGES: usize = 60;
    let cluster = Cluster::new();
    let coordinator = cluster.coordinator(&LONG_LEASES);
    let at = coordinator.address.clone();
    // The job does not end before it is to.
    let gate = Gate::before_row(&cluster, "results", &format!("new.idx = {}", IMAGES - 1));
    let workers = ["one", "two"].map(|name| cluster.worker(&at, name));
    let job = cluster.submit(&at, IMAGES, "64x64", "2");
    cluster.wait_for_pictures(1);
    // In the middle of the job, however long it takes.
    workers.iter().for_each(Running::freeze);
    cluster.back_up("backup");
    let saved = cluster.number("select count(*) from results");
    gate.open_for_the_living();
    workers.iter().for_each(Running::thaw);
    cluster.wait_for_pictures(saved + 1);
    coordinator.process.kill();
    put_back(&cluster, &at, &job);
    assert_whole(&cluster, &job, IMAGES);
}

#[test]
fn a_database_that_was_put_back_takes_up_a_job_of_tars_that_had_ended() {
    let cluster = Cluster::new();
    let coordinator = cluster.coordinator(&LONG_LEASES);
    let at = coordinator.address.clone();
    let first = cluster.worker(&at, "first");
    let job = tars::submit(&cluster, &at);
    wait_until("some pictures", || kept(&cluster, "first") >= 2);
    first.terminate();
    assert_eq!(first.wait().code(), Some(0), "{}", cluster.sandbox.running_log());
    cluster.back_up("backup");
    let _other = cluster.worker(&at, "other");
    cluster.watch(&at, &job);
    coordinator.process.kill();
    put_back(&cluster, &at, &job);
    assert_published(&cluster, &job);
}

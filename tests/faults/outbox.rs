//! Workers that are killed with finished images in hand, or cut off from their coordinator: they report later, and nothing
//! is rendered again.

use crate::support::books::assert_whole;
use crate::support::cluster::{Cluster, LONG_LEASES};
use crate::support::gate::{Fate, Gate};
use crate::support::wire::Wire;
use crate::support::{files_below, wait_until};

const SIZE: &str = "64x64";
const STEPS: &str = "2";
/// More than one report tells of.
const IMAGES: usize = 24;

/// Where a worker keeps what is not acknowledged.
fn outbox(cluster: &Cluster, worker: &str) -> Vec<String> {
    files_below(&cluster.sandbox.path(&format!(".sanafarm/outbox/{worker}")))
}

fn pictures(cluster: &Cluster) -> usize {
    let output = cluster.sandbox.path(&format!("out-{IMAGES}-{SIZE}"));
    if !output.exists() {
        return 0;
    }
    let is_picture = |name: &String| name.ends_with(".png");
    files_below(&output).iter().filter(|name| is_picture(name)).count()
}

/// The job has succeeded, each image by its first attempt.
#[track_caller]
fn assert_rendered_once(cluster: &Cluster, job: &str) {
    assert_whole(cluster, job, IMAGES);
    assert_eq!(cluster.sql("select distinct attempt from results"), "1", "{}", cluster.sandbox.running_log());
    wait_until("the outbox to be empty", || outbox(cluster, "w").is_empty());
}

#[test]
fn a_worker_killed_between_upload_and_report_reports_when_it_is_started_again() {
    let cluster = Cluster::new();
    let coordinator = cluster.coordinator(&LONG_LEASES);
    let address = coordinator.address;
    let job = cluster.submit(&address, IMAGES, SIZE, STEPS);
    let gate = Gate::at_commit(&cluster, "results");
    let worker = cluster.worker(&address, "w");
    gate.wait_for_one();
    wait_until("all pictures", || pictures(&cluster) == IMAGES);
    coordinator.process.kill();
    worker.kill();
    gate.open_for_the_dead(Fate::TurnedBack);
    assert_eq!(cluster.number("select count(*) from results"), 0, "none was reported");
    // Beside the records: pictures whose removal was cut short, and what was being written.
    let records = outbox(&cluster, "w").into_iter().filter(|name| name.ends_with(".json"));
    assert_eq!(records.count(), IMAGES, "the records: {:?}", outbox(&cluster, "w"));

    let _again = cluster.coordinator_at(&address, &LONG_LEASES);
    let _worker = cluster.worker(&address, "w");
    cluster.watch(&address, &job);
    assert_rendered_once(&cluster, &job);
}

#[test]
fn a_worker_that_is_cut_off_goes_on_with_its_shard_and_reports_later() {
    let cluster = Cluster::new();
    let coordinator = cluster.coordinator(&LONG_LEASES);
    let address = coordinator.address.as_str();
    let wire = Wire::to(address);
    let _worker = cluster.worker(wire.address(), "w");
    cluster.wait_for_workers(1);
    let gate = Gate::at_commit(&cluster, "results");
    let job = cluster.submit(address, IMAGES, SIZE, STEPS);
    // Its first report is under way and will not be answered.
    gate.wait_for_one();
    wire.cut();
    gate.open_for_the_living();
    wait_until("all pictures", || pictures(&cluster) == IMAGES);
    let reported = cluster.number("select count(*) from results");
    assert!(reported < IMAGES, "{reported} were reported");
    wire.mend();
    cluster.watch(address, &job);
    assert_rendered_once(&cluster, &job);
    assert_eq!(cluster.sql("select outcome from audit_attempts"), "finished");
}

#[test]
fn a_worker_that_was_cut_off_until_its_shard_was_anothers_adds_what_is_missing() {
    let cluster = Cluster::new();
    let coordinator = cluster.coordinator(&[]);
    let address = coordinator.address.as_str();
    let wire = Wire::to(address);
    let _worker = cluster.worker(wire.address(), "w");
    cluster.wait_for_workers(1);
    let gate = Gate::at_commit(&cluster, "results");
    let job = cluster.submit(address, IMAGES, SIZE, STEPS);
    gate.wait_for_one();
    wire.cut();
    gate.open_for_the_living();
    wait_until("its lease to expire", || {
        cluster.number("select count(*) from audit_attempts where outcome = 'lost'") > 0
    });
    let _other = cluster.worker(address, "other");
    cluster.watch(address, &job);
    wire.mend();
    wait_until("the outbox to be empty", || outbox(&cluster, "w").is_empty());
    assert_whole(&cluster, &job, IMAGES);
}

#[test]
fn a_drain_file_makes_a_worker_hand_back_the_rest_and_leave_with_success() {
    // Much longer than the second after which it looks again.
    const MANY: usize = 24;
    let cluster = Cluster::new();
    let coordinator = cluster.coordinator(&LONG_LEASES);
    let address = coordinator.address.as_str();
    let args = ["worker", "--coordinator", address, "--name", "spot", "--drain-file", "drain"];
    let spot = cluster.sandbox.start(&args);
    cluster.wait_for_workers(1);
    let job = cluster.submit(address, MANY, "128x128", "20");
    cluster.wait_for_pictures(1);
    cluster.sandbox.write("drain", "");
    assert_eq!(spot.wait().code(), Some(0), "{}", cluster.sandbox.running_log());
    assert_eq!(outbox(&cluster, "spot"), Vec::<String>::new());
    let done = cluster.number("select count(*) from results");
    assert!((1..MANY).contains(&done), "{done} are done");
    assert_eq!(cluster.number("select sum(errors + losses) from audit_images"), 0);

    let _other = cluster.worker(address, "other");
    cluster.watch(address, &job);
    assert_whole(&cluster, &job, MANY);
    assert_eq!(cluster.number("select count(*) from audit_attempts where outcome = 'lost'"), 0);
}

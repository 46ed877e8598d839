//! Coordinators and workers that are killed, where it hurts most.

use crate::support::books::{assert_balanced, assert_whole};
use crate::support::cluster::{Cluster, prompts};
use crate::support::gate::{Fate, Gate};
use crate::support::wait_until;

const SIZE: &str = "64x64";
const STEPS: &str = "2";
const IMAGES: usize = 6;

/// Submits the list again and again says the same job.
const SUBMIT: [&str; 7] = ["submit", "list.txt", "--size", SIZE, "--steps", STEPS, "--output=out"];

/// Kills the coordinator of a worker when its first transaction with rows for this table is about to commit, and starts
/// it again at its address. The job succeeds.
fn kill_at_commit(cluster: &Cluster, table: &str, fate: Fate) {
    let coordinator = cluster.coordinator(&[]);
    let address = coordinator.address;
    let job = cluster.submit(&address, IMAGES, SIZE, STEPS);
    let gate = Gate::at_commit(cluster, table);
    let _worker = cluster.worker(&address, "w");
    gate.wait_for_one();
    coordinator.process.kill();
    gate.open_for_the_dead(fate);
    let rows = cluster.number(&format!("select count(*) from {table}"));
    assert_eq!(rows > 0, fate == Fate::LetThrough, "{rows} rows were committed");
    let _again = cluster.coordinator_at(&address, &[]);
    cluster.watch(&address, &job);
    assert_whole(cluster, &job, IMAGES);
}

#[test]
fn a_coordinator_killed_before_it_committed_a_claim_gave_nothing() {
    let cluster = Cluster::new();
    kill_at_commit(&cluster, "leases", Fate::TurnedBack);
    assert_eq!(cluster.sql("select attempt, outcome from audit_attempts"), "1|finished");
}

#[test]
fn a_claim_whose_answer_was_lost_expires_and_costs_nothing() {
    let cluster = Cluster::new();
    kill_at_commit(&cluster, "leases", Fate::LetThrough);
    let attempts = "select attempt, outcome from audit_attempts order by attempt";
    assert_eq!(cluster.sql(attempts), "1|lost\n2|finished");
    assert_eq!(cluster.number("select sum(errors + losses) from audit_images"), 0);
}

#[test]
fn results_that_a_killed_coordinator_did_not_commit_are_reported_again() {
    let cluster = Cluster::new();
    kill_at_commit(&cluster, "results", Fate::TurnedBack);
    assert_eq!(cluster.number("select count(*) from sessions"), 1, "the worker kept its session");
}

#[test]
fn results_whose_acknowledgement_was_lost_are_known_when_they_come_again() {
    let cluster = Cluster::new();
    kill_at_commit(&cluster, "results", Fate::LetThrough);
    assert_eq!(cluster.sql("select attempt, outcome, done from audit_attempts"), "1|finished|6");
}

#[test]
fn a_coordinator_killed_in_the_middle_of_a_list_leaves_no_half_job() {
    // More than one transaction takes in.
    const ROWS: usize = 6000;
    let cluster = Cluster::new();
    let coordinator = cluster.coordinator(&[]);
    let address = coordinator.address;
    let submit = [&SUBMIT[..], &["--coordinator", &address]].concat();
    cluster.sandbox.write("list.txt", prompts(ROWS));
    let gate = Gate::before_row(&cluster, "images", "new.idx = 5000");
    std::thread::scope(|scope| {
        let submitting = scope.spawn(|| cluster.sandbox.run(&submit));
        gate.wait_for_one();
        coordinator.process.kill();
        let refused = submitting.join().unwrap();
        assert_eq!((refused.code, refused.stdout.as_str()), (Some(2), ""), "{}", refused.stderr);
        for told in ["error: submit the job\n", "\n\nhint: run the same command again"] {
            assert!(refused.stderr.contains(told), "{}", refused.stderr);
        }
    });
    assert_eq!(cluster.number("select count(*) from images"), 4000, "the first rows are there");
    gate.open_for_the_dead(Fate::LetThrough);

    let _again = cluster.coordinator_at(&address, &[]);
    let job = cluster.sandbox.run(&submit).ok().stdout.trim_end().to_owned();
    let known = cluster.sandbox.run(&submit).ok();
    assert_eq!(known.stdout.trim_end(), job);
    assert_eq!(cluster.sql("select job_id, images from audit_jobs"), format!("{job}|{ROWS}"));
    wait_until("the remains to be purged", || cluster.number("select count(*) from jobs") == 1);
    assert_eq!(cluster.number("select count(*) from images"), ROWS);
    assert_balanced(&cluster);
}

#[test]
fn a_submission_whose_answer_was_lost_is_the_same_job_when_it_comes_again() {
    let cluster = Cluster::new();
    let coordinator = cluster.coordinator(&[]);
    let address = coordinator.address;
    let submit = [&SUBMIT[..], &["--coordinator", &address]].concat();
    cluster.sandbox.write("list.txt", prompts(IMAGES));
    let gate = Gate::at_commit(&cluster, "shards");
    std::thread::scope(|scope| {
        let submitting = scope.spawn(|| cluster.sandbox.run(&submit));
        gate.wait_for_one();
        coordinator.process.kill();
        assert_eq!(submitting.join().unwrap().code, Some(2));
    });
    gate.open_for_the_dead(Fate::LetThrough);
    let job = cluster.sql("select job_id from audit_jobs");

    let _again = cluster.coordinator_at(&address, &[]);
    let again = cluster.sandbox.run(&submit).ok();
    assert_eq!(again.stdout.trim_end(), job);
    assert!(again.stderr.contains("submitted before; it is pending"), "{}", again.stderr);
    let _worker = cluster.worker(&address, "w");
    cluster.watch(&address, &job);
    assert_whole(&cluster, &job, IMAGES);
}

#[test]
fn a_worker_and_then_all_coordinators_are_killed() {
    const IMAGES: usize = 40;
    let cluster = Cluster::new();
    let coordinators = [cluster.coordinator(&[]), cluster.coordinator(&[])];
    let addresses = coordinators.each_ref().map(|coordinator| coordinator.address.clone());
    let job = cluster.submit(&addresses[0], IMAGES, "96x96", "3");
    // No report tells of more than the first half of its shard then.
    let gate = Gate::before_row(&cluster, "results", "new.idx = 5");
    let victim = cluster.worker(&addresses[0], "victim");
    gate.wait_for_one();
    victim.kill();
    gate.open_for_the_living();
    let _other = cluster.worker(&addresses[1], "other");
    let of_other = "select count(*) from audit_images where worker = 'other' and state = 'done'";
    wait_until("the other one's pictures", || cluster.number(of_other) > 0);
    coordinators.into_iter().for_each(|coordinator| coordinator.process.kill());

    let _again = addresses.each_ref().map(|address| cluster.coordinator_at(address, &[]));
    cluster.watch(&addresses[1], &job);
    assert_whole(&cluster, &job, IMAGES);
    let of_victim = "select outcome from audit_attempts where worker = 'victim' order by granted_at limit 1";
    // Or what was left of it was taken over before its time was over.
    let outcome = cluster.sql(of_victim);
    assert!(["lost", "revoked"].contains(&outcome.as_str()), "{outcome}");
}

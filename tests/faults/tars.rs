//! Workers whose pictures collect for a tar when they are killed: what is published holds every picture once.

use std::collections::BTreeMap;
use std::io::Read;

use sha2::{Digest, Sha256};

use crate::support::books::assert_balanced;
use crate::support::cluster::{Cluster, prompts};
use crate::support::{files_below, wait_until};

pub const IMAGES: usize = 8;

/// Submits a job whose pictures belong in tars; its id.
pub fn submit(cluster: &Cluster, address: &str) -> String {
    cluster.sandbox.write("list.txt", prompts(IMAGES));
    let what = ["submit", "list.txt", "--size", "128x128", "--steps", "12", "--output", "out"];
    let tars = ["--layout", "webdataset", "--coordinator", address];
    cluster.sandbox.run(&[&what[..], &tars].concat()).ok().stdout.trim_end().to_owned()
}

/// Records of finished images that a worker keeps.
pub fn kept(cluster: &Cluster, worker: &str) -> usize {
    let outbox = cluster.sandbox.path(&format!(".sanafarm/outbox/{worker}"));
    let is_record = |name: &String| name.ends_with(".json") && !name.ends_with(".tar.json");
    if !outbox.exists() { 0 } else { files_below(&outbox).iter().filter(|name| is_record(name)).count() }
}

/// The published tars hold every picture of the job once, as it was recorded, and each is described.
#[track_caller]
pub fn assert_published(cluster: &Cluster, job: &str) {
    let state = format!("select state, done from audit_jobs where job_id = '{job}'");
    assert_eq!(cluster.sql(&state), format!("succeeded|{IMAGES}"));
    assert_balanced(cluster);
    let output = cluster.sandbox.path("out");
    let tars: Vec<_> = files_below(&output).into_iter().filter(|name| name.ends_with(".tar")).collect();
    let published: Vec<_> = tars.iter().filter(|name| !name.starts_with('.')).collect();
    let expected: Vec<_> = (0..published.len()).map(|number| format!("train-{number:06}.tar")).collect();
    assert_eq!(published, expected.iter().collect::<Vec<_>>());
    let mut members = BTreeMap::new();
    for name in published {
        let mut tar = tar::Archive::new(std::fs::File::open(output.join(name)).unwrap());
        for entry in tar.entries().unwrap() {
            let mut entry = entry.unwrap();
            let member = entry.path().unwrap().to_str().unwrap().to_owned();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            let sum: String = Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(members.insert(member.clone(), sum), None, "{member} is there twice");
        }
    }
    let recorded =
        cluster.sql(&format!("select object || ' ' || sha256 from audit_images where job_id = '{job}'"));
    for line in recorded.lines() {
        let (object, sum) = line.split_once(' ').unwrap();
        assert_eq!(members.get(object).map(String::as_str), Some(sum), "{object}");
    }
    assert_eq!(members.len(), 3 * IMAGES, "{members:?}");
}

#[test]
fn a_worker_killed_while_a_tar_collects_commits_what_it_has_when_it_is_started_again() {
    let cluster = Cluster::new();
    let coordinator = cluster.coordinator(&[]);
    let address = coordinator.address.as_str();
    let worker = cluster.worker(address, "w");
    let job = submit(&cluster, address);
    wait_until("some pictures", || kept(&cluster, "w") >= 3);
    worker.kill();
    let before = kept(&cluster, "w");
    assert!((3..IMAGES).contains(&before), "{before} were kept");
    assert_eq!(cluster.number("select count(*) from results"), 0);

    let _again = cluster.worker(address, "w");
    cluster.watch(address, &job);
    assert_published(&cluster, &job);
    let first = cluster.number("select count(*) from results where attempt = 1");
    assert_eq!(first, before, "none of them was rendered again\n{}", cluster.sandbox.running_log());
    wait_until("the outbox to be empty", || kept(&cluster, "w") == 0);
}

#[test]
fn pictures_that_another_worker_has_rendered_meanwhile_are_left_out() {
    let cluster = Cluster::new();
    let coordinator = cluster.coordinator(&[]);
    let address = coordinator.address.as_str();
    let worker = cluster.worker(address, "w");
    let job = submit(&cluster, address);
    wait_until("some pictures", || kept(&cluster, "w") >= 3);
    worker.kill();
    let other = cluster.worker(address, "other");
    cluster.watch(address, &job);
    other.terminate();
    other.wait();

    let _again = cluster.worker(address, "w");
    wait_until("the outbox to be empty", || kept(&cluster, "w") == 0);
    assert_published(&cluster, &job);
}

#[test]
fn a_worker_that_is_asked_to_leave_commits_its_tar_and_hands_back_the_rest() {
    let cluster = Cluster::new();
    let coordinator = cluster.coordinator(&[]);
    let address = coordinator.address.as_str();
    let worker = cluster.worker(address, "w");
    let job = submit(&cluster, address);
    wait_until("some pictures", || kept(&cluster, "w") >= 2);
    worker.terminate();
    assert_eq!(worker.wait().code(), Some(0), "{}", cluster.sandbox.running_log());
    assert_eq!(kept(&cluster, "w"), 0);
    let done = cluster.number("select count(*) from results");
    assert!((2..IMAGES).contains(&done), "{done} are committed");

    let _other = cluster.worker(address, "other");
    cluster.watch(address, &job);
    assert_published(&cluster, &job);
    assert_eq!(cluster.number("select sum(errors + losses) from audit_images"), 0);
}

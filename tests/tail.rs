//! The end of a job on a real farm: nobody waits while another has much to do.

use crate::farm::{coordinator_with, worker};
use crate::support::books::assert_whole;
use crate::support::cluster::{Cluster, LONG_LEASES};
use crate::support::{Sandbox, pictures, wait_until};

#[test]
fn an_idle_worker_takes_over_half_of_what_another_holds() {
    const IMAGES: u64 = 32;
    let sandbox = Sandbox::new();
    let (_coordinator, address) = coordinator_with(&sandbox, LONG_LEASES);
    let list: String = (0..IMAGES).map(|number| format!("large red dots on blue {number}\n")).collect();
    sandbox.write("list.txt", list);
    let submit = ["submit", "list.txt", "--size", "256x256", "--steps", "30", "--output", "out"];
    let at = ["--coordinator", address.as_str()];
    let job = sandbox.run(&[submit.as_slice(), &at].concat()).ok().stdout.trim_end().to_owned();
    let sql = |sql: &str| sandbox.run(&[&["sql", "--csv", sql], at.as_slice()].concat()).ok().stdout;

    let _first = worker(&sandbox, &address, "first");
    wait_until("the first picture", || sql("select sum(done) from audit_jobs") != "sum(done)\n0\n");
    assert_eq!(sql("select first_index, last_index from audit_attempts"), "first_index,last_index\n0,31\n");
    let _second = worker(&sandbox, &address, "second");
    let watched = sandbox.run(&[&["watch", &job, "--json"], at.as_slice()].concat()).ok().last_json();
    assert_eq!((watched["state"].as_str(), watched["done"].as_u64()), (Some("succeeded"), Some(IMAGES)));

    let workers =
        sql("select worker, count(*) > 4 as several from audit_images group by worker order by worker");
    assert_eq!(workers, "worker,several\nfirst,1\nsecond,1\n");
    assert_eq!(sql("select count(*) > 0 as cut from audit_events where kind = 'shard_cut'"), "cut\n1\n");
    assert_eq!(
        sql("select distinct outcome from audit_attempts"),
        "outcome\nfinished\n",
        "no lease was lost or handed back"
    );
    assert_eq!(sql("select sum(images) as images from audit_attempts"), format!("images\n{IMAGES}\n"));
    pictures::assert_whole(&sandbox.database(), &sandbox.path("out"), IMAGES as usize);
}

#[test]
fn a_worker_that_hangs_holds_the_end_of_a_job_for_some_seconds_only() {
    const IMAGES: usize = 6;
    let cluster = Cluster::new();
    // Its lease would be good for an hour.
    let coordinator = cluster.coordinator(&LONG_LEASES);
    let at = coordinator.address.as_str();
    let hung = cluster.worker(at, "hung");
    let job = cluster.submit(at, IMAGES, "128x128", "20");
    cluster.wait_for_pictures(1);
    hung.freeze();
    let _other = cluster.worker(at, "other");
    cluster.watch(at, &job);
    assert_whole(&cluster, &job, IMAGES);
    assert_eq!(cluster.number("select count(*) from audit_attempts where outcome = 'lost'"), 0);
    // It goes on as if nothing had happened, and changes nothing.
    let before = cluster.sql("select idx, shard, attempt from results order by idx");
    hung.thaw();
    let next = cluster.submit(at, IMAGES, "64x64", "2");
    cluster.watch(at, &next);
    let of_first =
        "select idx, shard, attempt from results where job = (select min(job) from results) order by idx";
    assert_eq!(cluster.sql(of_first), before);
    assert_whole(&cluster, &job, IMAGES);
    assert_whole(&cluster, &next, IMAGES);
}

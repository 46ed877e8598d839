//! Several coordinators on one PostgreSQL database.

use sanafarm_test_servers::Redis;

use crate::support::books::assert_whole;
use crate::support::cluster::Cluster;
use crate::support::wait_until;

#[test]
fn a_coordinator_is_killed_and_the_other_one_goes_on() {
    const IMAGES: usize = 40;
    let cluster = Cluster::new();
    let (first, second) = (cluster.coordinator(&[]), cluster.coordinator(&[]));
    let job = cluster.submit(&first.address, IMAGES, "64x64", "2");
    let _workers = [
        cluster.worker(&second.address, "one"),
        cluster.worker(&second.address, "two"),
        // Its coordinator is killed: it waits for it to come back.
        cluster.worker(&first.address, "three"),
    ];
    cluster.wait_for_pictures(4);
    first.process.kill();
    let watched = cluster.watch(&second.address, &job);
    assert_eq!(
        (watched["state"].as_str(), watched["done"].as_u64()),
        (Some("succeeded"), Some(IMAGES as u64))
    );
    assert_whole(&cluster, &job, IMAGES);
    second.process.terminate();
    assert_eq!(second.process.wait().code(), Some(0), "{}", cluster.sandbox.running_log());
}

#[test]
fn a_watcher_and_a_worker_of_different_coordinators_meet_through_redis() {
    let (cluster, redis) = (Cluster::new(), Redis::start());
    let hints = ["--redis", &redis.url()];
    let (first, second) = (cluster.coordinator(&hints), cluster.coordinator(&hints));
    // The worker waits before there is anything to do.
    let _worker = cluster.worker(&second.address, "far");
    let here = ["--coordinator", first.address.as_str(), "--json"];
    let told = |args: &[&str]| cluster.sandbox.run(&[args, &here].concat()).ok().json_lines();
    wait_until("the worker", || told(&["workers"]).len() == 1);
    let job = cluster.submit(&first.address, 12, "256x256", "40");
    let seen = told(&["watch", &job]);
    let told = seen.iter().filter_map(|job| job["rendering"].as_array()).flatten().next();
    assert_eq!(told.expect("what the worker does")["worker"], "far");
    assert_eq!(seen.last().unwrap()["state"], "succeeded");
    assert_whole(&cluster, &job, 12);
}

/// A job that is submitted to one coordinator and rendered through another, after something has happened to Redis.
fn goes_on_after(trouble: impl FnOnce(&mut Redis)) {
    let (cluster, mut redis) = (Cluster::new(), Redis::start());
    let hints = ["--redis", &redis.url()];
    let (first, second) = (cluster.coordinator(&hints), cluster.coordinator(&hints));
    let _worker = cluster.worker(&second.address, "far");
    trouble(&mut redis);
    let job = cluster.submit(&first.address, 12, "64x64", "2");
    cluster.watch(&first.address, &job);
    assert_whole(&cluster, &job, 12);
}

#[test]
fn a_farm_goes_on_when_redis_is_flushed() {
    goes_on_after(|redis| redis.flush());
}

#[test]
fn a_farm_goes_on_when_redis_is_killed() {
    goes_on_after(Redis::kill);
}

#[test]
fn a_farm_goes_on_when_redis_hangs() {
    goes_on_after(|redis| redis.freeze());
}

#[test]
fn a_farm_goes_on_when_postgres_is_restarted() {
    const IMAGES: usize = 40;
    let mut cluster = Cluster::new();
    let coordinator = cluster.coordinator(&[]);
    let at = coordinator.address.as_str();
    let job = cluster.submit(at, IMAGES, "64x64", "2");
    let _workers = [cluster.worker(at, "one"), cluster.worker(at, "two")];
    cluster.wait_for_pictures(4);
    cluster.postgres.stop();
    cluster.postgres.restart();
    cluster.watch(at, &job);
    assert_whole(&cluster, &job, IMAGES);
}

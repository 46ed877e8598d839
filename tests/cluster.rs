//! Several coordinators on one PostgreSQL database.

use std::path::Path;

use sanafarm_test_servers::{Postgres, Redis};

use crate::farm::worker;
use crate::support::{Running, Sandbox, wait_until};

/// A coordinator on a free port: the process and its address.
fn coordinator(sandbox: &Sandbox, more: &[&str]) -> (Running, String) {
    let args = ["coordinator", "--listen", "127.0.0.1:0", "--lease-seconds", "5"];
    let mut running = sandbox.start(&[&args, more].concat());
    let line = running.first_line();
    let address = line.strip_prefix("listening on ");
    (running, address.unwrap_or_else(|| panic!("`{line}`\n{}", sandbox.running_log())).to_owned())
}

fn submit(sandbox: &Sandbox, address: &str, images: usize, size: &str, steps: &str) -> String {
    let list: String = (0..images).map(|number| format!("large red dots on blue {number}\n")).collect();
    sandbox.write("list.txt", list);
    let args =
        ["submit", "list.txt", "--size", size, "--steps", steps, "--output", "out", "--coordinator", address];
    sandbox.run(&args).ok().stdout.trim_end().to_owned()
}

/// Every image has one picture, and the counters agree with the rows.
#[track_caller]
pub fn assert_whole(postgres: &Postgres, out: &Path, images: usize) {
    let sql = |sql: &str| postgres.sql("farm", sql).trim().to_owned();
    let counted = "select count(*), count(distinct image_index), count(*) filter (where state = 'done') from audit_images";
    assert_eq!(sql(counted), format!("{images}|{images}|{images}"));
    assert_eq!(
        sql("select state, images, done, failed from audit_jobs"),
        format!("succeeded|{images}|{images}|0")
    );
    assert_eq!(sql("select count(*) from audit_attempts where outcome = 'held'"), "0");
    let names = sql("select object from audit_images order by object");
    let pictures: Vec<String> =
        crate::support::files_below(out).into_iter().filter(|name| name.ends_with(".png")).collect();
    assert_eq!(names.lines().collect::<Vec<_>>(), pictures);
    assert!(out.join("manifest.parquet").is_file());
}

#[test]
fn a_coordinator_is_killed_and_the_other_one_goes_on() {
    const IMAGES: usize = 40;
    let (sandbox, postgres) = (Sandbox::new(), Postgres::start());
    let url = postgres.database("farm");
    let at = ["--database", url.as_str()];
    let (first, first_address) = coordinator(&sandbox, &at);
    let (second, second_address) = coordinator(&sandbox, &at);
    let job = submit(&sandbox, &first_address, IMAGES, "64x64", "2");
    let _workers = [
        worker(&sandbox, &second_address, "one"),
        worker(&sandbox, &second_address, "two"),
        // Its coordinator is killed: it waits for it to come back.
        worker(&sandbox, &first_address, "three"),
    ];
    wait_until("some pictures", || {
        postgres.sql("farm", "select coalesce(sum(done), 0) from audit_jobs").trim().parse::<usize>().unwrap()
            > 3
    });
    first.kill();
    let watched = sandbox.run(&["watch", &job, "--coordinator", &second_address, "--json"]).ok().last_json();
    assert_eq!(
        (watched["state"].as_str(), watched["done"].as_u64()),
        (Some("succeeded"), Some(IMAGES as u64))
    );
    assert_whole(&postgres, &sandbox.path("out"), IMAGES);
    second.terminate();
    assert_eq!(second.wait().code(), Some(0), "{}", sandbox.running_log());
}

#[test]
fn a_watcher_and_a_worker_of_different_coordinators_meet_through_redis() {
    let (sandbox, postgres, redis) = (Sandbox::new(), Postgres::start(), Redis::start());
    let (url, hints) = (postgres.database("farm"), redis.url());
    let at = ["--database", url.as_str(), "--redis", hints.as_str()];
    let (_first, first_address) = coordinator(&sandbox, &at);
    let (_second, second_address) = coordinator(&sandbox, &at);
    // The worker waits before there is anything to do.
    let _worker = worker(&sandbox, &second_address, "far");
    let here = ["workers", "--coordinator", first_address.as_str(), "--json"];
    wait_until("the worker", || sandbox.run(&here).ok().json_lines().len() == 1);
    let job = submit(&sandbox, &first_address, 12, "256x256", "40");
    let seen = sandbox.run(&["watch", &job, "--coordinator", &first_address, "--json"]).ok().json_lines();
    let told = seen.iter().filter_map(|job| job["rendering"].as_array()).flatten().next();
    assert_eq!(told.expect("what the worker does")["worker"], "far");
    assert_eq!(seen.last().unwrap()["state"], "succeeded");
    assert_whole(&postgres, &sandbox.path("out"), 12);
}

/// A job that is submitted to one coordinator and rendered through another, after something has happened to Redis.
fn goes_on_after(trouble: impl FnOnce(&mut Redis)) {
    let (sandbox, postgres, mut redis) = (Sandbox::new(), Postgres::start(), Redis::start());
    let (url, hints) = (postgres.database("farm"), redis.url());
    let at = ["--database", url.as_str(), "--redis", hints.as_str()];
    let (_first, first_address) = coordinator(&sandbox, &at);
    let (_second, second_address) = coordinator(&sandbox, &at);
    let _worker = worker(&sandbox, &second_address, "far");
    trouble(&mut redis);
    let job = submit(&sandbox, &first_address, 12, "64x64", "2");
    let watched = sandbox.run(&["watch", &job, "--coordinator", &first_address, "--json"]).ok().last_json();
    assert_eq!(watched["state"], "succeeded");
    assert_whole(&postgres, &sandbox.path("out"), 12);
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
    let (sandbox, mut postgres) = (Sandbox::new(), Postgres::start());
    let url = postgres.database("farm");
    let (_coordinator, address) = coordinator(&sandbox, &["--database", &url]);
    let job = submit(&sandbox, &address, IMAGES, "64x64", "2");
    let _workers = [worker(&sandbox, &address, "one"), worker(&sandbox, &address, "two")];
    wait_until("some pictures", || {
        postgres.sql("farm", "select coalesce(sum(done), 0) from audit_jobs").trim().parse::<usize>().unwrap()
            > 3
    });
    postgres.stop();
    postgres.restart();
    let watched = sandbox.run(&["watch", &job, "--coordinator", &address, "--json"]).ok().last_json();
    assert_eq!(
        (watched["state"].as_str(), watched["done"].as_u64()),
        (Some("succeeded"), Some(IMAGES as u64))
    );
    assert_whole(&postgres, &sandbox.path("out"), IMAGES);
}

//! Machines whose clocks are wrong. No message of a worker holds a time, and coordinators go by the database's.

use std::path::{Path, PathBuf};
use std::process::Command;

use jiff::Timestamp;

use crate::support::books::assert_whole;
use crate::support::cluster::Cluster;
use crate::support::{Running, Sandbox};

/// Leases that expire if anybody takes a clock for right, and hardly else.
const LEASES: [&str; 2] = ["--lease-seconds", "60"];

/// Makes the library that gives a program a wrong clock.
fn wrong_clock(sandbox: &Sandbox) -> PathBuf {
    sandbox.write("wrong_clock.c", include_str!("wrong_clock.c"));
    let library = sandbox.path("wrong_clock.so");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let source = sandbox.path("wrong_clock.c");
    let made = Command::new(&compiler).args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).status();
    assert!(made.unwrap().success(), "compile a library with {}", compiler.display());
    library
}

/// A worker whose clock is that many seconds ahead.
fn worker(cluster: &Cluster, library: &Path, address: &str, name: &str, seconds: i64) -> Running {
    let mut command = cluster.sandbox.command(&["worker", "--coordinator", address, "--name", name]);
    command.env("LD_PRELOAD", library).env("WRONG_CLOCK", seconds.to_string());
    cluster.sandbox.start_command(command)
}

#[test]
fn workers_whose_clocks_are_an_hour_off_lose_nothing() {
    const IMAGES: usize = 40;
    let cluster = Cluster::new();
    let coordinator = cluster.coordinator(&LEASES);
    let at = coordinator.address.as_str();
    let library = wrong_clock(&cluster.sandbox);
    let _fast = worker(&cluster, &library, at, "fast", 3600);
    let _slow = worker(&cluster, &library, at, "slow", -3600);
    cluster.wait_for_workers(2);
    let job = cluster.submit(at, IMAGES, "64x64", "2");
    cluster.watch(at, &job);
    assert_whole(&cluster, &job, IMAGES);
    let workers = "select worker, count(*) filter (where outcome = 'lost') from audit_attempts group by worker order by 1";
    assert_eq!(cluster.sql(workers), "fast|0\nslow|0", "each has rendered, and no lease was lost");

    // Their own logs tell how wrong they are; the history knows nothing of it.
    let log = cluster.sandbox.running_log();
    let logged = log.lines().filter(|line| line.contains("leased a shard"));
    let mut off: Vec<f64> = logged
        .map(|line| {
            let time: Timestamp = line.split(' ').next().unwrap().parse().unwrap();
            (time.duration_since(Timestamp::now()).as_secs_f64() / 3600.0).round()
        })
        .collect();
    off.sort_by(f64::total_cmp);
    // Who is done early takes a part of what the other still holds: one lease each, or more.
    off.dedup();
    assert_eq!(off, [-1.0, 1.0], "{log}");
    let wrong = "select count(*) from (select at from audit_events union all select finished_at from audit_images \
        union all select expires_at from audit_attempts) as t where abs(extract(epoch from now() - at)) > 600";
    assert_eq!(cluster.number(wrong), 0);
}

#[test]
fn a_coordinator_whose_clock_is_an_hour_off_takes_nothing_from_the_others() {
    const IMAGES: usize = 24;
    let cluster = Cluster::new();
    let library = wrong_clock(&cluster.sandbox);
    let right = cluster.coordinator(&LEASES);
    let wrong = cluster.coordinator_with(&LEASES, |command| {
        command.env("LD_PRELOAD", &library).env("WRONG_CLOCK", "3600");
    });
    let log = || cluster.sandbox.running_log();
    assert!(log().contains("going by the database's"), "{}", log());
    let _here = cluster.worker(&right.address, "here");
    let _there = cluster.worker(&wrong.address, "there");
    cluster.wait_for_workers(2);
    // Each takes part: there are two shards at least.
    let job = cluster.submit(&wrong.address, IMAGES, "128x128", "20");
    cluster.watch(&right.address, &job);
    assert_whole(&cluster, &job, IMAGES);
    assert_eq!(cluster.number("select count(*) from audit_attempts where outcome = 'lost'"), 0, "{}", log());
    let wrong = "select count(*) from (select at from audit_events union all select finished_at from audit_images \
        union all select expires_at from audit_attempts) as t where abs(extract(epoch from now() - at)) > 600";
    assert_eq!(cluster.number(wrong), 0);
}

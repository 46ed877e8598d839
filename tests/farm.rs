//! A coordinator and workers as processes of their own.

use crate::support::pictures::assert_whole;
use crate::support::{Running, Sandbox, database, wait_until};

/// A coordinator on a free port: the process and its address. A lost worker is noticed soon.
pub fn coordinator(sandbox: &Sandbox) -> (Running, String) {
    coordinator_with(sandbox, ["--lease-seconds", "5"])
}

/// A coordinator on a free port with such leases.
pub fn coordinator_with(sandbox: &Sandbox, leases: [&str; 2]) -> (Running, String) {
    let listen = ["coordinator", "--listen", "127.0.0.1:0"];
    let mut running = sandbox.start(&[&listen[..], &leases].concat());
    let line = running.first_line();
    let address = line.strip_prefix("listening on ");
    let address = address.unwrap_or_else(|| panic!("`{line}`\n{}", sandbox.running_log())).to_owned();
    (running, address)
}

/// A worker of that name.
pub fn worker(sandbox: &Sandbox, address: &str, name: &str) -> Running {
    sandbox.start(&["worker", "--coordinator", address, "--name", name])
}

#[test]
fn a_worker_killed_in_the_middle_of_a_shard_loses_nothing() {
    const IMAGES: usize = 24;
    let sandbox = Sandbox::new();
    let (coordinator, address) = coordinator(&sandbox);
    let workers = [worker(&sandbox, &address, "first"), worker(&sandbox, &address, "second")];
    // Two sizes make two shards at least, one for each worker.
    let row =
        |number| format!("large red dots on blue {number},{}\n", if number % 2 == 0 { 128 } else { 96 });
    sandbox.write("list.csv", "prompt,width\n".to_owned() + &(0..IMAGES).map(row).collect::<String>());
    let submit = [
        "submit",
        "list.csv",
        "--size",
        "128x128",
        "--steps",
        "3",
        "--output",
        "out",
        "--coordinator",
        &address,
    ];
    let job = sandbox.run(&submit).ok().stdout.trim_end().to_owned();

    // Whoever holds a lease and has begun with it is killed.
    let sql = "select worker from audit_attempts where outcome = 'held' and done > 0";
    let mut victim = None;
    wait_until("a worker in the middle of a shard", || {
        victim = database::try_texts(&sandbox.database(), sql).and_then(|names| names.into_iter().next());
        victim.is_some()
    });
    let [first, second] = workers;
    let (killed, left) = match victim.as_deref() {
        Some("first") => (first, second),
        Some("second") => (second, first),
        other => panic!("no worker is called {other:?}"),
    };
    killed.kill();

    let watched = sandbox.run(&["watch", &job, "--coordinator", &address, "--json"]).ok().last_json();
    assert_eq!(
        (watched["state"].as_str(), watched["done"].as_u64()),
        (Some("succeeded"), Some(IMAGES as u64))
    );
    assert_whole(&sandbox.database(), &sandbox.path("out"), IMAGES);
    // Lost, or what was left of it was taken over before that.
    let sql = "select distinct worker from audit_attempts where outcome in ('lost', 'revoked')";
    assert_eq!(database::texts(&sandbox.database(), sql), [victim.unwrap()]);

    // The token makes a second submission the same job.
    let again = sandbox.run(&submit).ok();
    assert_eq!(again.stdout.trim_end(), job);
    assert!(again.stderr.contains("submitted before; it is succeeded"), "{}", again.stderr);

    for running in [left, coordinator] {
        running.terminate();
        assert_eq!(running.wait().code(), Some(0), "{}", sandbox.running_log());
    }
}

#[test]
fn a_cancelled_job_ends_and_the_verbs_agree_on_it() {
    let sandbox = Sandbox::new();
    let (_coordinator, address) = coordinator(&sandbox);
    sandbox.write("list.txt", "red dots\nblue dots\n");
    let at = ["--coordinator", address.as_str()];
    let run = |args: &[&str]| sandbox.run(&[args, &at].concat());
    let job = run(&["submit", "list.txt", "--size", "64x64", "--json"]).ok().last_json();
    assert_eq!((job["state"].as_str(), job["images"].as_u64()), (Some("pending"), Some(2)));
    let id = job["job_id"].as_str().unwrap();
    assert_eq!(run(&["images", id, "--state", "pending", "--json"]).ok().json_lines().len(), 2);

    let cancelled = run(&["cancel", id, "--json"]).ok().last_json();
    assert_eq!(cancelled["state"], "cancelled");
    assert_eq!(run(&["show", id, "--json"]).ok().last_json(), cancelled);
    assert_eq!(run(&["jobs", "--json"]).ok().last_json(), cancelled);
    let watched = run(&["watch", id, "--json"]);
    assert_eq!((watched.code, watched.last_json()), (Some(2), cancelled));
    assert_eq!(run(&["sql", "select state from audit_jobs", "--csv"]).ok().stdout, "state\ncancelled\n");
}

#[test]
fn a_data_folder_that_a_coordinator_serves_is_refused_to_render() {
    let sandbox = Sandbox::new();
    let (_coordinator, address) = coordinator(&sandbox);
    sandbox.write("list.txt", "red dots\n");
    let start =
        format!("error: data folder .sanafarm is in use by `sanafarm coordinator` at {address} (process ");
    for (args, hint) in [
        (&["render", "list.txt"][..], format!("`sanafarm submit --coordinator {address}`")),
        (&["cancel", "x"], format!("hint: ask it: name it with --coordinator {address}\n")),
    ] {
        let ended = sandbox.run(args);
        assert_eq!(ended.code, Some(1));
        assert!(ended.stderr.starts_with(&start) && ended.stderr.contains(&hint), "{}", ended.stderr);
    }
}

//! What must hold when `render` is killed, stopped or started twice.

use std::time::{Duration, Instant};

use crate::support::pictures::assert_whole;
use crate::support::{Sandbox, database, files_below, wait_until};

const IMAGES: usize = 20;
const ARGS: [&str; 8] = ["render", "list.txt", "--size", "128x128", "--steps", "3", "--output", "out"];

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    let list: String = (0..IMAGES).map(|number| format!("large red dots on blue {number}\n")).collect();
    sandbox.write("list.txt", list);
    sandbox
}

/// A small generator: the moments are random but the same in every run of the test.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

#[test]
fn render_killed_at_random_moments_loses_nothing_and_renders_nothing_twice() {
    let sandbox = sandbox();
    let database = sandbox.database();
    let mut random = Random(20_261_123);
    let mut kept: Vec<String> = Vec::new();
    let mut killed_in_the_middle = 0;
    for round in 0..10 {
        let mut render = sandbox.start(&ARGS);
        // The first rounds die while the program starts, the others after some more commits, and all of
        // them a few milliseconds later than that: within a step, an upload or a transaction.
        let more = random.below(4) as usize;
        wait_until("a moment to kill at", || {
            let moment = match round {
                0 => sandbox.path(".sanafarm/lock").exists(),
                1 => database.exists(),
                2 => database::try_texts(&database, "select job_id from audit_jobs")
                    .is_some_and(|j| !j.is_empty()),
                _ => database::done(&database) >= (kept.len() + more).min(IMAGES),
            };
            moment || render.has_ended()
        });
        let later = Instant::now() + Duration::from_millis(random.below(200));
        while Instant::now() < later && !render.has_ended() {
            std::hint::spin_loop();
        }
        killed_in_the_middle += usize::from(!render.has_ended());
        render.kill();

        let committed = database::committed(&database);
        let lost: Vec<_> = kept.iter().filter(|row| !committed.contains(row)).collect();
        assert!(lost.is_empty(), "committed before round {round}, gone or changed after it: {lost:?}");
        kept = committed;
    }
    assert!(killed_in_the_middle >= 4, "only {killed_in_the_middle} rounds were killed before their end");

    sandbox.run(&ARGS).ok();
    let committed = database::committed(&database);
    assert!(
        kept.iter().all(|row| committed.contains(row)),
        "rendered again: {kept:?} is not in {committed:?}"
    );
    assert_whole(&database, &sandbox.path("out"), IMAGES);
    assert_eq!(database::texts(&database, "select state from audit_jobs"), ["succeeded"]);
    let left: Vec<String> = files_below(&sandbox.path(".sanafarm"))
        .into_iter()
        .filter(|name| !name.starts_with("models/"))
        .collect();
    let known = ["lock", "sanafarm.db", "sanafarm.db-shm", "sanafarm.db-wal"];
    assert!(left.iter().all(|name| known.contains(&name.as_str())), "left behind: {left:?}");
}

#[test]
fn a_second_render_in_the_same_data_folder_is_refused() {
    let sandbox = sandbox();
    let mut first = sandbox.start(&ARGS);
    wait_until("a first picture", || database::done(&sandbox.database()) > 0 || first.has_ended());
    assert!(!first.has_ended(), "{}", sandbox.running_log());
    let second = sandbox.run(&ARGS);
    assert_eq!(second.code, Some(1));
    assert!(
        second.stderr.starts_with("error: data folder .sanafarm is in use by process "),
        "{}",
        second.stderr
    );
    assert!(second.stderr.contains("\n\nhint: "), "{}", second.stderr);
    assert_eq!(first.wait().code(), Some(0), "{}", sandbox.running_log());
    assert_whole(&sandbox.database(), &sandbox.path("out"), IMAGES);
}

#[test]
fn sigterm_leaves_cleanly_and_the_same_command_goes_on() {
    let sandbox = sandbox();
    let mut render = sandbox.start(&ARGS);
    wait_until("a first picture", || database::done(&sandbox.database()) > 0 || render.has_ended());
    render.terminate();
    assert_eq!(render.wait().code(), Some(130), "{}", sandbox.running_log());
    let talk = sandbox.running_log();
    assert!(
        talk.contains("finishing the image in hand") && talk.contains("run the same command again"),
        "{talk}"
    );

    let committed = database::committed(&sandbox.database());
    assert!((1..IMAGES).contains(&committed.len()), "{} images are done", committed.len());
    let outcomes = database::texts(&sandbox.database(), "select distinct outcome from audit_attempts");
    assert!(!outcomes.contains(&"held".to_owned()) && !outcomes.contains(&"lost".to_owned()), "{outcomes:?}");
    assert!(!sandbox.path("out/manifest.parquet").exists());

    let again = sandbox.run(&ARGS).ok();
    assert!(again.stderr.contains(&format!("going on: {} of {IMAGES}", committed.len())), "{}", again.stderr);
    let after = database::committed(&sandbox.database());
    assert!(committed.iter().all(|row| after.contains(row)));
    assert_whole(&sandbox.database(), &sandbox.path("out"), IMAGES);
}

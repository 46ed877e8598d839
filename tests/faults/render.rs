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
        second.stderr.starts_with("error: data folder .sanafarm is in use by `sanafarm render` (process "),
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

#[test]
fn renders_of_two_data_folders_can_share_an_output() {
    let sandbox = sandbox();
    let (half, rest) = (IMAGES / 2, IMAGES - IMAGES / 2);
    let list = |from: usize, rows: usize| -> String {
        (from..from + rows).map(|number| format!("large red dots on blue {number}\n")).collect()
    };
    sandbox.write("first.txt", list(0, half));
    sandbox.write("second.txt", list(half, rest));
    let args = |name: &'static str, seed: &'static str| {
        let list = if name == "first" { "first.txt" } else { "second.txt" };
        ["render", list, "--size", "64x64", "--steps", "1", "--output", "out", "--data", name, "--seed", seed]
    };
    std::fs::create_dir(sandbox.path("out")).unwrap();
    sandbox.write("out/notes.md#2", "mine");
    // What a killed writer left: nobody holds its lock.
    let left = "out/.sanafarm-0123456789abcdef0123456789abcdef.part";
    sandbox.write(left, "half a picture");
    let first = sandbox.start(&args("first", "0"));
    let second = sandbox.start(&args("second", "1000"));
    for render in [first, second] {
        assert_eq!(render.wait().code(), Some(0), "{}", sandbox.running_log());
    }
    let pictures = files_below(&sandbox.path("out"));
    assert_eq!(pictures.iter().filter(|name| name.ends_with(".png")).count(), IMAGES, "{pictures:?}");
    assert!(!sandbox.path(left).exists() && sandbox.path("out/notes.md#2").exists(), "{pictures:?}");
    assert!(!pictures.iter().any(|name| name.ends_with(".part")), "{pictures:?}");
}

#[test]
fn a_folder_in_the_place_of_the_manifest_is_told_and_the_same_command_goes_on() {
    let sandbox = sandbox();
    let manifest = sandbox.path("out/manifest.parquet");
    let in_the_way = |code: Option<i32>, talk: &str| {
        assert!(talk.contains("write manifest.parquet in ") && talk.contains("is a directory"), "{talk}");
        code
    };
    std::fs::create_dir_all(&manifest).unwrap();
    let before = sandbox.run(&ARGS);
    assert_eq!(in_the_way(before.code, &before.stderr), Some(1));
    assert_eq!(database::done(&sandbox.database()), 0);

    std::fs::remove_dir(&manifest).unwrap();
    let mut render = sandbox.start(&ARGS);
    wait_until("a first picture", || database::done(&sandbox.database()) > 0 || render.has_ended());
    std::fs::create_dir(&manifest).unwrap();
    let code = render.wait().code();
    assert_eq!(in_the_way(code, &sandbox.running_log()), Some(2));

    std::fs::remove_dir(&manifest).unwrap();
    sandbox.run(&ARGS).ok();
    assert_whole(&sandbox.database(), &sandbox.path("out"), IMAGES);
}

#[test]
fn a_full_output_ends_the_run_and_the_same_command_goes_on() {
    let sandbox = Sandbox::new();
    // The model is unpacked now: only pictures are larger than the limit below.
    sandbox.write("small.txt", "small\n");
    sandbox.run(&["render", "small.txt", "--size", "64x64", "--steps", "1"]).ok();
    sandbox.write("list.jsonl", "{\"prompt\":\"red dots\",\"width\":64,\"height\":64}\n\"blue dots\"\n");
    let args = ["render", "list.jsonl", "--size", "1280x1024", "--steps", "1", "--output", "out"];
    // A file that may not grow any more fails like one on a full disk.
    let limited = sandbox.with_largest_file(512 << 10, &args);
    assert_eq!(limited.code, Some(2), "{}", limited.stderr);
    let caused = "caused by: write 00000001-1.png in [DIR]/out: File too large";
    assert!(
        limited.stderr.contains(caused) && limited.stderr.contains("free some space"),
        "{}",
        limited.stderr
    );
    assert_eq!(files_below(&sandbox.path("out")), ["00000000-0.png"]);

    sandbox.run(&args).ok();
    let sql = "select object || ' ' || state from audit_images where object like '0000000%' order by 1";
    let images = database::texts(&sandbox.database(), sql);
    assert_eq!(images, ["00000000-0.png done", "00000000-0.png done", "00000001-1.png done"]);
    let files = [
        "00000000-0.png",
        "00000001-1.png",
        "README.md",
        "manifest.parquet",
        "manifests/part-000000.parquet",
        "metadata.jsonl",
    ];
    assert_eq!(files_below(&sandbox.path("out")), files);
}

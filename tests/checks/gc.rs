//! `gc`: what belongs to nobody is listed and deleted, and nothing else.

use std::path::Path;

use serde_json::{Value, json};

use super::Farm;
use crate::farm::coordinator;
use crate::support::cluster::{Cluster, LONG_LEASES};
use crate::support::gate::{Fate, Gate};
use crate::support::{Ended, Sandbox, files_below, wait_until};

/// Names and categories, and the object that sums up.
fn told(ended: Ended) -> (Vec<(String, String)>, Value) {
    let mut lines = ended.ok().json_lines();
    let sum = lines.pop().unwrap();
    let text = |line: &Value, key: &str| line[key].as_str().unwrap().to_owned();
    (lines.iter().map(|line| (text(line, "object"), text(line, "category"))).collect(), sum)
}

fn named(found: &[(&str, &str)]) -> Vec<(String, String)> {
    found.iter().map(|(name, category)| ((*name).to_owned(), (*category).to_owned())).collect()
}

#[test]
fn of_a_cancelled_job_its_own_pictures_go_and_what_strangers_put_there_stays() {
    let sandbox = Sandbox::new();
    sandbox.write("list.txt", "red dots\nblue dots\ngreen dots\n");
    let what = ["list.txt", "--size", "64x64", "--steps", "1", "--thumbnails"];
    sandbox.run(&[&["render"], &what[..], &["--output", "first", "--data", "other"]].concat()).ok();
    let (_coordinator, address) = coordinator(&sandbox);
    let run = |args: &[&str]| sandbox.run(&[args, &["--coordinator", &address]].concat());
    let submitted = run(&[&["submit"], &what[..], &["--output", "out"]].concat()).ok();
    let job = submitted.stdout.trim_end();
    // As if a worker had stored the first picture, and was killed before it could tell.
    let (first, out) = (sandbox.path("first"), sandbox.path("out"));
    std::fs::create_dir_all(out.join("thumbnails")).unwrap();
    for name in ["00000000-0.png", "thumbnails/00000000-0.jpg"] {
        std::fs::copy(first.join(name), out.join(name)).unwrap();
    }
    // Somebody's: in the place of a picture, as another picture of ours, and somewhere else.
    std::fs::write(out.join("00000001-1.png"), "somebody's").unwrap();
    std::fs::copy(first.join("00000001-1.png"), out.join("00000002-2.png")).unwrap();
    std::fs::write(out.join("notes.md"), "mine").unwrap();
    let part = ".sanafarm-0123456789abcdef0123456789abcdef.part";
    std::fs::write(out.join(part), "half").unwrap();

    let gc = |args: &[&str]| told(run(&[&["gc", job, "--json", "--older-than", "0s"], args].concat()));
    let of_running = named(&[(part, "leftover"), ("notes.md", "unknown")]);
    assert_eq!(gc(&[]).0, of_running, "a job that has not ended keeps all that may be its own");
    run(&["cancel", job]).ok();
    let (found, sum) = told(run(&["gc", job, "--json"]));
    assert_eq!((found, &sum["young"]), (named(&[]), &json!(6)), "all of it was written just now");
    let all = named(&[
        (part, "leftover"),
        ("00000000-0.png", "dead"),
        ("00000001-1.png", "unknown"),
        ("00000002-2.png", "unknown"),
        ("notes.md", "unknown"),
        ("thumbnails/00000000-0.jpg", "thumbnail"),
    ]);
    let (found, sum) = gc(&[]);
    assert_eq!((sorted(found), &sum["deleted"]), (sorted(all.clone()), &Value::Null));
    assert_eq!(files_below(&out).len(), 6, "without --delete everything stays");

    let (found, sum) = gc(&["--delete"]);
    assert_eq!((sorted(found), &sum["deleted"]["objects"]), (sorted(all), &json!(3)));
    assert_eq!(files_below(&out), ["00000001-1.png", "00000002-2.png", "notes.md"]);
    let ended = run(&["gc", "out", "--older-than", "0s"]).ok();
    let place = "[DIR]/out";
    assert_eq!(
        ended.stderr,
        format!("nothing to clean up in {place}; 3 objects ({}) of strangers stay\n", size(&out))
    );
    let refused = run(&["gc", "first"]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("no job has the output [DIR]/first"), "{}", refused.stderr);
}

fn sorted(mut found: Vec<(String, String)>) -> Vec<(String, String)> {
    found.sort();
    found
}

/// Bytes of all files, as people are told.
fn size(folder: &Path) -> String {
    let bytes =
        files_below(folder).iter().map(|name| folder.join(name).metadata().unwrap().len()).sum::<u64>();
    if bytes < 1000 { format!("{bytes} B") } else { format!("{:.2} kB", bytes as f64 / 1000.0) }
}

/// A worker and its coordinator are killed when it has stored so many objects and none is committed; the job is cancelled:
/// all of them are found and deleted.
fn killed(layout: &str, table: &str, objects: usize, category: &str) {
    let cluster = Cluster::new();
    let coordinator = cluster.coordinator(&LONG_LEASES);
    let sandbox = &cluster.sandbox;
    sandbox.write("list.txt", "red dots\nblue dots\ngreen dots\n");
    let submit =
        ["submit", "list.txt", "--size", "64x64", "--steps", "1", "--layout", layout, "--output", "out"];
    let run = |args: &[&str]| sandbox.run(&[args, &["--coordinator", &coordinator.address]].concat());
    let job = run(&submit).ok().stdout.trim_end().to_owned();
    let out = sandbox.path("out");
    let stored = || if out.exists() { files_below(&out) } else { Vec::new() };
    let gate = Gate::at_commit(&cluster, table);
    let worker = cluster.worker(&coordinator.address, "w");
    gate.wait_for_one();
    // And nothing that is still being written.
    wait_until("what it stores", || {
        let names = stored();
        names.len() == objects && !names.iter().any(|name| name.ends_with(".part"))
    });
    let address = coordinator.address.clone();
    coordinator.process.kill();
    worker.kill();
    gate.open_for_the_dead(Fate::TurnedBack);

    let _again = cluster.coordinator_at(&address, &LONG_LEASES);
    let run = |args: &[&str]| sandbox.run(&[args, &["--coordinator", &address]].concat());
    let gc = |args: &[&str]| told(run(&[&["gc", &job, "--json", "--older-than", "0s"], args].concat()));
    assert_eq!(gc(&["--delete"]).0, named(&[]), "the worker may come back and report them");
    run(&["cancel", &job]).ok();
    let wanted: Vec<_> = stored().into_iter().map(|name| (name, category.to_owned())).collect();
    assert_eq!(gc(&[]).0, wanted);
    let (found, sum) = gc(&["--delete"]);
    assert_eq!((found, &sum["deleted"]["objects"]), (wanted, &json!(objects)));
    assert_eq!(stored(), Vec::<String>::new());
}

#[test]
fn pictures_that_a_killed_worker_stored_go_when_their_job_has_ended() {
    killed("files", "results", 3, "dead");
}

#[test]
fn a_tar_that_a_killed_worker_stored_goes_when_its_job_has_ended() {
    killed("webdataset", "archives", 1, "staged");
}

#[test]
fn an_output_that_is_whole_has_nothing_to_delete() {
    let farm = Farm::new();
    for (output, args) in
        [("files", &["--thumbnails"][..]), ("tars", &["--layout", "webdataset", "--thumbnails"])]
    {
        let job = farm.render(4, output, args);
        let before = files_below(&farm.sandbox.path(output));
        let (found, sum) = told(farm.run(&["gc", &job, "--json", "--older-than", "0s", "--delete"]));
        assert_eq!((found, &sum["deleted"]["objects"]), (named(&[]), &json!(0)));
        assert_eq!(files_below(&farm.sandbox.path(output)), before);
        farm.run(&["verify", &job]).ok();
    }
}

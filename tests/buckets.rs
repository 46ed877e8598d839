//! Pictures that go to an object store and lists that come from one, as a user runs it, against a real S3 server.

use std::process::Command;

use sanafarm_test_servers::S3;
use sanafarm_test_servers::s3::{Fault, On};
use serde_json::Value;

use crate::support::pictures::assert_whole;
use crate::support::{Ended, Sandbox, files_below, wait_until};

const LIST: &str = "red dots\nblue dots on white\ngreen stripes\nyellow grid\n";

/// A command that knows the server, and nothing of the tester's own stores.
fn command(sandbox: &Sandbox, s3: &S3, args: &[&str]) -> Command {
    let mut command = sandbox.command(args);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AWS_")) {
        command.env_remove(name);
    }
    command.envs(s3.environment());
    command
}

fn run(sandbox: &Sandbox, s3: &S3, args: &[&str]) -> Ended {
    sandbox.ended(command(sandbox, s3, args).output().unwrap())
}

fn put(s3: &S3, object: &str, text: &str) {
    let file = s3.file("farm", object);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, text).unwrap();
}

#[test]
fn a_list_in_a_bucket_is_rendered_into_it_and_a_second_run_finds_all_there() {
    let (sandbox, s3) = (Sandbox::new(), S3::start());
    put(&s3, "lists/colours.txt", LIST);
    let args = [
        "render",
        "s3://farm/lists/colours.txt",
        "--size",
        "64x64",
        "--steps",
        "1",
        "--output",
        "s3://farm/data set/out",
    ];
    s3.inject(On::put(".png"), 1, Fault::internal());
    s3.inject(On::put(".png"), 1, Fault::LoseAnswer);
    let done = run(&sandbox, &s3, &args).ok();
    assert_eq!(done.stdout, "s3://farm/data%20set/out\n", "as a URL, which a shell takes as it is");
    let folder = s3.file("farm", "data set/out");
    assert_whole(&sandbox.database(), &folder, 4);

    let written = s3.seen(&On::put(".png"));
    let again = run(&sandbox, &s3, &args).ok();
    assert!(again.stderr.contains("finished before (succeeded)"), "{}", again.stderr);
    assert_eq!(s3.seen(&On::put(".png")), written);
    std::fs::remove_file(folder.join("metadata.jsonl")).unwrap();
    let moved = run(&sandbox, &s3, &args);
    assert_eq!(moved.code, Some(2));
    assert!(
        moved.stderr.contains("metadata.jsonl is no longer in s3://farm/data%20set/out"),
        "{}",
        moved.stderr
    );
}

#[test]
fn a_run_that_was_killed_goes_on_in_its_bucket() {
    let (sandbox, s3) = (Sandbox::new(), S3::start());
    sandbox.write("list.txt", LIST);
    let args = ["render", "list.txt", "--size", "64x64", "--steps", "1", "--output", "s3://farm/out"];
    // Stored, and never known to be.
    s3.inject(On::put("00000001"), usize::MAX, Fault::Silence);
    let killed = sandbox.start_command(command(&sandbox, &s3, &args));
    wait_until("the second picture is stored", || s3.file("farm", "out/00000001-1.png").exists());
    killed.kill();
    s3.heal();
    run(&sandbox, &s3, &args).ok();
    assert_whole(&sandbox.database(), &s3.file("farm", "out"), 4);
}

#[test]
fn tars_get_their_names_in_a_bucket_also_when_an_answer_is_lost() {
    let (sandbox, s3) = (Sandbox::new(), S3::start());
    sandbox.write("list.txt", LIST);
    let output = ["--layout", "webdataset", "--output", "s3://farm/tars"];
    s3.inject(On::new("POST", "train-000000.tar?uploadId"), 1, Fault::LoseAnswer);
    let args = ["render", "list.txt", "--size", "64x64", "--steps", "1"];
    run(&sandbox, &s3, &[&args[..], &output].concat()).ok();
    assert_eq!(s3.uploads(), Vec::<String>::new());
    let folder = s3.file("farm", "tars");
    let files = files_below(&folder);
    assert!(!files.iter().any(|file| file.starts_with(".staging/")), "{files:?}");
    let tars: Vec<&String> = files.iter().filter(|file| file.ends_with(".tar")).collect();
    let index: Value = serde_json::from_slice(&std::fs::read(folder.join("index.json")).unwrap()).unwrap();
    let shards = index["shardlist"].as_array().unwrap();
    assert_eq!(shards.iter().map(|shard| shard["url"].as_str().unwrap()).collect::<Vec<_>>(), tars);
    assert_eq!(shards.iter().map(|shard| shard["nsamples"].as_u64().unwrap()).sum::<u64>(), 4);
}

#[test]
fn a_bucket_that_is_not_there_or_not_ours_is_told_before_anything_is_rendered() {
    let (sandbox, s3) = (Sandbox::new(), S3::start());
    sandbox.write("list.txt", LIST);
    let ended = run(&sandbox, &s3, &["render", "list.txt", "--output", "s3://nowhere/out"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("there is no such bucket"), "{}", ended.stderr);
    let mut stranger = command(&sandbox, &s3, &["render", "list.txt", "--output", "s3://farm/out"]);
    stranger.env("AWS_SECRET_ACCESS_KEY", "guessed");
    let ended = sandbox.ended(stranger.output().unwrap());
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("check the credentials"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("guessed"), "{}", ended.stderr);
    assert_eq!(files_below(&s3.file("farm", "")), Vec::<String>::new());
}

#[test]
fn gc_clears_a_bucket_of_what_a_cancelled_job_left_and_of_nothing_else() {
    let (sandbox, s3) = (Sandbox::new(), S3::start());
    sandbox.write("list.txt", LIST);
    let what = ["list.txt", "--size", "64x64", "--steps", "1"];
    run(&sandbox, &s3, &[&["render"], &what[..], &["--output", "elsewhere", "--data", "other"]].concat())
        .ok();
    let coordinator = ["coordinator", "--listen", "127.0.0.1:0"];
    let mut process = sandbox.start_command(command(&sandbox, &s3, &coordinator));
    let line = process.first_line();
    let address = line.strip_prefix("listening on ").unwrap();
    let farm = |args: &[&str]| run(&sandbox, &s3, &[args, &["--coordinator", address]].concat());
    let submit = [&["submit"], &what[..], &["--output", "s3://farm/out"]].concat();
    let job = farm(&submit).ok().stdout.trim_end().to_owned();
    // As if a worker had stored them and was killed before it could tell; one has been replaced by somebody.
    for name in ["00000000-0.png", "00000001-1.png"] {
        let stored = s3.file("farm", &format!("out/{name}"));
        std::fs::create_dir_all(stored.parent().unwrap()).unwrap();
        std::fs::copy(sandbox.path("elsewhere").join(name), stored).unwrap();
    }
    put(&s3, "out/00000002-2.png", "somebody's");
    put(&s3, "out/notes.md", "mine");
    put(&s3, "outside.png", "beside it");
    farm(&["cancel", &job]).ok();

    // The first answer is lost: what it was about is gone when it is asked again.
    let first = On::new("DELETE", "00000000-0.png");
    s3.inject(first.clone(), 1, Fault::LoseAnswer);
    let gc = farm(&["gc", &job, "--json", "--older-than", "0s", "--delete"]).ok();
    let sum = gc.json_lines().pop().unwrap();
    assert_eq!(sum["deleted"]["objects"], 2, "{}", gc.stdout);
    assert_eq!(s3.seen(&first), 2);
    let left = ["out/00000002-2.png", "out/notes.md", "outside.png"];
    assert_eq!(files_below(&s3.file("farm", "")), left);
}

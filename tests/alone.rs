//! One person with one machine: what went wrong is put right in the data folder, without a coordinator.

use serde_json::json;

use crate::support::{Ended, Sandbox, database, wait_until};

const RENDER: [&str; 8] = ["render", "list.txt", "--size", "64x64", "--steps", "1", "--output", "out"];

/// What stands on standard error when a command goes on.
const GO_ON: &str = "run the same `sanafarm render` command again\n";

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("list.txt", "red dots\nblue dots\ngreen dots\n");
    sandbox
}

fn job(sandbox: &Sandbox) -> String {
    let jobs = sandbox.run(&["jobs", "--json"]).ok().last_json();
    jobs["job_id"].as_str().unwrap().to_owned()
}

/// Names of the pictures, by index.
fn objects(sandbox: &Sandbox, job: &str) -> Vec<String> {
    let images = sandbox.run(&["images", job, "--json"]).ok().json_lines();
    images.iter().map(|image| image["object"].as_str().unwrap().to_owned()).collect()
}

#[track_caller]
fn told(ended: &Ended, text: &str) {
    assert!(ended.stderr.contains(text), "{} is not in {}", text, ended.stderr);
}

#[test]
fn deleted_pictures_are_rendered_again() {
    let sandbox = sandbox();
    told(&sandbox.run(&RENDER).ok(), "rendered 3 images in ");
    let job = job(&sandbox);
    let first = sandbox.path("out").join(&objects(&sandbox, &job)[0]);
    let before = std::fs::read(&first).unwrap();
    std::fs::remove_file(&first).unwrap();

    let found = sandbox.run(&["verify", &job]);
    assert_eq!(found.code, Some(2));
    told(&found, &format!("`sanafarm verify {job} --requeue`"));
    std::fs::rename(sandbox.path(".sanafarm"), sandbox.path("kept")).unwrap();
    let elsewhere = sandbox.run(&["verify", &job, "--data", "kept"]);
    told(&elsewhere, &format!("`sanafarm verify {job} --requeue --data kept`"));
    std::fs::rename(sandbox.path("kept"), sandbox.path(".sanafarm")).unwrap();
    let requeued = sandbox.run(&["verify", &job, "--requeue"]);
    assert_eq!(requeued.code, Some(2));
    told(&requeued, "1 image is to be rendered again\n");
    assert!(requeued.stderr.ends_with(GO_ON), "{}", requeued.stderr);
    let again = sandbox.run(&RENDER).ok();
    told(&again, "going on: 2 of 3 images are there already");
    told(&again, "rendered 1 image in ");
    assert!(!again.stderr.contains("nothing to render"), "{}", again.stderr);
    assert!(std::fs::read(&first).unwrap() == before, "it is another picture");
    sandbox.run(&["verify", &job, "--deep"]).ok();

    // What is about the pictures alone.
    std::fs::remove_file(sandbox.path("out/manifest.parquet")).unwrap();
    let gone = sandbox.run(&RENDER);
    told(&gone, &format!("`sanafarm verify {job} --requeue` and then the same command again"));
    told(
        &sandbox.run(&["verify", &job]),
        &format!("`sanafarm verify {job} --requeue` has the tables written anew"),
    );
    told(&sandbox.run(&["verify", &job, "--requeue"]), "the tables are written anew\n");
    sandbox.run(&RENDER).ok();
    assert!(std::fs::read(&first).unwrap() == before, "it is another picture");
    sandbox.run(&["verify", &job]).ok();

    // The whole output, as somebody may move it away.
    std::fs::remove_dir_all(sandbox.path("out")).unwrap();
    let gone = sandbox.run(&RENDER);
    assert_eq!(gone.code, Some(2), "{}", gone.stderr);
    told(&gone, &format!("`sanafarm verify {job} --requeue` and then the same command again"));
    told(&sandbox.run(&["verify", &job, "--requeue"]), "3 images are to be rendered again\n");
    sandbox.run(&RENDER).ok();
    sandbox.run(&["verify", &job]).ok();
}

#[test]
fn the_index_of_tars_is_written_anew() {
    let sandbox = sandbox();
    let render = [&RENDER[..], &["--layout", "webdataset"]].concat();
    sandbox.run(&render).ok();
    let job = job(&sandbox);
    std::fs::remove_file(sandbox.path("out/index.json")).unwrap();
    told(&sandbox.run(&["verify", &job, "--requeue"]), "the tables are written anew\n");
    sandbox.run(&render).ok();
    sandbox.run(&["verify", &job, "--deep"]).ok();
}

#[test]
fn failed_images_are_tried_again_by_the_same_command() {
    let sandbox = sandbox();
    // Somebody's file stands where the second picture belongs.
    std::fs::create_dir(sandbox.path("out")).unwrap();
    let taken = sandbox.path("out").join("00000001-1.png");
    std::fs::write(&taken, "somebody's").unwrap();
    let failed = sandbox.run(&RENDER);
    let job = job(&sandbox);
    assert_eq!(failed.code, Some(2), "{}", failed.stderr);
    told(&failed, "rendered 2 images, 1 failed, in ");
    told(&failed, &format!("`sanafarm retry {job} --failed` and then the same command again"));
    let explained = sandbox.run(&["explain", &job]).ok();
    let line = format!("job {job} is failed: 2 of 3 images are there, 1 image failed\n");
    assert!(explained.stdout.starts_with(&line), "{}", explained.stdout);
    let verified = sandbox.run(&["verify", &job]).ok();
    told(
        &verified,
        &format!(": they are well; 1 image failed and has none (`sanafarm images {job} --failed`)\n"),
    );

    std::fs::remove_file(&taken).unwrap();
    let retried = sandbox.run(&["retry", &job, "--failed"]).ok();
    told(&retried, "1 image is to be tried again\n");
    assert!(retried.stderr.ends_with(GO_ON), "{}", retried.stderr);
    let again = sandbox.run(&RENDER).ok();
    told(&again, "rendered 1 image in ");
    sandbox.run(&["verify", &job]).ok();
    assert_eq!(sandbox.run(&["show", &job, "--json"]).ok().last_json()["state"], "succeeded");
}

#[test]
fn a_list_of_which_nothing_could_be_rendered_says_so() {
    let sandbox = sandbox();
    std::fs::create_dir(sandbox.path("out")).unwrap();
    for index in 0..3 {
        sandbox.write(&format!("out/{index:08}-{index}.png"), "somebody's");
    }
    let failed = sandbox.run(&RENDER);
    assert_eq!(failed.code, Some(2));
    told(&failed, "rendered 0 images, 3 failed, in ");
    told(&failed, "3 of 3 images failed\n");
    assert!(failed.stderr.contains("conflict: 3 of them, such as image 0: "), "{}", failed.stderr);
    assert!(!failed.stderr.contains("WARN"), "{}", failed.stderr);
    let table = sandbox.run(&["images", &job(&sandbox), "--failed"]).ok().stdout;
    let mut lines = table.lines();
    assert!(lines.next().unwrap().ends_with("prompt      error"), "{table}");
    assert!(lines.all(|line| line.contains("  conflict: ") && line.chars().count() < 150), "{table}");
    let again = sandbox.run(&RENDER);
    told(&again, "nothing to render: this job was finished before (failed)");
}

/// A job that was left in the middle.
fn abandoned() -> (Sandbox, String) {
    let sandbox = sandbox();
    sandbox.write("list.txt", "small red dots on white\n".repeat(200));
    let render = sandbox.start(&RENDER);
    wait_until("a first picture", || database::done(&sandbox.database()) > 0);
    let refused = sandbox.run(&["cancel", &job(&sandbox)]);
    assert_eq!(refused.code, Some(1));
    told(&refused, "error: data folder .sanafarm is in use by `sanafarm render` (process ");
    told(&refused, "stop it with Ctrl-C");
    render.kill();
    let job = job(&sandbox);
    (sandbox, job)
}

#[test]
fn an_abandoned_job_is_told_as_one_and_changed_where_it_is() {
    let (sandbox, job) = abandoned();
    let nobody = "nobody renders it now: the same `sanafarm render` command goes on with it\n";
    for verb in ["show", "explain"] {
        let ended = sandbox.run(&[verb, &job]).ok();
        assert!(ended.stderr.ends_with(nobody), "{verb}: {}", ended.stderr);
    }
    let watched = sandbox.run(&["watch", &job, "--json"]);
    assert_eq!((watched.code, &watched.last_json()["state"]), (Some(2), &json!("running")));
    assert!(watched.stderr.ends_with(nobody), "{}", watched.stderr);

    let listed =
        "nobody renders the job that is not finished: the same `sanafarm render` command goes on with it\n";
    assert_eq!(sandbox.run(&["jobs"]).ok().stderr, listed);

    let paused = sandbox.run(&["pause", &job, "--reason", "lunch"]).ok();
    told(&paused, &format!("`sanafarm resume {job}` lets it go on"));
    assert_eq!(sandbox.run(&["jobs"]).ok().stderr, "");
    let held = sandbox.run(&RENDER);
    assert_eq!(held.code, Some(1), "{}", held.stderr);
    told(&held, &format!("error: job {job} is paused\n\nhint: `sanafarm resume {job}` lets it go on"));
    told(&sandbox.run(&["resume", &job]).ok(), GO_ON);
    sandbox.run(&["priority", &job, "7"]).ok();
    let cancelled = sandbox.run(&["cancel", &job, "--json"]).ok();
    assert_eq!(
        (&cancelled.last_json()["state"], &cancelled.last_json()["priority"]),
        (&json!("cancelled"), &json!(7))
    );
    assert_eq!(cancelled.stderr, "");
    told(&sandbox.run(&RENDER), &format!("job {job} was cancelled"));
}

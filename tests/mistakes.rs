//! What people get wrong, and what they are told that helps.

use crate::farm::{coordinator, worker};
use crate::support::{Ended, Sandbox, wait_until};

/// Exit code 1 and these texts on standard error.
#[track_caller]
fn refused(ended: &Ended, texts: &[&str]) {
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    for text in texts {
        assert!(ended.stderr.contains(text), "`{text}` is not in {}", ended.stderr);
    }
}

#[test]
fn bad_rows_are_told_together_as_far_as_they_fit() {
    let sandbox = Sandbox::new();
    let bad = |rows: usize| "{\"prompt\":\"a\"}\n{\"prompt\":\"\"}\n".repeat(rows);
    sandbox.write("few.jsonl", bad(6));
    let few = sandbox.run(&["render", "few.jsonl"]);
    refused(
        &few,
        &["error: few.jsonl: 6 bad rows\n", "caused by: few.jsonl:2: empty prompt\n", "few.jsonl:12: "],
    );
    assert!(
        few.stderr
            .contains("hint: nothing was started; mend the lines, or skip bad lines with --skip-invalid")
    );
    sandbox.write("many.jsonl", bad(30));
    let many = sandbox.run(&["render", "many.jsonl"]);
    refused(
        &many,
        &["error: many.jsonl: the first 20 bad rows\n", "many.jsonl:40: ", "--dry-run lists all bad lines"],
    );
    assert!(!many.stderr.contains("many.jsonl:42: "), "{}", many.stderr);
    assert!(!sandbox.path("renders").exists() && !sandbox.database().exists());
}

#[test]
fn a_column_that_no_row_has_is_no_reason_to_skip_them() {
    let sandbox = Sandbox::new();
    sandbox.write("a.jsonl", "{\"prompt\":\"a\"}\n".repeat(3));
    for list in [&["--limit", "1"][..], &[]] {
        let ended = sandbox.run(&[&["render", "a.jsonl", "--prompt-column", "nope"], list].concat());
        refused(
            &ended,
            &["a.jsonl:1: no column `nope`; found `prompt`", "name the prompt's column with --prompt-column"],
        );
        assert!(!ended.stderr.contains("--skip-invalid"), "{}", ended.stderr);
    }
}

#[test]
fn a_changed_option_is_named_when_the_output_is_taken() {
    let sandbox = Sandbox::new();
    sandbox.write("list.txt", "red dots\n".repeat(300));
    let render = |steps: &str| {
        ["render", "list.txt", "--size", "64x64", "--output", "out", "--steps", steps].map(str::to_owned)
    };
    let args = |steps| render(steps);
    let first: Vec<String> = args("2").into();
    let first: Vec<&str> = first.iter().map(String::as_str).collect();
    let running = sandbox.start(&first);
    wait_until("a first picture", || crate::support::database::done(&sandbox.database()) > 0);
    running.kill();
    let other: Vec<String> = args("3").into();
    let other: Vec<&str> = other.iter().map(String::as_str).collect();
    let unfinished = sandbox.run(&other);
    refused(&unfinished, &[", which is running\n", "it has steps 2 instead of 3\n", "go on with that job"]);
    assert!(!unfinished.stderr.contains("--append"), "{}", unfinished.stderr);
    sandbox.write("list.txt", "red dots\n");
    let done = ["render", "list.txt", "--size", "64x64", "--output", "two", "--steps", "1"];
    sandbox.run(&done).ok();
    sandbox.write("list.txt", "blue dots\n");
    refused(
        &sandbox.run(&done),
        &[", which is succeeded\n", "its settings are the same: the list, ", "add to it with --append\n"],
    );
}

#[test]
fn models_that_workers_could_not_find_are_refused() {
    let sandbox = Sandbox::new();
    let (_coordinator, address) = coordinator(&sandbox);
    sandbox.write("list.txt", "red dots\n");
    let submit =
        ["submit", "list.txt", "--size", "64x64", "--steps", "1", "--coordinator", &address, "--model"];
    let hub = "Efficient-Large-Model/Sana_600M_512px_diffusers";
    let hub_hint = format!("hint: did you mean hf:{hub}?\n");
    refused(&sandbox.run(&[&submit[..], &[hub]].concat()), &[&hub_hint]);
    refused(&sandbox.run(&["render", "list.txt", "--data", "alone", "--model", hub]), &[&hub_hint]);
    for name in ["nosuch", "models/of/mine"] {
        let ended = sandbox.run(&[&submit[..], &[name]].concat());
        refused(&ended, &[&format!("error: use model {name}\n"), "hint: name sana-tiny, the absolute path"]);
    }
    let submitted = sandbox.run(&[&submit[..], &["/models/of/workers"]].concat()).ok();
    let job = submitted.stdout.trim_end();
    let told = format!("follow it with `sanafarm watch {job} --coordinator {address}`\n");
    assert!(submitted.stderr.ends_with(&told), "{}", submitted.stderr);
}

#[test]
fn a_cancelled_job_is_not_resumed_and_that_is_told() {
    let sandbox = Sandbox::new();
    let (_coordinator, address) = coordinator(&sandbox);
    sandbox.write("list.txt", "red dots\n");
    let run = |args: &[&str]| sandbox.run(&[args, &["--coordinator", &address]].concat());
    let job =
        run(&["submit", "list.txt", "--size", "64x64", "--steps", "1"]).ok().stdout.trim_end().to_owned();
    run(&["cancel", &job]).ok();
    let resumed = run(&["resume", &job]);
    refused(&resumed, &["the job is cancelled and does not come back", "submit it again to another output"]);
    assert_eq!(resumed.stdout, "");
    for verb in ["show", "watch", "explain", "verify", "cancel", "images"] {
        refused(&run(&[verb, "zzz"]), &["no job zzz\n", "hint: `sanafarm jobs` lists jobs\n"]);
    }
    let none = run(&["workers"]).ok();
    assert_eq!(none.stderr, "no worker is connected\n");
}

#[test]
fn a_worker_that_is_not_heard_of_is_told_as_that() {
    let sandbox = Sandbox::new();
    let (_coordinator, address) = coordinator(&sandbox);
    let gone = worker(&sandbox, &address, "w");
    let workers = |more: &[&str]| sandbox.run(&[&["workers", "--coordinator", &address], more].concat()).ok();
    wait_until("the worker", || workers(&["--json"]).stdout.lines().count() == 1);
    let silent = || workers(&["--json"]).last_json()["silent_seconds"].clone();
    wait_until("it to be heard of", || silent().is_null());
    gone.freeze();
    wait_until("it to be missed", || silent().as_f64().is_some_and(|seconds| seconds >= 2.0));
    let table = workers(&[]).stdout;
    assert!(table.contains("not heard of for "), "{table}");
}

#[test]
fn a_second_worker_on_an_outbox_is_a_mistake() {
    let sandbox = Sandbox::new();
    let (_coordinator, address) = coordinator(&sandbox);
    let _first = worker(&sandbox, &address, "w");
    let workers = || sandbox.run(&["workers", "--json", "--coordinator", &address]).ok().stdout;
    wait_until("the worker", || workers().lines().count() == 1);
    let second = sandbox.run(&["worker", "--coordinator", &address, "--name", "w"]);
    refused(&second, &["caused by: another worker uses the outbox ", "name this one otherwise"]);
    let token = sandbox.run(&["jobs", "--coordinator", &address, "--token-file", "none.token"]);
    refused(&token, &["none.token", "--token-file"]);
    assert!(!token.stderr.contains("host:port"), "{}", token.stderr);
}

#[test]
fn an_export_overwrites_nothing_unless_told_and_knows_what_it_writes() {
    let sandbox = Sandbox::new();
    sandbox.write("list.txt", "red dots\n");
    sandbox.run(&["render", "list.txt", "--size", "64x64", "--steps", "1"]).ok();
    let job = sandbox.run(&["jobs", "--json"]).ok().last_json()["job_id"].as_str().unwrap().to_owned();
    sandbox.write("a.csv", "mine");
    refused(
        &sandbox.run(&["export", &job, "-o", "a.csv"]),
        &["error: a.csv is there already\n", "or add --replace\n"],
    );
    assert_eq!(std::fs::read_to_string(sandbox.path("a.csv")).unwrap(), "mine");
    sandbox.run(&["export", &job, "-o", "a.csv", "--replace"]).ok();
    assert!(std::fs::read_to_string(sandbox.path("a.csv")).unwrap().starts_with("image_name,"));
    refused(
        &sandbox.run(&["export", &job, "-o", "a.foo"]),
        &["a.foo does not tell what kind of file it is", "or say --format\n"],
    );
    sandbox.run(&["export", &job, "-o", "a.foo", "--format", "jsonl"]).ok();
}

#[test]
fn settings_that_cannot_be_read_say_what_they_should_be() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(&["coordinator"]);
    command.env("SANAFARM_LEASE_SECONDS", "abc");
    refused(
        &sandbox.run_command(command),
        &["SANAFARM_LEASE_SECONDS is `abc`\n", "expected a whole number\n"],
    );
    refused(&sandbox.run(&["--print-config"]), &["hint: for example `sanafarm worker --print-config`\n"]);
    let none = sandbox.run(&["models", "verify", "--cache", "empty", "--json"]).ok();
    assert_eq!((none.stdout.as_str(), none.stderr.as_str()), ("{\"files\":0}\n", "no model is downloaded\n"));
}

//! Models from a hub and from an object store: as a user downloads, uses, checks and removes them.

use std::process::Command;

use sanafarm_test_servers::S3;
use sanafarm_test_servers::hub::{Fault, Hub};
use sanafarm_test_servers::s3::{self, On};
use serde_json::json;

use crate::farm::coordinator;
use crate::support::{Ended, Sandbox, bundled_model, copy_folder, database, files_below, wait_until};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const WEIGHTS: &str = "transformer/diffusion_pytorch_model.safetensors";
const MODEL: &str = "hf:acme/sana-tiny";
const SMALL: [&str; 4] = ["--size", "64x64", "--steps", "1"];

/// A hub with the bundled model under another name, and a folder to work in.
struct Bench {
    hub: Hub,
    sandbox: Sandbox,
}

impl Bench {
    fn new() -> Self {
        let (hub, sandbox) = (Hub::start(), Sandbox::new());
        hub.publish("acme/sana-tiny", "main", COMMIT, &bundled_model());
        sandbox.write("list.txt", "red dots on blue\ngreen stripes\n");
        Self { hub, sandbox }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.sandbox.command(args);
        command.env("HF_ENDPOINT", self.hub.endpoint());
        command
    }

    /// What the hub's address is in the output reads `[HUB]`.
    fn run(&self, args: &[&str]) -> Ended {
        let ended = self.sandbox.run_command(self.command(args));
        let mask = |text: String| text.replace(&self.hub.endpoint(), "[HUB]");
        Ended { stdout: mask(ended.stdout), stderr: mask(ended.stderr), ..ended }
    }

    /// How often bytes of a file were asked for.
    fn count(&self, file: &str) -> usize {
        self.hub.requests().iter().filter(|request| request.split(' ').next() == Some(file)).count()
    }

    /// Waits until the hub holds back the rest of the weights and something of them is on the disk.
    fn wait_for_half_of_the_weights(&self, cache: &str) {
        wait_until("half a file", || {
            let there = self.sandbox.path(cache);
            there.exists()
                && files_below(&there).iter().any(|name| {
                    let is_weights =
                        name.contains("/parts/") && name.contains("transformer--diffusion_pytorch");
                    is_weights && std::fs::metadata(there.join(name)).is_ok_and(|file| file.len() > 0)
                })
        });
    }

    /// Every file of the model was asked for once, and the weights so often.
    #[track_caller]
    fn assert_asked_once(&self, weights: usize) {
        for file in files_below(&bundled_model()).iter().filter(|file| *file != "MODEL_CARD.md") {
            assert_eq!(self.count(file), if file == WEIGHTS { weights } else { 1 }, "{file}");
        }
    }
}

#[test]
fn a_model_of_the_hub_renders_the_same_bytes_as_the_same_model_elsewhere() {
    let bench = Bench::new();
    let render =
        |more: &[&str]| bench.run(&[&["render", "list.txt", "--json"], &SMALL[..], more].concat()).ok();
    render(&["--output", "bundled"]);
    let job = render(&["--output", "hub", "--model", MODEL]).last_json();
    for picture in files_below(&bench.sandbox.path("bundled")).iter().filter(|name| name.ends_with(".png")) {
        let read = |folder: &str| std::fs::read(bench.sandbox.path(folder).join(picture)).unwrap();
        assert!(read("bundled") == read("hub"), "{picture} differs");
    }
    assert_eq!((&job["state"], &job["done"]), (&json!("succeeded"), &json!(2)));
    let sql = "select model from audit_jobs where output like '%/hub'";
    let model = format!("{MODEL}@{COMMIT}");
    assert_eq!(
        database::texts(&bench.sandbox.database(), sql),
        [model.as_str()],
        "the commit is in the history"
    );
    // Its job tells where the model comes from.
    let image = format!("{}/0", job["job_id"].as_str().unwrap());
    bench.run(&["reproduce", &image]).ok();
    bench.assert_asked_once(1);
    // The same command is the same job, also when the hub is gone.
    drop(bench.hub);
    let mut command = bench
        .sandbox
        .command(&[&["render", "list.txt"], &SMALL[..], &["--output", "hub", "--model", MODEL]].concat());
    command.env("HF_ENDPOINT", "http://127.0.0.1:9");
    let again = bench.sandbox.run_command(command).ok();
    assert!(again.stderr.contains("using the version that was last seen"), "{}", again.stderr);
    assert_eq!(database::texts(&bench.sandbox.database(), "select count(*) || '' from audit_jobs"), ["2"]);
}

#[test]
fn a_download_that_was_killed_goes_on_where_it_stopped() {
    let bench = Bench::new();
    bench.hub.spoil(WEIGHTS, [Fault::HoldAfter(100_000)]);
    let render = [&["render", "list.txt", "--output", "out", "--model", MODEL], &SMALL[..]].concat();
    let first = bench.sandbox.start_command(bench.command(&render));
    bench.wait_for_half_of_the_weights(".sanafarm/models");
    first.kill();
    bench.hub.release();
    bench.run(&render).ok();
    bench.assert_asked_once(2);
    let resumed = bench.hub.requests().into_iter().rfind(|request| request.starts_with(WEIGHTS)).unwrap();
    assert!(resumed.split(' ').nth(1).is_some_and(|first| first != "0"), "{resumed}");
}

#[test]
fn two_processes_that_want_a_model_download_it_once() {
    let bench = Bench::new();
    bench.hub.spoil(WEIGHTS, [Fault::HoldAfter(100_000)]);
    let pull = || {
        let mut command = bench.command(&["models", "pull", MODEL, "--cache", "shared"]);
        command.env("SANAFARM_LOG", "info");
        bench.sandbox.start_command(command)
    };
    let first = pull();
    bench.wait_for_half_of_the_weights("shared");
    let second = pull();
    wait_until("the second to wait", || {
        bench.sandbox.running_log().contains("another process downloads this model")
    });
    bench.hub.release();
    for process in [first, second] {
        assert_eq!(process.wait().code(), Some(0), "{}", bench.sandbox.running_log());
    }
    bench.assert_asked_once(1);
}

#[test]
fn a_farm_downloads_the_model_of_a_job_and_a_worker_that_leaves_stops_at_once() {
    let bench = Bench::new();
    let (_coordinator, address) = coordinator(&bench.sandbox);
    let submit = [
        &["submit", "list.txt", "--steps", "1", "--coordinator", &address, "--output", "out"][..],
        &["--model", MODEL],
    ];
    // The size is that of the model, which its small files tell.
    let job = bench.run(&[&submit.concat()[..], &["--json"]].concat()).ok().last_json();
    assert_eq!(job["settings"]["width"], 512);
    assert_eq!(bench.count(WEIGHTS), 0);
    let id = job["job_id"].as_str().unwrap().to_owned();
    bench.run(&["cancel", &id, "--coordinator", &address]).ok();
    let job = bench.run(&[&submit.concat()[..], &SMALL[..2]].concat()).ok().stdout.trim_end().to_owned();

    bench.hub.spoil(WEIGHTS, [Fault::HoldAfter(100_000)]);
    let worker = |name: &str| {
        let args = ["worker", "--coordinator", &address, "--name", name, "--cache", "workers"];
        bench.sandbox.start_command(bench.command(&args))
    };
    let first = worker("first");
    bench.wait_for_half_of_the_weights("workers");
    first.terminate();
    assert_eq!(first.wait().code(), Some(0), "{}", bench.sandbox.running_log());

    bench.hub.release();
    let _second = worker("second");
    bench.run(&["watch", &job, "--coordinator", &address]).ok();
    let sql = "select worker || ' ' || errors || ' ' || losses from audit_images where state = 'done'";
    assert_eq!(database::texts(&bench.sandbox.database(), sql), ["second 0 0", "second 0 0"]);
    assert_eq!(bench.count(WEIGHTS), 2);
}

#[test]
fn models_are_listed_pulled_checked_and_removed() {
    let bench = Bench::new();
    let folder = bench.run(&["models", "pull", MODEL]).ok();
    let kept = files_below(&bench.sandbox.path(".sanafarm/models"));
    let manifest = kept.iter().find(|name| name.ends_with("/manifest.json")).unwrap();
    let version = manifest.trim_end_matches("/manifest.json");
    assert_eq!(folder.stdout, format!("[DIR]/.sanafarm/models/{version}/files/sana-tiny\n"));
    assert_eq!(folder.stderr, format!("{MODEL}@{COMMIT} is here\n"));
    assert!(!kept.iter().any(|name| name.contains("/parts/")), "{kept:?}");

    let lines: Vec<String> = bench.run(&["models", "list"]).ok().stdout.lines().map(str::to_owned).collect();
    let used = lines[2].split_whitespace().last().unwrap().to_owned();
    let size =
        |line: &str| line.split("  ").filter(|cell| !cell.is_empty()).nth(3).unwrap().trim().to_owned();
    assert!(lines[1].starts_with("sana-tiny  ") && lines[1].contains("  bundled  11     "), "{lines:?}");
    let row = format!(
        "{MODEL}  0123456789ab  whole    10     {}  {used}",
        size(&lines[2].replace("0123456789ab  ", ""))
    );
    assert_eq!(lines[2], row);
    let listed = bench.run(&["models", "list", "--json"]).ok().json_lines();
    assert_eq!(
        (&listed[1]["model"], &listed[1]["version"], &listed[1]["state"]),
        (&json!(MODEL), &json!(COMMIT), &json!("whole"))
    );
    assert_eq!(listed[1]["in_use"], false);

    let good = bench.run(&["models", "verify"]).ok();
    assert_eq!(good.stderr, "10 files are as they were downloaded\n");
    assert_eq!(good.stdout.lines().filter(|line| line.ends_with("  good")).count(), 10);
    let weights = bench.sandbox.path(".sanafarm/models").join(version).join("files/sana-tiny").join(WEIGHTS);
    let mut bytes = std::fs::read(&weights).unwrap();
    bytes[4000] ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let bad = bench.run(&["models", "verify", MODEL, "--json"]);
    assert_eq!(bad.code, Some(2));
    assert_eq!(bad.json_lines().iter().filter(|file| file["good"] == false).count(), 1);
    assert_eq!(
        bad.stderr,
        format!(
            "error: verify {MODEL}: 1 of 10 files are not as they should be\n\nhint: they are fetched again at the next use, or now \
             with `sanafarm models pull MODEL`\n"
        )
    );
    let pulled = bench.run(&["models", "pull", MODEL, "--json"]).ok().last_json();
    assert_eq!(
        (&pulled["model"], &pulled["native_size"]),
        (&json!(format!("{MODEL}@{COMMIT}")), &json!(512))
    );
    bench.run(&["models", "verify"]).ok();

    let removed = bench.run(&["models", "rm", MODEL]).ok();
    assert!(removed.stderr.starts_with(&format!("removed {MODEL} at 0123456789ab, ")), "{}", removed.stderr);
    assert_eq!(bench.run(&["models", "list", "--json"]).ok().json_lines().len(), 1);
    let nothing = bench.run(&["models", "rm", MODEL]);
    assert_eq!(
        (nothing.code, nothing.stderr),
        (
            Some(1),
            format!(
                "error: remove {MODEL}\n  caused by: {MODEL} was not downloaded here\n\nhint: see `sanafarm models list`, or \
                 fetch it with `sanafarm models pull`\n"
            )
        )
    );
}

/// Exit code and talk of a `render` that ends before anything is written.
#[track_caller]
fn refused(bench: &Bench, model: &str, stderr: &str) {
    let ended = bench.run(&["render", "list.txt", "--model", model]);
    assert_eq!(ended.stderr, format!("error: use model {model}\n  caused by: {stderr}\n"));
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
    assert!(!bench.sandbox.path("renders").exists() && !bench.sandbox.database().exists());
}

#[test]
fn a_model_that_cannot_be_had_is_refused_before_anything_starts() {
    let bench = Bench::new();
    refused(
        &bench,
        "hf:acme/sana-tiny@v9",
        "the hub has no revision v9 of acme/sana-tiny\n\nhint: check the name and the revision",
    );
    refused(
        &bench,
        "https://host/model",
        "`https://host/model` is no model: the files below a web address cannot be listed\n\nhint: name a folder in the \
         diffusers layout, hf:owner/name[@revision], s3://bucket/prefix (also gs://, az://), or sana-tiny for the bundled model",
    );
    bench.hub.require_token("secret");
    refused(
        &bench,
        MODEL,
        "list acme/sana-tiny at [HUB]: the hub refuses (401 Unauthorized: Invalid username or password.)\n\nhint: the model is \
         private, gated or not there: check the name, and set HF_TOKEN to a token that may read it",
    );
    let mut command = bench.command(&["models", "pull", MODEL]);
    command.env("HF_TOKEN", "secret");
    bench.sandbox.run_command(command).ok();
}

#[test]
fn a_full_disk_is_told_and_the_same_command_goes_on() {
    let bench = Bench::new();
    let pull = ["models", "pull", MODEL];
    // A file that may not grow any more fails like one on a full disk.
    let full = bench.sandbox.run_command(bench.sandbox.limited(512 << 10, bench.command(&pull)));
    assert_eq!(full.code, Some(2), "{}", full.stderr);
    assert!(
        full.stderr.contains("the disk is full") && full.stderr.contains("free some space"),
        "{}",
        full.stderr
    );
    bench.run(&pull).ok();
    let larger = bench.run(&["models", "pull", MODEL, "--cache", "small", "--cache-size", "1MB"]);
    assert_eq!(larger.code, Some(1));
    assert!(
        larger.stderr.contains("the cache may have 1000000\n\nhint: allow more with --cache-size"),
        "{}",
        larger.stderr
    );
}

#[test]
fn an_object_that_is_not_what_the_sums_beside_the_model_say_is_refused() {
    let (s3, sandbox) = (S3::start(), Sandbox::new());
    let place = "s3://farm/models/sana-tiny";
    copy_folder(&bundled_model(), &s3.file("farm", "models/sana-tiny"));
    let run = |args: &[&str]| {
        let mut command = sandbox.command(args);
        command.envs(s3.environment());
        sandbox.run_command(command)
    };
    let config = s3.file("farm", "models/sana-tiny/tokenizer/tokenizer_config.json");
    let whole = std::fs::read(&config).unwrap();
    let folder = s3.file("farm", "models/sana-tiny");
    let summed = Command::new("sh")
        .args(["-c", "find . -type f ! -name SHA256SUMS | xargs sha256sum > SHA256SUMS"])
        .current_dir(&folder)
        .status();
    assert!(summed.unwrap().success());
    run(&["models", "pull", place]).ok();
    std::fs::write(&config, "[]").unwrap();
    let altered = run(&["models", "pull", place]);
    assert_eq!(altered.code, Some(2), "{}", altered.stderr);
    assert!(altered.stderr.contains("tokenizer_config.json"), "{}", altered.stderr);
    assert!(altered.stderr.contains("sha256"), "{}", altered.stderr);
    std::fs::write(&config, &whole).unwrap();
    run(&["models", "pull", place]).ok();
}

#[test]
fn a_model_of_a_bucket_is_downloaded_once_and_again_when_an_object_of_it_changes() {
    let (s3, sandbox) = (S3::start(), Sandbox::new());
    let place = "s3://farm/models/sana-tiny";
    copy_folder(&bundled_model(), &s3.file("farm", "models/sana-tiny"));
    s3.inject(On::get(WEIGHTS), 3, s3::Fault::CutAnswer(100_000));
    let run = |args: &[&str]| {
        let mut command = sandbox.command(args);
        command.envs(s3.environment());
        sandbox.run_command(command)
    };
    sandbox.write("list.txt", "red dots on blue\n");
    let render = |more: &[&str]| run(&[&["render", "list.txt"], &SMALL[..], more].concat()).ok();
    render(&["--output", "bundled"]);
    render(&["--output", "bucket", "--model", &format!("{place}/")]);
    let read = |folder: &str| std::fs::read(sandbox.path(folder).join("00000000-0.png")).unwrap();
    assert!(read("bundled") == read("bucket"));

    let asked = s3.seen(&On::get(WEIGHTS));
    let first = run(&["models", "pull", place]).ok().stdout;
    assert_eq!(s3.seen(&On::get(WEIGHTS)), asked, "it is here");
    let config = s3.file("farm", "models/sana-tiny/tokenizer/tokenizer_config.json");
    std::fs::write(&config, "{}").unwrap();
    let second = run(&["models", "pull", place]).ok().stdout;
    assert_ne!(first, second);
    assert_eq!(
        std::fs::read(sandbox.path(&folder_in_sandbox(&second)).join("tokenizer/tokenizer_config.json"))
            .unwrap(),
        b"{}"
    );

    s3.inject(On::get("/farm"), 100, s3::Fault::denied());
    let refused = run(&["models", "pull", place]);
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert!(
        refused
            .stderr
            .contains("\n\nhint: check bucket, key and region; credentials come from AWS_ACCESS_KEY_ID"),
        "{}",
        refused.stderr
    );
    s3.heal();
    let nothing = run(&["models", "pull", "s3://farm/models/other"]);
    assert!(nothing.stderr.contains("there is nothing below s3://farm/models/other"), "{}", nothing.stderr);
    assert_eq!(run(&["models", "verify", place]).ok().stderr, "20 files are as they were downloaded\n");
}

/// A folder that the program told, below the sandbox.
fn folder_in_sandbox(told: &str) -> String {
    told.trim_end().trim_start_matches("[DIR]/").to_owned()
}

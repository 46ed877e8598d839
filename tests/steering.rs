//! What people do about jobs while a farm runs.

use sanafarm_proto::v1::ErrorClass;
use serde_json::Value;

use crate::farm::{coordinator_with, worker};
use crate::support::cluster::{Cluster, LONG_LEASES};
use crate::support::hand::{Hand, failure};
use crate::support::{Running, Sandbox, wait_until};

fn coordinator(sandbox: &Sandbox) -> (Running, String) {
    coordinator_with(sandbox, LONG_LEASES)
}

/// Runs a verb against one coordinator.
struct At<'a> {
    sandbox: &'a Sandbox,
    address: &'a str,
}

impl At<'_> {
    fn run(&self, args: &[&str]) -> crate::support::Ended {
        self.sandbox.run(&[args, &["--coordinator", self.address]].concat())
    }

    fn submit(&self, args: &[&str]) -> String {
        self.submit_to("out", args)
    }

    fn submit_to(&self, output: &str, args: &[&str]) -> String {
        let submit = ["submit", "list.txt", "--size", "64x64", "--steps", "2", "--output", output];
        self.run(&[&submit, args].concat()).ok().stdout.trim_end().to_owned()
    }

    /// The causes that `explain` tells, and how many workers fit of how many.
    fn causes(&self, job: &str) -> (Vec<String>, u64, u64) {
        let told = self.run(&["explain", job, "--json"]).ok().last_json();
        let parts = told["parts"].as_array().unwrap();
        let causes = parts.iter().map(|part| part["cause"].as_str().unwrap().to_owned()).collect();
        (causes, told["fitting"].as_u64().unwrap(), told["workers"].as_u64().unwrap())
    }

    fn workers(&self) -> Vec<Value> {
        self.run(&["workers", "--json"]).ok().json_lines()
    }
}

#[test]
fn a_job_waits_for_a_worker_with_its_label_and_says_so() {
    let sandbox = Sandbox::new();
    let (_coordinator, address) = coordinator(&sandbox);
    let at = At { sandbox: &sandbox, address: &address };
    sandbox.write("list.txt", "red dots\nblue dots\n");
    let job = at.submit(&["--label", "zone=eu", "--priority", "7"]);
    let shown = at.run(&["show", &job, "--json"]).ok().last_json();
    assert_eq!(
        (shown["priority"].as_i64(), shown["needs"]["labels"]["zone"].as_str()),
        (Some(7), Some("eu"))
    );
    assert_eq!(at.causes(&job), (vec!["no_workers".to_owned()], 0, 0));

    let _other = worker(&sandbox, &address, "other");
    wait_until("the first worker", || at.workers().len() == 1);
    assert_eq!(at.causes(&job), (vec!["none_fits".to_owned()], 0, 1));
    let told = at.run(&["explain", &job]).ok().stdout;
    assert!(told.contains("no worker has what it needs: other has no label zone=eu"), "{told}");

    let paused = at.run(&["pause", &job, "--reason", "lunch", "--json"]).ok().last_json();
    assert_eq!(paused["state"], "paused");
    let _right =
        sandbox.start(&["worker", "--coordinator", &address, "--name", "right", "--label", "zone=eu"]);
    wait_until("the second worker", || at.workers().len() == 2);
    assert_eq!(at.causes(&job), (vec!["paused".to_owned()], 1, 2));
    assert_eq!(at.workers()[1]["labels"]["zone"], "eu");

    assert_eq!(at.run(&["resume", &job, "--json"]).ok().last_json()["state"], "pending");
    assert_eq!(at.run(&["watch", &job, "--json"]).ok().last_json()["state"], "succeeded");
    assert_eq!(at.causes(&job).0, ["ended"]);
    let who = at.run(&["sql", "--csv", "select distinct worker from audit_images"]).ok().stdout;
    assert_eq!(who, "worker\nright\n");
    let why = "select kind, reason from audit_events where reason is not null";
    assert_eq!(at.run(&["sql", "--csv", why]).ok().stdout, "kind,reason\njob_paused,lunch\n");
}

#[test]
fn failed_images_are_tried_again_when_the_cause_is_gone() {
    let sandbox = Sandbox::new();
    let (_coordinator, address) = coordinator(&sandbox);
    let at = At { sandbox: &sandbox, address: &address };
    sandbox.write("list.txt", "red dots\nblue dots\ngreen dots\n");
    let job = at.submit(&[]);
    let images = at.run(&["images", &job, "--json"]).ok().json_lines();
    // Somebody's file stands where the second picture belongs.
    let taken = sandbox.path("out").join(images[1]["object"].as_str().unwrap());
    std::fs::create_dir_all(taken.parent().unwrap()).unwrap();
    std::fs::write(&taken, "somebody's").unwrap();
    let _worker = worker(&sandbox, &address, "w");
    let failed = at.run(&["watch", &job, "--json"]).last_json();
    assert_eq!((failed["state"].as_str(), failed["failed"].as_u64()), (Some("failed"), Some(1)));

    let nothing = at.run(&["retry", &job, "--failed", "--error-class", "bad_image", "--json"]).ok();
    assert_eq!(nothing.last_json()["state"], "failed");
    assert!(nothing.stderr.contains("nothing is tried again"), "{}", nothing.stderr);
    std::fs::remove_file(&taken).unwrap();
    let retried = at.run(&["retry", &job, "--failed", "--error-class", "conflict"]).ok();
    assert!(retried.stderr.contains("1 image is to be tried again"), "{}", retried.stderr);
    let ended = at.run(&["watch", &job, "--json"]).ok().last_json();
    assert_eq!((ended["state"].as_str(), ended["done"].as_u64()), (Some("succeeded"), Some(3)));
    crate::support::pictures::assert_whole(&sandbox.database(), &sandbox.path("out"), 3);
}

#[test]
fn jobs_of_a_held_owner_wait_until_they_are_let_go() {
    let sandbox = Sandbox::new();
    let (_coordinator, address) = coordinator(&sandbox);
    let at = At { sandbox: &sandbox, address: &address };
    sandbox.write("list.txt", "red dots\n");
    let job = at.submit(&[]);
    let owner = at.run(&["show", &job, "--json"]).ok().last_json()["owner"].as_str().unwrap().to_owned();
    at.run(&["owner", &owner, "--hold", "--reason", "over budget"]).ok();
    let _worker = worker(&sandbox, &address, "w");
    wait_until("the worker", || at.workers().len() == 1);
    assert_eq!(at.causes(&job).0, ["owner_held"]);
    at.run(&["owner", &owner, "--release", "--weight", "2"]).ok();
    assert_eq!(at.run(&["watch", &job, "--json"]).ok().last_json()["state"], "succeeded");
    let refused = at.run(&["owner", &owner]);
    assert_eq!(refused.code, Some(1), "nothing is asked for: {}", refused.stderr);
}

#[test]
fn jobs_wait_for_others_and_end_with_them() {
    let sandbox = Sandbox::new();
    let (_coordinator, address) = coordinator(&sandbox);
    let at = At { sandbox: &sandbox, address: &address };
    sandbox.write("list.txt", "red dots\nblue dots\n");
    let none = at.run(&["submit", "none.txt", "--after", "nonsense"]);
    let text = "error: wait for job nonsense (--after)\n  caused by: no job nonsense\n\nhint: `sanafarm jobs` lists jobs\n";
    assert_eq!((none.code, none.stderr.as_str()), (Some(1), text), "told before the list is read");

    let first = at.submit(&[]);
    let second = at.submit_to("second", &["--after", &first]);
    let doomed = at.submit_to("doomed", &[]);
    let lost = at.submit_to("lost", &["--after", &first, "--after", &doomed]);
    let any = at.submit_to("any", &["--after-any", &doomed]);
    assert_eq!(at.submit_to("second", &["--after", &first]), second, "the same command");
    let asked = [
        "submit",
        "list.txt",
        "--dry-run",
        "--json",
        "--size",
        "64x64",
        "--after",
        &first,
        "--deadline",
        "3d",
    ];
    let told = at.run(&asked).ok().last_json();
    assert_eq!(told["after"], serde_json::json!([first]));
    assert!(told["deadline"].is_string(), "{told}");
    assert_eq!(at.causes(&second).0, ["after"]);
    let told = at.run(&["explain", &second]).ok().stdout;
    assert!(told.contains(&format!("waits for job {first} (pending, 0 of 2 images)")), "{told}");
    let told = at.run(&["show", &lost]).ok().stdout;
    assert!(told.contains(&format!("after     waits for job {doomed} (pending, 0 of 2 images)\n")), "{told}");

    at.run(&["cancel", &doomed, "--reason", "a typo"]).ok();
    let watched = at.run(&["watch", &lost, "--json"]);
    assert_eq!(watched.code, Some(2));
    let ended = watched.last_json();
    let reason = format!("job {doomed} was cancelled");
    assert_eq!(
        (ended["state"].as_str(), ended["end_reason"].as_str()),
        (Some("cancelled"), Some(reason.as_str()))
    );
    let why =
        format!("select actor, reason from audit_events where kind = 'job_cancelled' and job_id = '{lost}'");
    assert_eq!(at.run(&["sql", "--csv", &why]).ok().stdout, format!("actor,reason\ncoordinator,{reason}\n"));
    let again = at.run(&["submit", "list.txt", "--size", "64x64", "--steps", "2", "--output", "lost"]).ok();
    assert_eq!(again.stdout.trim_end(), lost);
    assert!(
        again.stderr.contains("it is cancelled; another --name makes it another job"),
        "{}",
        again.stderr
    );
    let ended = at.run(&["explain", &doomed]).ok().stdout;
    assert!(ended.contains("the job is cancelled: a typo"), "{ended}");

    let _worker = worker(&sandbox, &address, "w");
    for job in [&second, &any] {
        assert_eq!(at.run(&["watch", job, "--json"]).ok().last_json()["state"], "succeeded");
    }
    let order = format!(
        "select count(*) from audit_jobs as j, audit_jobs as k \
         where j.job_id = '{first}' and k.job_id = '{second}' and j.finished_at <= k.started_at"
    );
    assert_eq!(at.run(&["sql", "--csv", &order]).ok().stdout, "count(*)\n1\n");
    let nothing = format!("select count(*) from audit_attempts where job_id = '{lost}'");
    assert_eq!(at.run(&["sql", "--csv", &nothing]).ok().stdout, "count(*)\n0\n");
}

#[test]
fn a_job_ends_at_its_deadline_and_keeps_its_pictures() {
    const IMAGES: u64 = 4000;
    let cluster = Cluster::new();
    let coordinator = cluster.coordinator(&LONG_LEASES);
    let sandbox = &cluster.sandbox;
    let at = At { sandbox, address: &coordinator.address };
    let _worker = cluster.worker(at.address, "w");
    sandbox.write(
        "list.txt",
        (0..IMAGES).map(|number| format!("red dots on blue {number}\n")).collect::<String>(),
    );
    let past = at.run(&["submit", "list.txt", "--size", "64x64", "--deadline", "2020-01-01T00:00:00Z"]);
    assert_eq!(past.code, Some(1));
    assert!(past.stderr.contains("the deadline 2020-01-01T00:00:00Z has passed"), "{}", past.stderr);
    let job = at.submit(&["--deadline", "1h"]);
    let shown = at.run(&["show", &job, "--json"]).ok().last_json();
    assert!(shown["deadline"].is_string(), "{shown}");
    cluster.wait_for_pictures(1);
    // The hour passes.
    cluster.sql("update jobs set deadline = now()");
    let watched = at.run(&["watch", &job, "--json"]);
    assert_eq!(watched.code, Some(2));
    let ended = watched.last_json();
    assert_eq!(
        (ended["state"].as_str(), ended["end_reason"].as_str()),
        (Some("cancelled"), Some("deadline passed"))
    );
    let done = ended["done"].as_u64().unwrap();
    assert!(done > 0 && done < IMAGES, "{ended}");
    let images = at.run(&["images", &job, "--state", "done", "--json"]).ok().json_lines();
    assert!(images.len() as u64 >= done, "a picture that came in late is kept too");
    for image in images {
        assert!(sandbox.path("out").join(image["object"].as_str().unwrap()).is_file(), "{image}");
    }
    // The worker goes on with what comes next.
    sandbox.write("list.txt", "red dots\n");
    let next = at.submit_to("next", &[]);
    assert_eq!(at.run(&["watch", &next, "--json"]).ok().last_json()["state"], "succeeded");
}

#[test]
fn a_worker_is_asked_to_leave_and_gets_nothing_more() {
    let sandbox = Sandbox::new();
    let (_coordinator, address) = coordinator(&sandbox);
    let at = At { sandbox: &sandbox, address: &address };
    sandbox.write("list.txt", "red dots\nblue dots\n");
    let hand = Hand::open(&address, "gpu-12");
    let session = hand.session().to_owned();
    at.submit(&[]);
    let told = at.run(&["drain", "gpu-12", "--reason", "an update"]).ok().stdout;
    let when = "when its image in hand is finished";
    assert_eq!(told, format!("gpu-12 (session {session}) is asked to leave {when}; it holds 0 leases\n"));
    assert_eq!(hand.lease_now(), None);
    let told = at.run(&["drain", &session, "--now", "--json"]).ok().last_json();
    assert_eq!((told["session_id"].as_str(), told["drain"].as_str()), (Some(session.as_str()), Some("now")));
    assert_eq!(at.workers()[0]["state"], "draining");
    let table = at.run(&["workers"]).ok().stdout;
    assert!(table.lines().next().unwrap().starts_with("worker  version  devices  labels  state"), "{table}");
    assert!(table.lines().nth(1).unwrap().contains("draining"), "{table}");
    let told = at.run(&["history", "gpu-12"]).ok().stdout;
    let told: Vec<&str> = told.lines().filter(|line| line.contains("asked")).collect();
    assert!(told[0].ends_with("asked gpu-12 to leave: an update"), "{told:?}");
    assert!(told[1].ends_with("asked gpu-12 to leave at once"), "{told:?}");

    let nobody = at.run(&["drain", "nobody"]);
    let text = "error: drain nobody\n  caused by: no worker or session nobody\n\n\
                hint: `sanafarm workers` lists those that are connected\n";
    assert_eq!((nobody.code, nobody.stderr.as_str()), (Some(1), text));
    hand.close();
    let gone = at.run(&["drain", "gpu-12"]);
    assert_eq!(gone.code, Some(1));
    assert!(gone.stderr.contains("caused by: worker gpu-12 is not connected\n"), "{}", gone.stderr);
}

#[test]
fn the_logs_of_an_image_are_printed_by_attempt() {
    let sandbox = Sandbox::new();
    let (_coordinator, address) = coordinator(&sandbox);
    let at = At { sandbox: &sandbox, address: &address };
    sandbox.write("list.txt", "red dots\nblue dots\n");
    let job = at.submit(&[]);
    let hand = Hand::open(&address, "gpu-12");
    let (lease, leased) = hand.lease();
    let mut failed = failure(&leased.images[1], ErrorClass::Prompt);
    failed.log = "denoise step 3\nlatent is \u{1b}[31mnan\n".to_owned();
    hand.told(&lease, &[failed]);

    let image = format!("{job}/1");
    let told = at.run(&["logs", &image]).ok().stdout;
    let lines: Vec<&str> = told.lines().collect();
    assert!(lines[0].starts_with("attempt 1 on gpu-12, cpu, ") && lines[0].ends_with(" UTC"), "{told}");
    assert_eq!(lines[1..], ["  denoise step 3", r"  latent is \u{1b}[31mnan"]);
    let told = at.run(&["logs", &image, "--json"]).ok().last_json();
    assert_eq!((told["attempt"].as_u64(), told["worker"].as_str()), (Some(1), Some("gpu-12")));
    assert_eq!(told["log"], "denoise step 3\nlatent is \u{1b}[31mnan\n");
    let none = at.run(&["logs", &image, "--attempt", "2"]).ok();
    let text = format!("nothing was logged about image 1 of job {job} in attempt 2\n");
    assert_eq!((none.stdout.as_str(), none.stderr), ("", text));
    let missing = at.run(&["logs", &format!("{job}/2")]);
    let text = format!(
        "error: print the logs of {job}/2\n  caused by: no image 2 of job {job}: its last is 1\n\n\
         hint: `sanafarm jobs` lists jobs, `sanafarm images JOB` the images of one\n"
    );
    assert_eq!((missing.code, missing.stderr), (Some(1), text));
    let wrong = at.run(&["logs", &job]);
    assert_eq!(wrong.code, Some(1));
    assert!(wrong.stderr.contains("expected JOB/INDEX, such as 0199b3f2/7"), "{}", wrong.stderr);

    let failed = at.run(&["images", &job, "--failed", "--json"]).ok().json_lines();
    assert_eq!(failed.len(), 1);
    assert_eq!((failed[0]["index"].as_u64(), failed[0]["error_class"].as_str()), (Some(1), Some("prompt")));
}

#[test]
fn a_job_is_exported_to_a_file_or_to_standard_output() {
    let sandbox = Sandbox::new();
    let (_coordinator, address) = coordinator(&sandbox);
    let at = At { sandbox: &sandbox, address: &address };
    sandbox.write("list.txt", "red dots\nblue dots\n");
    let job = at.submit(&[]);
    let csv = at.run(&["export", &job, "--format", "csv"]).ok().stdout;
    let lines: Vec<&str> = csv.lines().collect();
    assert!(lines.len() == 3 && lines[0].starts_with("image_name,prompt,"), "{csv}");
    let told = at.run(&["export", &job, "-o", "job.jsonl"]).ok();
    assert!(told.stdout.is_empty() && told.stderr.starts_with("2 images in job.jsonl ("), "{}", told.stderr);
    let written = std::fs::read_to_string(sandbox.path("job.jsonl")).unwrap();
    assert_eq!(written.lines().count(), 2);
    at.run(&["export", &job, "-o", "job.parquet"]).ok();
    assert_eq!(std::fs::read(sandbox.path("job.parquet")).unwrap()[..4], *b"PAR1");
    let missing = at.run(&["export", &job, "-o", "nowhere/job.csv"]);
    assert_eq!(missing.code, Some(1));
    assert!(missing.stderr.starts_with("error: write nowhere/job.csv\n  caused by: "), "{}", missing.stderr);
    let nobody = at.run(&["export", "nobody", "--format", "csv"]);
    let text = "error: export job nobody\n  caused by: no job nobody\n\nhint: `sanafarm jobs` lists jobs\n";
    assert_eq!((nobody.code, nobody.stderr.as_str()), (Some(1), text));
    let left: Vec<_> =
        std::fs::read_dir(sandbox.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with(".tmp")), "{left:?}");
}

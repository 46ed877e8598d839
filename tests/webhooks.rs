//! Webhooks at the end of jobs, to a server that does not always answer.

use serde_json::Value;

use crate::support::cluster::Cluster;
use crate::support::receiver::{Answer, Receiver};
use crate::support::{Running, Sandbox, wait_until};

const SECRET: &str = "whsec_bWFueSBieXRlcyB0aGF0IG5vYm9keSBrbm93cyE=";
const OTHER: &str = "whsec_b3RoZXIgYnl0ZXMgdGhhdCBub2JvZHkga25vd3M=";

fn coordinator(sandbox: &Sandbox, more: &[&str]) -> (Running, String) {
    let mut command = sandbox.command(&[&["coordinator", "--listen", "127.0.0.1:0"], more].concat());
    command.env("SANAFARM_WEBHOOK_SECRET", format!("{SECRET},{OTHER}"));
    let mut running = sandbox.start_command(command);
    let line = running.first_line();
    let address = line.strip_prefix("listening on ").unwrap_or_else(|| panic!("{}", sandbox.running_log()));
    (running, address.to_owned())
}

/// Submits a job with a webhook; its id.
fn submit(sandbox: &Sandbox, address: &str, url: &str) -> String {
    sandbox.write("list.txt", "red dots\nblue dots\n");
    let submit = ["submit", "list.txt", "--size", "64x64", "--output", "out", "--webhook", url];
    sandbox.run(&[&submit[..], &["--coordinator", address]].concat()).ok().stdout.trim_end().to_owned()
}

/// What is told of the job's webhook.
fn webhook(sandbox: &Sandbox, address: &str, job: &str) -> Value {
    sandbox.run(&["show", job, "--coordinator", address, "--json"]).ok().last_json()["webhook"].clone()
}

#[test]
fn a_webhook_is_called_until_it_is_answered_and_always_the_same() {
    let sandbox = Sandbox::new();
    let broken = Answer::Status("500 Internal Server Error", "no\ndisk");
    let receiver = Receiver::new(&[broken, broken, Answer::Silence]);
    let (_coordinator, address) = coordinator(&sandbox, &["--webhook-hosts", "127.0.0.1"]);
    let job = submit(&sandbox, &address, &receiver.url("/hook?token=hush"));
    assert_eq!(webhook(&sandbox, &address, &job)["state"], "waiting");
    sandbox.run(&["cancel", &job, "--coordinator", &address, "--reason", "lunch"]).ok();
    let told = || webhook(&sandbox, &address, &job);
    wait_until("the second try", || told()["error"] == "500 Internal Server Error: no disk");
    wait_until("the webhook", || told()["state"] == "delivered");
    assert_eq!((told()["attempts"].as_u64(), &told()["error"]), (Some(4), &Value::Null));
    let calls = receiver.calls();
    assert_eq!(calls.len(), 4);
    for call in &calls {
        assert_eq!((&call.path, &call.body), (&"/hook?token=hush".to_owned(), &calls[0].body));
        assert_eq!(call.header("webhook-id"), calls[0].header("webhook-id"));
        assert_eq!(call.header("content-type"), "application/json");
        assert!(call.is_signed_with(SECRET) && call.is_signed_with(OTHER));
        assert!(!call.is_signed_with("whsec_c29tZWJvZHkgZWxzZSdzIHNlY3JldCBieXRlcw=="));
    }
    let body: Value = serde_json::from_str(&calls[0].body).unwrap();
    assert_eq!((&body["type"], &body["data"]["job_id"]), (&"job.cancelled".into(), &job.as_str().into()));
    assert_eq!((&body["data"]["end_reason"], &body["data"]["images"]), (&"lunch".into(), &2.into()));
    let history = sandbox.run(&["history", &job, "--coordinator", &address]).ok().stdout;
    assert!(history.contains("the webhook was delivered at attempt 4"), "{history}");
    let log = sandbox.running_log();
    assert!(!log.contains("hush") && !log.contains(SECRET), "{log}");
}

#[test]
fn a_coordinator_killed_before_the_answer_leaves_the_call_to_the_next() {
    let cluster = Cluster::new();
    let receiver = Receiver::new(&[Answer::Silence]);
    let start = || {
        let hosts = ["--webhook-hosts", "127.0.0.1"];
        cluster.coordinator_with(&hosts, |command| _ = command.env("SANAFARM_WEBHOOK_SECRET", SECRET))
    };
    let first = start();
    let job = submit(&cluster.sandbox, &first.address, &receiver.url("/"));
    let _worker = cluster.worker(&first.address, "w");
    wait_until("the first call", || receiver.calls().len() == 1);
    assert_eq!(cluster.sql("select state from jobs"), "succeeded", "the job has ended before");
    first.process.kill();
    let second = start();
    let told = || webhook(&cluster.sandbox, &second.address, &job);
    wait_until("the webhook", || told()["state"] == "delivered");
    let calls = receiver.calls();
    assert_eq!((calls.len(), &calls[0].body), (2, &calls[1].body));
    assert_eq!(calls[0].header("webhook-id"), calls[1].header("webhook-id"));
    let body: Value = serde_json::from_str(&calls[1].body).unwrap();
    assert_eq!((&body["type"], &body["data"]["done"]), (&"job.succeeded".into(), &2.into()));
    assert!(calls[1].is_signed_with(SECRET));
}

#[test]
fn a_redirect_is_not_followed_and_a_receiver_that_is_gone_is_left_alone() {
    let sandbox = Sandbox::new();
    let receiver = Receiver::new(&[Answer::Elsewhere("/other"), Answer::Status("410 Gone", "")]);
    let (_coordinator, address) = coordinator(&sandbox, &["--webhook-hosts", "127.0.0.1"]);
    let job = submit(&sandbox, &address, &receiver.url("/hook"));
    sandbox.run(&["cancel", &job, "--coordinator", &address]).ok();
    let told = || webhook(&sandbox, &address, &job);
    wait_until("the end", || told()["state"] == "failed");
    assert_eq!((told()["attempts"].as_u64(), told()["error"].as_str()), (Some(2), Some("410 Gone")));
    let calls: Vec<_> = receiver.calls().into_iter().map(|call| call.path).collect();
    assert_eq!(calls, ["/hook", "/hook"]);
    let log = sandbox.running_log();
    assert!(log.contains("302 Found: redirects are not followed"), "{log}");
    let shown = sandbox.run(&["show", &job, "--coordinator", &address]).ok().stdout;
    assert!(shown.contains("/hook (given up at ") && shown.contains(", attempt 2: 410 Gone)"), "{shown}");
}

#[test]
fn a_webhook_that_would_never_be_called_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.write("list.txt", "red dots\n");
    let refused = |address: &str, url: &str| {
        let submit = ["submit", "list.txt", "--size", "64x64", "--webhook", url, "--coordinator", address];
        let ended = sandbox.run(&submit);
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        ended.stderr
    };
    let (silent, address) = coordinator(&sandbox, &[]);
    let told = refused(&address, "https://hooks.example.org/a");
    assert!(
        told.contains("calls no webhooks; ask its operator to start it with --webhook-hosts HOST"),
        "{told}"
    );
    silent.terminate();
    silent.wait();
    let (_picky, address) = coordinator(&sandbox, &["--webhook-hosts", "hooks.example.org,10.0.0.7:8080"]);
    for url in ["https://hooks.example.com/a", "http://10.0.0.7/", "http://localhost:1/"] {
        let told = refused(&address, url);
        assert!(told.contains("ask the operator to add it to --webhook-hosts"), "{told}");
    }
    let told = refused(&address, "ftp://hooks.example.org/a");
    assert!(told.contains("the webhook is neither http nor https"), "{told}");
    assert_eq!(sandbox.run(&["jobs", "--coordinator", &address, "--json"]).ok().stdout, "");
}

#[test]
fn hosts_without_a_secret_are_refused_and_a_wrong_secret_is_not_told() {
    let sandbox = Sandbox::new();
    let hosts = ["coordinator", "--listen", "127.0.0.1:0", "--webhook-hosts", "a"];
    let told = sandbox.run(&hosts);
    assert_eq!(told.code, Some(1));
    assert!(told.stderr.contains("openssl rand -base64 32"), "{}", told.stderr);
    let told = sandbox.run(&[&hosts[..], &["--webhook-secret", "hush"]].concat());
    assert_eq!(told.code, Some(1));
    assert!(told.stderr.contains("whsec_") && !told.stderr.contains("hush"), "{}", told.stderr);
}

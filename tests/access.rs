//! TLS, certificates and tokens between processes.

use std::process::Command;

use crate::support::{Ended, Running, Sandbox, wait_until};

/// A farm with a CA in `ca`, a certificate for its coordinator in `tls`, and an address.
struct Farm {
    sandbox: Sandbox,
    coordinator: Running,
    address: String,
}

/// A token with its id.
struct Token {
    id: String,
    text: String,
}

fn make_ca(sandbox: &Sandbox, folder: &str) {
    sandbox.run(&["token", "ca", "init", "--dir", folder]).ok();
    certify(sandbox, folder);
}

/// A certificate for the coordinator, over the one before.
fn certify(sandbox: &Sandbox, ca: &str) {
    let hosts = ["--host", "127.0.0.1", "--host", "localhost"];
    let issue = ["token", "ca", "issue", "server", "--dir", ca, "--output", "tls", "--replace"];
    sandbox.run(&[&issue[..], &hosts].concat()).ok();
}

fn token(sandbox: &Sandbox, name: &str, role: &str) -> Token {
    let made = sandbox.run(&["token", "create", name, "--role", role, "--data", ".sanafarm", "--json"]).ok();
    let made = made.last_json();
    let text = |key: &str| made[key].as_str().unwrap().to_owned();
    Token { id: text("token_id"), text: text("token") }
}

fn first_address(sandbox: &Sandbox, running: &mut Running) -> String {
    let line = running.first_line();
    let address = line.strip_prefix("listening on ");
    address.unwrap_or_else(|| panic!("`{line}`\n{}", sandbox.running_log())).to_owned()
}

impl Farm {
    /// `environment` is the coordinator's.
    fn start(sandbox: Sandbox, more: &[&str], environment: &[(&str, &str)]) -> Self {
        let serve = ["coordinator", "--listen", "127.0.0.1:0", "--lease-seconds", "5"];
        let secure = ["--auth", "tokens", "--tls-cert", "tls/server.pem", "--tls-key", "tls/server.key"];
        let mut command =
            sandbox.command(&[&serve[..], &secure, &["--client-ca", "ca/ca.pem"], more].concat());
        command.envs(environment.iter().copied());
        let mut coordinator = sandbox.start_command(command);
        let address = format!("https://{}", first_address(&sandbox, &mut coordinator));
        Self { sandbox, coordinator, address }
    }

    /// A command against the coordinator that believes the CA, with this token.
    fn command(&self, token: Option<&Token>, args: &[&str]) -> Command {
        let at = ["--coordinator", &self.address, "--ca", "ca/ca.pem"];
        let mut command = self.sandbox.command(&[args, &at].concat());
        if let Some(token) = token {
            command.env("SANAFARM_TOKEN", &token.text);
        }
        command
    }

    fn run(&self, token: Option<&Token>, args: &[&str]) -> Ended {
        self.sandbox.run_command(self.command(token, args))
    }

    fn submit(&self, token: &Token, name: &str) -> String {
        self.sandbox.write("list.txt", "red dots\nblue dots\ngreen dots\n");
        let submit =
            ["submit", "list.txt", "--name", name, "--size", "64x64", "--steps", "2", "--output", name];
        self.run(Some(token), &submit).ok().stdout.trim_end().to_owned()
    }
}

/// The part of a token that nobody may learn.
fn secret(token: &Token) -> &str {
    token.text.rsplit('_').next().unwrap()
}

#[test]
fn a_farm_with_tls_and_tokens_renders_and_tells_no_secret() {
    const REDIS_PASSWORD: &str = "planted-redis-password";
    const STORE_KEY: &str = "planted/store/key";
    let sandbox = Sandbox::new();
    make_ca(&sandbox, "ca");
    sandbox.run(&["token", "ca", "issue", "w1", "--role", "worker"]).ok();
    sandbox.run(&["token", "ca", "issue", "eyes", "--role", "read"]).ok();
    for key in ["ca/ca.key", "ca/w1.key", "tls/server.key"] {
        use std::os::unix::fs::PermissionsExt;
        let mode = sandbox.path(key).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    let names = [("ann", "submit"), ("auditor", "read"), ("fleet", "worker"), ("root", "admin")];
    let tokens = names.map(|(name, role)| token(&sandbox, name, role));
    let [ann, auditor, fleet, root] = &tokens;
    let redis = format!("redis://:{REDIS_PASSWORD}@127.0.0.1:1");
    let told = [("SANAFARM_LOG", "trace"), ("AWS_SECRET_ACCESS_KEY", STORE_KEY), ("AWS_ACCESS_KEY_ID", "id")];
    let farm = Farm::start(sandbox, &["--redis", &redis], &told);

    // One worker by its certificate, one by a token in a file.
    farm.sandbox.write("fleet.token", &fleet.text);
    let mut first =
        farm.command(None, &["worker", "--name", "w1", "--cert", "ca/w1.pem", "--key", "ca/w1.key"]);
    let mut second = farm.command(None, &["worker", "--name", "w2", "--token-file", "fleet.token"]);
    let workers = [&mut first, &mut second].map(|command| {
        command.env("SANAFARM_LOG", "trace");
        let plain = std::mem::replace(command, Command::new("true"));
        farm.sandbox.start_command(plain)
    });

    let job = farm.submit(ann, "dots");
    let watched = farm.run(Some(auditor), &["watch", &job, "--json"]).ok().last_json();
    assert_eq!((watched["state"].as_str(), watched["owner"].as_str()), (Some("succeeded"), Some("ann")));
    let mut answers = Vec::new();
    let mut refused = |ended: Ended, code: i32, why: &str| {
        assert_eq!(ended.code, Some(code), "{}", ended.stderr);
        assert!(ended.stderr.contains(why), "{why} in {}", ended.stderr);
        answers.push(ended);
    };
    refused(
        farm.run(Some(auditor), &["cancel", &job]),
        1,
        "ChangeJob is for admin or submit; this token is for read",
    );
    refused(farm.run(None, &["jobs"]), 1, "wants a token");
    refused(farm.run(Some(fleet), &["jobs"]), 1, "this token is for worker");
    let wrong = Token { id: String::new(), text: format!("sf_{}_{}", "0".repeat(12), "1".repeat(64)) };
    refused(farm.run(Some(&wrong), &["jobs"]), 1, "not known, was revoked or has expired");
    let shown = ["jobs", "--cert", "ca/eyes.pem", "--key", "ca/eyes.key"];
    assert!(farm.run(None, &shown).ok().stdout.contains(&job));
    // Whose certificate it is decides which worker it may be.
    let other = ["worker", "--name", "w9", "--cert", "ca/w1.pem", "--key", "ca/w1.key"];
    refused(farm.run(None, &other), 2, "for worker \"w1\" only");
    // Who does not know the CA does not talk to the coordinator.
    let mut stranger = farm.sandbox.command(&["jobs", "--coordinator", &farm.address]);
    stranger.env("SANAFARM_TOKEN", &ann.text);
    refused(farm.sandbox.run_command(stranger), 2, "connect to coordinator");

    let listed = farm.run(Some(root), &["token", "list", "--json"]).ok();
    let roles: Vec<_> =
        listed.json_lines().iter().map(|line| line["role"].as_str().unwrap().to_owned()).collect();
    assert_eq!(roles.len(), 4, "{roles:?}");
    let table = farm.run(Some(root), &["token", "list"]).ok();

    for running in workers {
        running.terminate();
        assert_eq!(running.wait().code(), Some(0), "{}", farm.sandbox.running_log());
    }
    farm.coordinator.terminate();
    assert_eq!(farm.coordinator.wait().code(), Some(0), "{}", farm.sandbox.running_log());

    let mut secrets: Vec<String> = tokens.iter().map(|token| secret(token).to_owned()).collect();
    secrets.extend([secret(&wrong).to_owned(), REDIS_PASSWORD.to_owned(), STORE_KEY.to_owned()]);
    for key in ["ca/ca.key", "ca/w1.key", "tls/server.key"] {
        let pem = std::fs::read_to_string(farm.sandbox.path(key)).unwrap();
        secrets.push(pem.lines().nth(1).unwrap().to_owned());
    }
    let mut places = vec![("log".to_owned(), farm.sandbox.running_log())];
    assert!(places[0].1.contains("session opened"), "the log is that of the run");
    places.extend(
        [listed, table]
            .into_iter()
            .chain(answers)
            .map(|ended| ("answer".to_owned(), ended.stdout + &ended.stderr)),
    );
    for file in crate::support::files_below(&farm.sandbox.path(".sanafarm")) {
        let bytes = std::fs::read(farm.sandbox.path(".sanafarm").join(&file)).unwrap();
        places.push((file, String::from_utf8_lossy(&bytes).into_owned()));
    }
    for (place, text) in &places {
        for secret in &secrets {
            let found = text.find(secret.as_str());
            assert!(found.is_none(), "a secret in {place} at {found:?}");
        }
    }
}

#[test]
fn a_new_certificate_is_taken_up_and_a_broken_one_is_not() {
    let sandbox = Sandbox::new();
    make_ca(&sandbox, "ca");
    let root = token(&sandbox, "root", "admin");
    let farm = Farm::start(sandbox, &[], &[]);
    farm.run(Some(&root), &["jobs"]).ok();
    farm.sandbox.run(&["token", "ca", "init", "--dir", "other"]).ok();
    let by_other = || {
        let mut command =
            farm.sandbox.command(&["jobs", "--coordinator", &farm.address, "--ca", "other/ca.pem"]);
        command.env("SANAFARM_TOKEN", &root.text);
        farm.sandbox.run_command(command).code == Some(0)
    };
    assert!(!by_other());

    farm.sandbox.write("tls/server.pem", "no certificate");
    wait_until("the broken certificate to be told", || {
        farm.sandbox.running_log().contains("the new certificate is not usable; the one before stays")
    });
    farm.run(Some(&root), &["jobs"]).ok();

    certify(&farm.sandbox, "other");
    wait_until("the new certificate", by_other);
    assert_ne!(farm.run(Some(&root), &["jobs"]).code, Some(0), "the one before is gone");
}

#[test]
fn a_worker_takes_up_a_rotated_token_and_leaves_when_it_is_revoked() {
    let sandbox = Sandbox::new();
    make_ca(&sandbox, "ca");
    let (root, fleet) = (token(&sandbox, "root", "admin"), token(&sandbox, "fleet", "worker"));
    let farm = Farm::start(sandbox, &[], &[]);
    farm.sandbox.write("fleet.token", &fleet.text);
    let worker = farm.command(None, &["worker", "--name", "w1", "--token-file", "fleet.token"]);
    let worker = farm.sandbox.start_command(worker);
    wait_until("the worker", || farm.sandbox.running_log().contains("session opened"));
    let rotated = farm.run(Some(&root), &["token", "rotate", &fleet.id, "--grace", "10m"]).ok();
    let rotated = rotated.stdout.trim_end().to_owned();
    assert_ne!(rotated, fleet.text);
    farm.sandbox.write("fleet.token", &rotated);
    wait_until("the other token", || farm.sandbox.running_log().contains("took up another token"));
    let job = farm.submit(&root, "dots");
    let watched = farm.run(Some(&root), &["watch", &job, "--json"]).ok().last_json();
    assert_eq!(watched["state"].as_str(), Some("succeeded"));
    farm.run(Some(&root), &["token", "revoke", &fleet.id]).ok();
    assert_eq!(worker.wait().code(), Some(2), "{}", farm.sandbox.running_log());
    let log = farm.sandbox.running_log();
    assert!(log.contains("revoked or has expired") && !log.contains(secret(&fleet)), "{log}");
    let id = &fleet.id;
    let again = farm.run(Some(&root), &["token", "rotate", id]);
    assert_eq!(again.code, Some(1), "{}", again.stderr);
    assert!(again.stderr.contains("`sanafarm token list` lists tokens"), "{}", again.stderr);
}

#[test]
fn the_submit_verb_names_an_owner_as_the_token_allows() {
    let sandbox = Sandbox::new();
    make_ca(&sandbox, "ca");
    let (root, ann) = (token(&sandbox, "root", "admin"), token(&sandbox, "ann", "submit"));
    let farm = Farm::start(sandbox, &["--max-prompts", "2"], &[]);
    farm.sandbox.write("list.txt", "red dots\n");
    let submit = |token: &Token, name: &str, owner: &str| {
        let args = ["submit", "list.txt", "--name", name, "--size", "64x64", "--json", "--owner", owner];
        farm.run(Some(token), &args)
    };
    assert_eq!(submit(&root, "a", "bob").ok().last_json()["owner"].as_str(), Some("bob"));
    let refused = submit(&ann, "b", "bob");
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("may be submitted by an admin only"), "{}", refused.stderr);
    farm.sandbox.write("list.txt", "one\ntwo\nthree\n");
    let long = submit(&ann, "c", "ann");
    assert!(long.stderr.contains("more than 2 prompts"), "{}", long.stderr);
}

#[test]
fn beyond_loopback_a_coordinator_wants_tls_and_tokens() {
    let sandbox = Sandbox::new();
    make_ca(&sandbox, "ca");
    let base = ["coordinator", "--listen", "0.0.0.0:0"];
    let tls = ["--tls-cert", "tls/server.pem", "--tls-key", "tls/server.key"];
    let starts = |more: &[&str]| {
        let mut running = sandbox.start(&[&base[..], more].concat());
        first_address(&sandbox, &mut running);
    };
    let refused = |more: &[&str], lost: &[&str]| {
        let ended = sandbox.run(&[&base[..], more].concat());
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        for text in ["without TLS", "without tokens"] {
            assert_eq!(ended.stderr.contains(text), lost.contains(&text), "{text}: {}", ended.stderr);
        }
        assert!(ended.stderr.contains("--insecure"), "{}", ended.stderr);
    };
    refused(&[], &["without TLS"]);
    refused(&["--auth", "open"], &["without TLS", "without tokens"]);
    refused(&[&tls[..], &["--auth", "open"]].concat(), &["without tokens"]);
    starts(&tls);
    starts(&["--insecure", "--auth", "open"]);
    let log = sandbox.running_log();
    assert!(log.contains("insecure: without TLS") && log.contains("insecure: without tokens"), "{log}");
    let half = sandbox.run(&["coordinator", "--tls-cert", "tls/server.pem"]);
    assert_eq!(half.code, Some(1));
    assert!(half.stderr.contains("--tls-cert needs --tls-key"), "{}", half.stderr);
}

#[test]
fn a_token_is_not_sent_in_the_clear_unless_that_is_said() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(&["jobs", "--coordinator", "farm.example:7070"]);
    command.env("SANAFARM_TOKEN", "sf_planted");
    let ended = sandbox.run_command(command);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("would cross the network in the clear"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("sf_planted"), "{}", ended.stderr);
}

#[test]
fn a_ca_is_never_replaced() {
    let sandbox = Sandbox::new();
    make_ca(&sandbox, "ca");
    let again = sandbox.run(&["token", "ca", "init"]);
    assert_eq!(again.code, Some(1), "{}", again.stderr);
    let nobody = sandbox.run(&["token", "ca", "issue", "w1"]);
    assert_eq!(nobody.code, Some(1), "{}", nobody.stderr);
    let admin = sandbox.run(&["token", "ca", "issue", "w1", "--role", "admin"]);
    assert_eq!(admin.code, Some(1), "{}", admin.stderr);
}

#[test]
fn a_coordinator_with_tls_is_guessed_when_it_is_called_without() {
    let sandbox = Sandbox::new();
    make_ca(&sandbox, "ca");
    let farm = Farm::start(sandbox, &[], &[]);
    let plain = farm.address.replace("https://", "http://");
    let ended = farm.sandbox.run(&["jobs", "--coordinator", &plain]);
    assert_ne!(ended.code, Some(0));
    assert!(
        ended.stderr.contains("it may speak TLS") && ended.stderr.contains("try https://"),
        "{}",
        ended.stderr
    );
}

#[test]
fn tokens_and_certificates_go_into_files_that_are_not_lost() {
    use std::os::unix::fs::PermissionsExt;
    let sandbox = Sandbox::new();
    let mode = |name: &str| sandbox.path(name).metadata().unwrap().permissions().mode() & 0o777;
    let read = |name: &str| std::fs::read_to_string(sandbox.path(name)).unwrap();
    let create = ["token", "create", "root", "--role", "admin", "-o", "root.token"];
    let made = sandbox.run(&create).ok();
    assert_eq!(made.stdout, "");
    assert!(made.stderr.ends_with(" for root is in root.token\n"), "{}", made.stderr);
    let first = read("root.token");
    assert!(first.starts_with("sf_") && first.ends_with('\n'), "it is no token");
    assert_eq!((mode("root.token"), mode(".sanafarm")), (0o600, 0o700));
    let again = sandbox.run(&create);
    assert_eq!(again.code, Some(1));
    assert!(again.stderr.starts_with("error: root.token is there already\n"), "{}", again.stderr);
    let listed = sandbox.run(&["token", "list", "--json"]).ok();
    assert_eq!(listed.stdout.lines().count(), 1, "a token was made that nobody has");

    let id = listed.last_json()["token_id"].as_str().unwrap().to_owned();
    let rotated = sandbox.run(&["token", "rotate", &id, "-o", "root.token", "--json"]).ok().last_json();
    assert_eq!((rotated["file"].as_str(), rotated.get("token")), (Some("root.token"), None));
    assert_ne!(read("root.token"), first);
    assert_eq!(mode("root.token"), 0o600);

    sandbox.run(&["token", "ca", "init"]).ok();
    let again = sandbox.run(&["token", "ca", "init"]);
    assert_eq!(again.code, Some(1));
    assert!(
        again.stderr.contains("there is a ca already: ca/ca.pem\n\nhint: sign with it"),
        "{}",
        again.stderr
    );
    let issue = ["token", "ca", "issue", "server", "--host", "a.example"];
    sandbox.run(&issue).ok();
    let before = read("ca/server.pem");
    let again = sandbox.run(&issue);
    assert_eq!(again.code, Some(1));
    assert!(
        again.stderr.contains("ca/server.pem is there already\n\nhint: add --replace"),
        "{}",
        again.stderr
    );
    assert_eq!(read("ca/server.pem"), before);
    sandbox.run(&[&issue[..], &["--replace"]].concat()).ok();
    assert_ne!(read("ca/server.pem"), before);
    let ca = sandbox.run(&["token", "ca", "issue", "ca", "--host", "a.example", "--replace"]);
    assert_eq!(ca.code, Some(1), "the key of the ca was replaced");
}

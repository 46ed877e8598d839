//! `deploy/local/up` and `down`: the whole topology as processes, with TLS, tokens, signed uploads and two coordinators, used
//! as a platform's people use it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::elastic::Keda;
use crate::observe::receiver::Receiver as Traces;
use crate::support::cluster::prompts;
use crate::support::receiver::Receiver as Hooks;
use crate::support::{Ended, Sandbox, files_below, https, wait_until};

/// A farm that is up until it is dropped.
struct Local {
    sandbox: Sandbox,
    folder: PathBuf,
    coordinators: Vec<String>,
}

fn script(name: &str) -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/local").join(name));
    let ours = std::env::vars_os().map(|(name, _)| name);
    for name in ours.filter(|name| name.to_string_lossy().starts_with("SANAFARM_")) {
        command.env_remove(name);
    }
    command
}

#[track_caller]
fn succeeded(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

impl Local {
    fn up(environment: &[(&str, &str)]) -> Self {
        let sandbox = Sandbox::new();
        // Where the user that runs PostgreSQL gets to.
        let folder = std::env::temp_dir().join(format!("sanafarm-local-test-{}", std::process::id()));
        let program = Path::new(env!("CARGO_BIN_EXE_sanafarm"));
        let mut up = script("up");
        up.arg("--folder").arg(&folder).arg("--program").arg(program);
        up.arg("--s3-server").arg(program.with_file_name("s3-server"));
        // Of this value on, whatever goes wrong, it is taken down.
        let mut local = Self { sandbox, folder, coordinators: Vec::new() };
        succeeded(&up.envs(environment.iter().copied()).output().unwrap());
        local.coordinators = local.read("coordinators").lines().map(str::to_owned).collect();
        local
    }

    fn down(&self) -> Output {
        script("down").arg("--folder").arg(&self.folder).output().unwrap()
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.folder.join(file)).unwrap()
    }

    fn token(&self, name: &str) -> String {
        self.read(&format!("tokens/{name}")).trim_end().to_owned()
    }

    /// A command with somebody's token.
    fn run(&self, token: &str, coordinator: usize, args: &[&str]) -> Ended {
        let mut command = self.sandbox.command(args);
        command.env("SANAFARM_COORDINATOR", &self.coordinators[coordinator]);
        command.env("SANAFARM_CA", self.folder.join("tls/ca.pem"));
        command.env("SANAFARM_TOKEN_FILE", self.folder.join("tokens").join(token));
        self.sandbox.run_command(command)
    }

    /// KEDA, with a certificate.
    fn keda(&self) -> Keda {
        let tls = self.folder.join("tls");
        let issue = ["token", "ca", "issue", "keda", "--role", "read", "--dir", tls.to_str().unwrap()];
        self.sandbox.run(&issue).ok();
        let pem = |name: &str| std::fs::read(tls.join(name)).unwrap();
        let config = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(pem("ca.pem")))
            .identity(Identity::from_pem(pem("keda.pem"), pem("keda.key")));
        let endpoint =
            Endpoint::from_shared(self.coordinators[1].clone()).unwrap().tls_config(config).unwrap();
        Keda::over(&endpoint, &[("model", "sana-tiny"), ("targetSeconds", "60")])
    }

    /// Where a process serves its metrics.
    fn http(&self, process: &str) -> String {
        let log = self.read(&format!("log/{process}"));
        let line = log.lines().find_map(|line| line.split_once("serves metrics on ")).unwrap();
        line.1.trim_end_matches("/metrics").to_owned()
    }

    /// Processes that were started with the folder in their arguments or their environment.
    fn processes(&self) -> Vec<String> {
        let folder = self.folder.to_str().unwrap();
        let is_ours = |file: PathBuf| {
            std::fs::read(file).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(folder))
        };
        let entries = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
        let ours = entries.filter(|path| is_ours(path.join("cmdline")) || is_ours(path.join("environ")));
        ours.map(|path| path.display().to_string()).collect()
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        if self.folder.exists() {
            if std::thread::panicking() {
                for log in files_below(&self.folder.join("log")) {
                    eprintln!("--- {log}\n{}", self.read(&format!("log/{log}")));
                }
            }
            // A farm that did not come up is not there to be ended.
            let _ = self.down();
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

#[test]
fn a_whole_farm_comes_up_is_used_by_its_roles_and_leaves_nothing_behind() {
    const IMAGES: usize = 200;
    let (hooks, traces) = (Hooks::new(&[]), Traces::start());
    let local = Local::up(&[("SANAFARM_TRACE_ENDPOINT", &traces.url())]);
    let mut keda = local.keda();
    assert_eq!(keda.backlog(), 0.0);

    local.sandbox.write("list.txt", prompts(IMAGES));
    let hook = hooks.url("/done");
    let what = ["submit", "list.txt", "--size", "64x64", "--steps", "2", "--output", "s3://farm/out"];
    let submitted = local.run("submit", 0, &[&what[..], &["--webhook", &hook]].concat()).ok();
    let job = submitted.stdout.trim_end();
    wait_until("the backlog", || keda.backlog() > 0.0);

    // Who reads may not change.
    let refused = local.run("read", 1, &["cancel", job]);
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("this token is for read"), "{}", refused.stderr);
    let watched = local.run("read", 1, &["watch", job, "--json"]).ok().last_json();
    assert_eq!((&watched["state"], watched["images"].as_u64()), (&"succeeded".into(), Some(IMAGES as u64)));
    local.run("admin", 0, &["workers", "--json"]).ok().json_lines().iter().for_each(|worker| {
        assert!(worker["worker"].as_str().unwrap().starts_with("worker-"), "{worker}");
    });
    wait_until("the backlog to be worked off", || keda.backlog() == 0.0);

    // Each picture is there, stored by workers that have no keys.
    let mut verify = local.sandbox.command(&["verify", job]);
    for line in local.read("env").lines().filter_map(|line| line.strip_prefix("export ")) {
        verify.envs(line.split(' ').filter_map(|pair| pair.split_once('=')));
    }
    let verified = local.sandbox.run_command(verify);
    assert_eq!(verified.code, Some(0), "{}{}", verified.stdout, verified.stderr);
    let stored = files_below(&local.folder.join("buckets/farm/out"));
    assert_eq!(stored.iter().filter(|name| name.ends_with(".png")).count(), IMAGES);

    wait_until("the webhook", || !hooks.calls().is_empty());
    let call = &hooks.calls()[0];
    let secret = local.read("sanafarm.toml");
    let secret = secret.lines().find_map(|line| line.strip_prefix("webhook_secret = ")).unwrap();
    assert!(call.is_signed_with(secret.trim_matches('"')));
    let body: Value = serde_json::from_str(&call.body).unwrap();
    assert_eq!((&body["type"], &body["data"]["job_id"]), (&"job.succeeded".into(), &job.into()));

    routes(&local);

    // One image, over all the processes that had it in hand.
    let image = || {
        let spans = traces.spans();
        let root = spans
            .iter()
            .find(|span| span.span.name == "image" && span.attribute("job").as_deref() == Some(job))?;
        let of_image = spans.iter().filter(|span| span.span.trace_id == root.span.trace_id);
        Some(of_image.map(|span| format!("{} {}", span.service, span.span.name)).collect::<Vec<_>>())
    };
    let wanted = ["sanafarm-coordinator claim", "sanafarm-worker render", "sanafarm-coordinator commit"];
    wait_until("the trace of an image", || {
        image().is_some_and(|spans| wanted.iter().all(|name| spans.iter().any(|span| span == name)))
    });

    assert!(!local.processes().is_empty());
    let down = local.down();
    succeeded(&down);
    assert_eq!(String::from_utf8_lossy(&down.stderr), "", "all ended by themselves");
    assert_eq!(local.processes(), Vec::<String>::new());
    assert!(!local.folder.exists());
}

/// Every route of HTTP, by every role and by nobody.
fn routes(local: &Local) {
    let ca = local.folder.join("tls/ca.pem");
    let at = local.http("coordinator-1");
    let tokens = ["admin", "submit", "read", "worker-1"].map(|name| (name, local.token(name)));
    for (path, allowed) in [
        ("/healthz", &["", "admin", "submit", "read", "worker-1"][..]),
        ("/readyz", &["", "admin", "submit", "read", "worker-1"]),
        ("/metrics", &["admin", "read"]),
        ("/nothing", &[]),
    ] {
        let nobody = [("", None)].into_iter();
        let all = nobody.chain(tokens.iter().map(|(name, token)| (*name, Some(token.as_str()))));
        for (name, token) in all {
            let (status, body) = https::get(&format!("{at}{path}"), &ca, token);
            let wanted = match (path, name) {
                ("/nothing", _) => 404,
                _ if allowed.contains(&name) => 200,
                (_, "") => 401,
                _ => 403,
            };
            assert_eq!(status, wanted, "{path} by {name:?}: {body}");
        }
    }
    assert_eq!(https::get(&format!("{at}/metrics"), &ca, Some("sf_wrong")).0, 401);
    let (_, metrics) = https::get(&format!("{at}/metrics"), &ca, Some(&local.token("read")));
    let missing =
        metrics.lines().find(|line| line.starts_with("sanafarm_auth_failures_total{reason=\"missing\"}"));
    assert!(missing.is_some_and(|line| !line.ends_with(" 0")), "{missing:?}");
    let taken = "sanafarm_webhooks_total{outcome=\"delivered\"} ";
    let delivered = ["coordinator-1", "coordinator-2"].map(|name| {
        let (_, text) = https::get(&format!("{}/metrics", local.http(name)), &ca, Some(&local.token("read")));
        text.lines()
            .find_map(|line| line.strip_prefix(taken))
            .map_or(0, |count| count.parse::<u64>().unwrap())
    });
    assert_eq!(delivered.iter().sum::<u64>(), 1);
}

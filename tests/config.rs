//! Settings from the command line, the environment and a file, as the person at the terminal meets them.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{Ended, Sandbox};

/// A password that may be seen nowhere.
const PLANTED: &str = "pl4nted-s3cret";

/// The line of a key in a printed configuration.
#[track_caller]
fn line<'a>(printed: &'a Ended, key: &str) -> &'a str {
    let mut lines = printed.stdout.lines();
    lines
        .find(|line| line.starts_with(&format!("{key} = ")))
        .unwrap_or_else(|| panic!("no {key} in {printed:?}"))
}

/// A printed configuration without its comments.
fn values(printed: &Ended) -> Vec<String> {
    let lines = printed.stdout.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split(" # ").next().unwrap().to_owned()).collect()
}

fn with_variables(sandbox: &Sandbox, args: &[&str], variables: &[(&str, &str)]) -> Ended {
    let mut command = sandbox.command(args);
    command.envs(variables.iter().copied());
    sandbox.run_command(command)
}

#[test]
fn a_flag_wins_over_a_variable_over_the_file_over_the_default() {
    let sandbox = Sandbox::new();
    let print = ["coordinator", "--print-config", "--config", "farm.toml"];
    sandbox.write("farm.toml", "[coordinator]\nlease_seconds = 30\n\n[worker]\nuploads = 3\n");

    let default = sandbox.run(&["coordinator", "--print-config"]).ok();
    assert_eq!(line(&default, "lease_seconds"), "lease_seconds = 60 # default");
    let file = sandbox.run(&print).ok();
    assert_eq!(line(&file, "lease_seconds"), "lease_seconds = 30 # file: farm.toml:2");
    let variable = [("SANAFARM_LEASE_SECONDS", "40")];
    let environment = with_variables(&sandbox, &print, &variable).ok();
    assert_eq!(
        line(&environment, "lease_seconds"),
        "lease_seconds = 40 # environment: SANAFARM_LEASE_SECONDS"
    );
    let flag = with_variables(&sandbox, &[&print[..], &["--lease-seconds", "50"]].concat(), &variable).ok();
    assert_eq!(line(&flag, "lease_seconds"), "lease_seconds = 50 # flag");

    let empty = with_variables(&sandbox, &print, &[("SANAFARM_LEASE_SECONDS", "")]).ok();
    assert_eq!(line(&empty, "lease_seconds"), "lease_seconds = 30 # file: farm.toml:2");
    let elsewhere =
        with_variables(&sandbox, &["worker", "--print-config"], &[("SANAFARM_CONFIG", "farm.toml")]).ok();
    assert_eq!(line(&elsewhere, "uploads"), "uploads = 3 # file: farm.toml:5");
}

#[test]
fn what_a_file_says_is_what_a_server_does() {
    let sandbox = Sandbox::new();
    sandbox.write("farm.toml", "[coordinator]\nlisten = \"127.0.0.1:0\"\ndata = \"kept\"\n");
    let mut coordinator = sandbox.start(&["--config", "farm.toml", "coordinator"]);
    let first = coordinator.first_line();
    let address = first.strip_prefix("listening on ").unwrap_or_else(|| panic!("{first}")).to_owned();
    assert!(sandbox.path("kept/sanafarm.db").is_file() && !sandbox.path(".sanafarm").exists());

    // Found by a client through the file, and not where the command line names a folder.
    sandbox.write("client.toml", format!("[client]\ncoordinator = \"{address}\"\n"));
    sandbox.run(&["jobs", "--config", "client.toml"]).ok();
    let ended = sandbox.run(&["jobs", "--config", "client.toml", "--data", "none"]);
    assert!(ended.stderr.starts_with("error: no database at none/sanafarm.db\n"), "{}", ended.stderr);
    coordinator.kill();
}

#[test]
fn what_excludes_each_other_is_settled_by_the_stronger_source() {
    let sandbox = Sandbox::new();
    let url = [("SANAFARM_DATABASE", "postgres://farm@db/farm"), ("SANAFARM_DATA", "there")];
    let both = with_variables(&sandbox, &["coordinator", "--print-config"], &url).ok();
    assert_eq!(
        line(&both, "database"),
        "database = \"postgres://farm@db/farm\" # environment: SANAFARM_DATABASE"
    );
    let folder = with_variables(&sandbox, &["coordinator", "--print-config", "--data", "here"], &url).ok();
    assert_eq!(line(&folder, "data"), "data = \"here\" # flag");
    assert!(folder.stdout.contains("# database is not set\n"), "{}", folder.stdout);
}

#[test]
fn lists_and_switches_come_from_all_sources() {
    let sandbox = Sandbox::new();
    sandbox
        .write("farm.toml", "[worker]\nlabel = [\"zone=eu\", \"disk=ssd\"]\n[coordinator]\npresign = true\n");
    let worker = ["worker", "--print-config", "--config", "farm.toml"];
    let printed = sandbox.run(&worker).ok();
    assert_eq!(line(&printed, "label"), "label = [\"zone=eu\", \"disk=ssd\"] # file: farm.toml:2");
    let printed = with_variables(&sandbox, &worker, &[("SANAFARM_LABEL", "zone=us, disk=hdd")]).ok();
    assert_eq!(line(&printed, "label"), "label = [\"zone=us\", \"disk=hdd\"] # environment: SANAFARM_LABEL");
    let printed = sandbox.run(&[&worker[..], &["--label", "zone=asia"]].concat()).ok();
    assert_eq!(line(&printed, "label"), "label = [\"zone=asia\"] # flag");

    let coordinator = ["coordinator", "--print-config", "--config", "farm.toml"];
    assert_eq!(line(&sandbox.run(&coordinator).ok(), "presign"), "presign = true # file: farm.toml:4");
    let printed = with_variables(&sandbox, &coordinator, &[("SANAFARM_PRESIGN", "no")]).ok();
    assert_eq!(line(&printed, "presign"), "presign = false # environment: SANAFARM_PRESIGN");
}

#[test]
fn what_nobody_knows_is_refused_with_the_nearest_name() {
    let sandbox = Sandbox::new();
    for (file, told) in [
        (
            "[coordinator]\n\nlease_second = 30\n",
            "error: farm.toml:3: there is no key `lease_second` in [coordinator]\n\nhint: did you mean `lease_seconds`?\n",
        ),
        (
            "[cordinator]\nlease_seconds = 30\n",
            "error: farm.toml:1: there is no section [cordinator]\n\nhint: did you mean [coordinator]?\n",
        ),
        (
            "[coordinator]\nuploads = 3\n",
            "error: farm.toml:2: there is no key `uploads` in [coordinator]\n\nhint: it belongs in [worker]\n",
        ),
        ("uploads = 3\n", "error: farm.toml:1: `uploads` stands in no section\n\nhint: put it in [worker]\n"),
    ] {
        sandbox.write("farm.toml", file);
        let ended = sandbox.run(&["jobs", "--config", "farm.toml"]);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(1), told));
    }
}

#[test]
fn a_wrong_value_is_refused_with_where_it_stands() {
    let sandbox = Sandbox::new();
    for (verb, file, told) in [
        (
            "coordinator",
            "[coordinator]\nlease_seconds = 0\n",
            "farm.toml:2: `lease_seconds` in [coordinator] is `0`\n  caused by: 0 is not in 1..=3600\n",
        ),
        (
            "worker",
            "[worker]\nspot = \"azure\"\n",
            "farm.toml:2: `spot` in [worker] is `azure`\n  caused by: there are aws, gcp, auto, none\n",
        ),
        (
            "worker",
            "[worker]\nlabel = [\"zone\"]\n",
            "farm.toml:2: `label` in [worker] is `zone`\n  caused by: expected name=value, such as zone=eu\n",
        ),
        (
            "coordinator",
            "[coordinator]\npresign = \"yes\"\n",
            "farm.toml:2: `presign` in [coordinator] is true or false\n",
        ),
        (
            "coordinator",
            "[coordinator]\nlisten = [\"a\"]\n",
            "farm.toml:2: `listen` in [coordinator] takes one value, not a list\n",
        ),
    ] {
        sandbox.write("farm.toml", file);
        let ended = sandbox.run(&[verb, "--config", "farm.toml"]);
        assert_eq!((ended.code, ended.stderr), (Some(1), format!("error: {told}")));
    }
    let ended = with_variables(&sandbox, &["worker"], &[("SANAFARM_UPLOADS", "many")]);
    assert_eq!(ended.stderr, "error: SANAFARM_UPLOADS is `many`\n  caused by: expected a whole number\n");
    sandbox.write("farm.toml", format!("[client]\ncoordinator = {PLANTED}\n"));
    let ended = sandbox.run(&["jobs", "--config", "farm.toml"]);
    assert!(ended.stderr.starts_with("error: farm.toml:2: this is not TOML\n"), "{}", ended.stderr);
    assert!(!ended.stderr.contains(PLANTED), "{}", ended.stderr);
    let ended = sandbox.run(&["jobs", "--config", "none.toml"]);
    assert!(ended.stderr.starts_with("error: read configuration none.toml\n"), "{}", ended.stderr);
}

#[test]
fn a_printed_configuration_is_a_configuration() {
    let sandbox = Sandbox::new();
    sandbox.write(
        "farm.toml",
        "[worker]\ncoordinator = \"farm:7070\"\nlabel = [\"a=1\", 'b=\"2\"']\nmax_idle = \"10m\"\noutbox_size = 1_000_000\n\
         [submit]\nguidance = 3.5\nskip_invalid = true\nnegative_prompt = \"#1 \\\"blurry\\\"\"\n[client]\ncoordinator = \"farm:7070\"\n",
    );
    for verb in ["coordinator", "worker", "render", "submit", "jobs", "estimate", "owner"] {
        let first = sandbox.run(&[verb, "--config", "farm.toml", "--print-config"]).ok();
        sandbox.write("again.toml", &first.stdout);
        let again = sandbox.run(&[verb, "--config", "again.toml", "--print-config"]).ok();
        assert_eq!(values(&first), values(&again), "{verb}");
        assert!(
            verb == "coordinator" || first.stdout.contains("# file: farm.toml:") || verb == "render",
            "{verb}"
        );
    }
    // All of the example in the repository, as it stands and with every line in force.
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/sanafarm.toml");
    let example = std::fs::read_to_string(example).unwrap();
    let in_force: Vec<_> = example
        .lines()
        .map(|line| if line.starts_with("# ") { "" } else { line.trim_start_matches('#') })
        .collect();
    sandbox.write("example.toml", in_force.join("\n"));
    for verb in ["coordinator", "worker", "render", "submit"] {
        let default = sandbox.run(&[verb, "--print-config"]).ok();
        let example = sandbox.run(&[verb, "--config", "example.toml", "--print-config"]).ok();
        assert_eq!(values(&default), values(&example), "{verb}");
    }
}

#[test]
fn the_example_of_the_documentation_is_a_configuration() {
    let sandbox = Sandbox::new();
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let text = std::fs::read_to_string(text).unwrap();
    let example = text.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    sandbox.write("farm.toml", example);
    for verb in ["coordinator", "worker", "jobs"] {
        let printed = sandbox.run(&[verb, "--config", "farm.toml", "--print-config"]).ok();
        assert!(printed.stdout.contains("# file: farm.toml:"), "{}", printed.stdout);
    }
}

#[test]
fn secrets_are_not_shown() {
    let sandbox = Sandbox::new();
    let planted = [
        ("SANAFARM_DATABASE", format!("postgres://farm:{PLANTED}@db/farm?sslmode=require")),
        ("SANAFARM_REDIS", format!("redis://:{PLANTED}@cache:6379")),
    ];
    let planted: Vec<_> = planted.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let printed = with_variables(&sandbox, &["coordinator", "--print-config"], &planted).ok();
    assert!(!format!("{printed:?}").contains(PLANTED), "{}", printed.stdout);
    assert!(
        line(&printed, "database")
            .starts_with("database = \"postgres://farm:REDACTED@db/farm?sslmode=require\"")
    );

    // Help shows nothing of it either, and what was printed is no way to connect.
    let help = with_variables(&sandbox, &["coordinator", "--help"], &planted).ok();
    assert!(!help.stdout.contains(PLANTED), "{}", help.stdout);
    sandbox.write("printed.toml", &printed.stdout);
    let ended = sandbox.run(&["coordinator", "--config", "printed.toml"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("`database` in [coordinator] was redacted\n"), "{}", ended.stderr);
}

#[test]
fn shells_can_read_their_completions() {
    let sandbox = Sandbox::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = sandbox.run(&["completions", shell]).ok();
        assert!(script.stdout.contains("lease-seconds"), "{shell}");
    }
    let script = sandbox.run(&["completions", "bash"]).ok().stdout;
    let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
    bash.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(bash.wait().unwrap().success());

    // As bash asks for them.
    let asked = "\nCOMP_WORDS=(sanafarm coordinator --lea); COMP_CWORD=2; _sanafarm sanafarm --lea coordinator; echo ${COMPREPLY[@]}";
    sandbox.write("asked", script + asked);
    let answered = Command::new("bash").arg(sandbox.path("asked")).output().unwrap();
    assert_eq!(String::from_utf8(answered.stdout).unwrap(), "--lease-seconds\n");
}

#[test]
fn every_verb_has_a_manual_page() {
    let sandbox = Sandbox::new();
    sandbox.run(&["man", "share/man1"]).ok();
    for page in ["sanafarm.1", "sanafarm-coordinator.1", "sanafarm-models-pull.1"] {
        let text = std::fs::read_to_string(sandbox.path("share/man1").join(page)).unwrap();
        assert!(text.contains(".TH ") && text.contains(".SH SYNOPSIS"), "{page}");
    }
}

//! What the person at the terminal reads: help, and what every bad input ends with.

use std::net::TcpListener;
use std::path::Path;

use sanafarm_test_servers::Port;

use crate::support::{Sandbox, bundled_model, copy_folder};

const LINE_HINT: &str = "hint: nothing was started; mend the line, or skip bad lines with --skip-invalid";

/// Exit code and whole output of a command that must fail before it writes any result.
#[track_caller]
fn refused(sandbox: &Sandbox, args: &[&str], stderr: &str) {
    let ended = sandbox.run(args);
    assert_eq!(ended.stderr, stderr);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
    assert!(!sandbox.path("renders").exists(), "something was written");
}

#[test]
fn help_lists_every_verb() {
    let ended = Sandbox::new().run(&["--help"]).ok();
    let verbs: Vec<&str> = ended
        .stdout
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .map(|line| line.split_whitespace().next().unwrap())
        .collect();
    assert_eq!(
        verbs,
        [
            "render",
            "coordinator",
            "worker",
            "submit",
            "estimate",
            "jobs",
            "show",
            "watch",
            "images",
            "explain",
            "history",
            "logs",
            "workers",
            "drain",
            "pause",
            "resume",
            "priority",
            "retry",
            "cancel",
            "owner",
            "export",
            "verify",
            "reproduce",
            "gc",
            "sql",
            "token",
            "models",
            "completions",
            "man",
            "help"
        ]
    );
    assert_eq!(ended.stderr, "");
}

#[test]
fn an_unknown_option_is_a_mistake() {
    let ended = Sandbox::new().run(&["jobs", "--nonsense"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.starts_with("error: unexpected argument '--nonsense' found\n"), "{}", ended.stderr);
}

#[test]
fn sizes_of_zero_and_beyond_the_limit_are_refused() {
    for (size, what) in [("0x512", "width"), ("512x16385", "height")] {
        refused(
            &Sandbox::new(),
            &["render", "a.txt", "--size", size],
            &format!(
                "error: invalid value '{size}' for '--size <WxH>': {what} must be from 1 to 16384\n\nFor more \
                 information, try '--help'.\n"
            ),
        );
    }
}

#[test]
fn devices_that_cannot_be_are_refused() {
    let sandbox = Sandbox::new();
    for devices in ["gpu", "cuda:x", "cpu,auto"] {
        let bad = devices.rsplit(',').next().unwrap();
        refused(
            &sandbox,
            &["worker", "--devices", devices],
            &format!(
                "error: invalid value '{devices}' for '--devices <DEVICES>': device {bad}: take auto, all, or a list \
                 such as cuda:0,cuda:2 or cpu\n\nFor more information, try '--help'.\n"
            ),
        );
    }
    // Nobody listens there; it does not come to that.
    let ended = sandbox.run(&["worker", "--coordinator", "127.0.0.1:1", "--devices", "cpu,cuda:4000"]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("caused by: there is no device cuda:4000: this machine has cpu")
            && ended.stderr.contains("hint: name devices of this machine with --devices"),
        "{}",
        ended.stderr
    );
}

#[test]
fn a_missing_list_is_refused() {
    refused(
        &Sandbox::new(),
        &["render", "none.txt"],
        "error: read prompt list none.txt\n  caused by: No such file or directory (os error 2)\n\nhint: name a \
         file that can be read, or - for standard input\n",
    );
}

#[test]
fn a_missing_column_is_refused_with_the_columns_found() {
    let sandbox = Sandbox::new();
    sandbox.write("a.csv", "url,label\nx,y\n");
    refused(
        &sandbox,
        &["render", "a.csv"],
        "error: a.csv:1: no column `prompt`, `text` or `caption`; found `url`, `label`\n\nhint: nothing was \
             started; mend the header, or name the prompt's column with --prompt-column\n",
    );
}

#[test]
fn a_bad_line_is_refused_with_file_and_line() {
    let sandbox = Sandbox::new();
    let cases = [
        ("{\"prompt\":\"b\"", "bad JSON at column 13: EOF while parsing an object"),
        ("{\"prompt\":7}", "`prompt` is a number, expected a string"),
        ("{\"prompt\":\"\"}", "empty prompt"),
        ("{\"prompt\":\"b\",\"width\":0}", "`width` is 0, expected a whole number from 1 to 16384"),
        ("{\"prompt\":\"b\",\"height\":99999}", "`height` is 99999, expected a whole number from 1 to 16384"),
    ];
    for (line, what) in cases {
        sandbox.write("a.jsonl", format!("{{\"prompt\":\"a\"}}\n{line}\n"));
        refused(&sandbox, &["render", "a.jsonl"], &format!("error: a.jsonl:2: {what}\n\n{LINE_HINT}\n"));
    }
}

#[test]
fn an_empty_list_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.write("a.txt", "\n  \n");
    refused(
        &sandbox,
        &["render", "a.txt"],
        "error: a.txt: no prompt in the list\n\nhint: write one prompt a line, or see `sanafarm render --help` \
         for other formats\n",
    );
}

#[test]
fn a_list_of_bad_lines_only_is_refused_even_when_they_may_be_skipped() {
    let sandbox = Sandbox::new();
    sandbox.write("a.jsonl", "{}\n3\n");
    refused(
        &sandbox,
        &["render", "a.jsonl", "--skip-invalid"],
        "error: a.jsonl: no prompt in the list\n  caused by: a.jsonl:1: no column `prompt`, `text` or `caption`; \
         found none\n\nhint: all 2 lines were skipped as bad\n",
    );
}

#[test]
fn a_size_that_bin_never_excludes_is_refused_by_line() {
    let sandbox = Sandbox::new();
    sandbox.write("a.csv", "prompt,width\na,64\nb,65\n");
    refused(
        &sandbox,
        &["render", "a.csv", "--size", "64x64", "--bin", "never"],
        &format!(
            "error: a.csv:3: width 65 is no multiple of 32, which --bin never asks for\n\n{LINE_HINT}\n"
        ),
    );
}

/// Spoils a copy of the bundled model.
type BreakModel = fn(&Path);

#[test]
fn a_broken_model_is_refused_and_its_file_is_named() {
    let ways: [(&str, BreakModel); 4] = [
        ("diffusion_pytorch_model.safetensors", |model| {
            let path = model.join("transformer/diffusion_pytorch_model.safetensors");
            let file = std::fs::File::options().write(true).open(path).unwrap();
            file.set_len(100_000).unwrap();
        }),
        ("model.safetensors", |model| {
            std::fs::write(model.join("text_encoder/model.safetensors"), "no weights").unwrap();
        }),
        ("tokenizer.json", |model| std::fs::remove_file(model.join("tokenizer/tokenizer.json")).unwrap()),
        ("model_index.json", |model| std::fs::remove_file(model.join("model_index.json")).unwrap()),
    ];
    for (file, break_model) in ways {
        let sandbox = Sandbox::new();
        sandbox.write("a.txt", "red dots\n");
        copy_folder(&bundled_model(), &sandbox.path("model"));
        break_model(&sandbox.path("model"));
        let ended = sandbox.run(&["render", "a.txt", "--model", "model"]);
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        assert!(ended.stderr.starts_with("error: use model model\n  caused by: "), "{}", ended.stderr);
        assert!(ended.stderr.contains(file) && ended.stderr.contains("\n\nhint: "), "{}", ended.stderr);
        assert!(!sandbox.path("renders").exists() && !sandbox.database().exists());
    }
}

#[test]
fn an_output_that_cannot_be_written_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.write("a.txt", "red dots\n");
    sandbox.write("file", "in the way");
    let ended = sandbox.run(&["render", "a.txt", "--output", "file/pictures"]);
    assert_eq!(ended.code, Some(1));
    let start = "error: write to output [DIR]/file/pictures\n  caused by: ";
    assert!(ended.stderr.starts_with(start), "{}", ended.stderr);
    assert!(ended.stderr.contains("\n\nhint: name a folder that can be written"), "{}", ended.stderr);
    assert_eq!(std::fs::read_to_string(sandbox.path("file")).unwrap(), "in the way");
}

#[test]
fn a_port_in_use_is_refused() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    refused(
        &Sandbox::new(),
        &["coordinator", "--listen", &address],
        &format!(
            "error: listen on {address}\n  caused by: Address already in use (os error 98)\n\nhint: another program \
             serves there: stop it, or name another port with --listen\n"
        ),
    );
}

#[test]
fn serving_other_machines_without_tls_must_be_asked_for() {
    refused(
        &Sandbox::new(),
        &["coordinator", "--listen", "0.0.0.0:0"],
        "error: 0.0.0.0:0 can be reached from other machines\n  caused by: without TLS whoever is on the network reads and \
         changes prompts, pictures' names and tokens\n\nhint: name a certificate with --tls-cert and --tls-key (`sanafarm \
         token ca` makes one), and leave --auth to tokens; on a network that you trust, add --insecure\n",
    );
}

#[test]
fn reading_verbs_without_a_database_say_where_they_looked() {
    for args in [
        &["jobs"][..],
        &["show", "x"],
        &["images", "x"],
        &["watch", "x"],
        &["sql", "select 1"],
        &["history", "x"],
    ] {
        refused(
            &Sandbox::new(),
            args,
            "error: no database at .sanafarm/sanafarm.db\n\nhint: name a data folder with --data, or a \
             coordinator with --coordinator; `sanafarm render` makes a data folder\n",
        );
    }
}

#[test]
fn changing_verbs_need_a_coordinator_or_a_database() {
    let sandbox = Sandbox::new();
    sandbox.write("a.txt", "red dots\n");
    for args in [&["submit", "a.txt"][..], &["drain", "x"]] {
        refused(
            &sandbox,
            args,
            "error: no coordinator was named\n\nhint: start one with `sanafarm coordinator` and name it with \
             --coordinator ADDR or SANAFARM_COORDINATOR; to render on this machine alone use `sanafarm render`\n",
        );
    }
    for args in [&["cancel", "x"][..], &["retry", "x", "--failed"], &["verify", "x", "--requeue"]] {
        refused(
            &sandbox,
            args,
            "error: no coordinator was named\n\nhint: there is no database in the data folder .sanafarm either; name \
             another one with --data, or a coordinator with --coordinator ADDR or SANAFARM_COORDINATOR\n",
        );
        assert!(!sandbox.path(".sanafarm").exists());
    }
    refused(
        &sandbox,
        &["worker"],
        "error: no coordinator was named\n\nhint: name it with --coordinator ADDR or SANAFARM_COORDINATOR\n",
    );
}

#[test]
fn a_coordinator_that_is_not_there_is_a_failure_with_a_hint() {
    let port = Port::take();
    let free = format!("127.0.0.1:{}", port.number());
    let ended = Sandbox::new().run(&["jobs", "--coordinator", &free]);
    assert_eq!(ended.code, Some(2));
    let start = format!("error: connect to coordinator {free}\n  caused by: ");
    assert!(ended.stderr.starts_with(&start), "{}", ended.stderr);
    assert!(ended.stderr.ends_with("hint: check the address, and that `sanafarm coordinator` runs there\n"));
}

#[test]
fn a_list_of_a_format_that_cannot_be_read_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.write("list.xlsx", "PK");
    refused(
        &sandbox,
        &["render", "list.xlsx"],
        "error: list.xlsx: a .xlsx file is no prompt list that can be read; make it .parquet, .jsonl, .json, .csv, .tsv \
         or .txt (also .gz or .zst), or say with --list-format how it is written\n",
    );
}

//! Both readings of a list: what is taken, what is sent, and what a change in between does.

use std::path::Path;

use clap::Parser;
use sanafarm_proto::v1::submit_job_request::Part;
use sanafarm_proto::v1::{JobSpec, SubmitJobRequest};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::args::{Cli, Command};
use crate::prompts::Chosen;

fn args(options: &[&str]) -> SubmissionArgs {
    let line = ["sanafarm", "render", "list"].iter().chain(options);
    match Cli::try_parse_from(line).unwrap().command {
        Command::Render(args) => args.submission,
        other => panic!("expected render, found {other:?}"),
    }
}

fn good_list(path: &Path, options: &[&str]) -> Result<GoodList, Error> {
    let list = PromptList::open(path, None, Chosen::default(), Path::new(".")).unwrap();
    let selection = Selection::new(&args(options));
    let survey = Survey::take(&list, &selection)?;
    Ok(GoodList { list, selection, survey })
}

fn feed(
    good: &GoodList,
    sender: mpsc::Sender<SubmitJobRequest>,
    answered: CancellationToken,
) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let pipe = send::Pipe { sender, answered, runtime: runtime.handle().clone() };
    send::feed(&good.list, &good.selection, JobSpec::default(), &good.survey, &pipe)
}

/// What goes to the coordinator: rows of each batch and, when it is sent, the number in the seal.
fn sent(good: &GoodList) -> (Result<(), Error>, Vec<usize>, Option<u64>) {
    let (sender, mut receiver) = mpsc::channel(100);
    let fed = feed(good, sender, CancellationToken::new());
    let (mut batches, mut seal) = (Vec::new(), None);
    while let Some(SubmitJobRequest { part }) = receiver.blocking_recv() {
        match part.unwrap() {
            Part::Spec(_) => assert!(batches.is_empty() && seal.is_none(), "the spec comes first"),
            Part::Batch(batch) => batches.push(batch.rows.len()),
            Part::Seal(sealed) => seal = Some(sealed.rows),
        }
    }
    (fed, batches, seal)
}

#[test]
fn rows_are_sent_in_batches_of_bounded_number_and_weight() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("list.txt");
    std::fs::write(&path, "short\n".repeat(2500)).unwrap();
    assert_eq!(sent(&good_list(&path, &[]).unwrap()), (Ok(()), vec![1000, 1000, 500], Some(2500)));
    std::fs::write(&path, format!("{}\n", "long".repeat(4000)).repeat(100)).unwrap();
    let (fed, batches, seal) = sent(&good_list(&path, &[]).unwrap());
    assert_eq!((fed, seal), (Ok(()), Some(100)));
    assert!(batches.len() > 1 && batches.iter().all(|rows| *rows < 100), "{batches:?}");
}

#[test]
fn a_list_that_changes_between_its_readings_is_never_sealed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("list.txt");
    for changed in ["a\nB\n", "a\n", "a\nb\nc\n"] {
        std::fs::write(&path, "a\nb\n").unwrap();
        let good = good_list(&path, &[]).unwrap();
        std::fs::write(&path, changed).unwrap();
        let (fed, _, seal) = sent(&good);
        assert!(fed.unwrap_err().what.ends_with("changed while it was being read"));
        assert_eq!(seal, None);
    }
}

#[test]
fn a_coordinator_that_needs_no_more_rows_ends_the_reading() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("list.txt");
    std::fs::write(&path, "a\n").unwrap();
    let good = good_list(&path, &[]).unwrap();
    let (sender, receiver) = mpsc::channel(1);
    drop(receiver);
    assert_eq!(feed(&good, sender, CancellationToken::new()), Ok(()), "the stream is closed");
    let (sender, _receiver) = mpsc::channel(1);
    let answered = CancellationToken::new();
    answered.cancel();
    assert_eq!(feed(&good, sender, answered), Ok(()), "the stream is open and nobody reads it");
}

#[test]
fn the_content_is_what_rows_say_and_not_where_they_stand() {
    let folder = tempfile::tempdir().unwrap();
    let sum = |name: &str, text: &str, options: &[&str]| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        good_list(&path, options).unwrap().survey.content_sha256
    };
    let first = sum("a.txt", "a\nb\n", &[]);
    assert_eq!(first, sum("b.jsonl", "\n\"a\"\n{\"text\":\"b\"}\n", &[]));
    assert_eq!(first, sum("a.txt", "a\nb\nc\n", &["--limit", "2"]));
    assert_eq!(first, sum("a.csv", "prompt,width\na,\n,7\nb,\n", &["--skip-invalid"]));
    assert_ne!(first, sum("a.txt", "b\na\n", &[]));
    assert_ne!(first, sum("a.txt", "ab\n", &[]));
    assert_ne!(first, sum("a.csv", "prompt,width\na,\nb,32\n", &[]));
}

#[test]
fn lines_after_the_limit_are_not_judged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("list.jsonl");
    std::fs::write(&path, "\"a\"\nnonsense\n").unwrap();
    assert!(good_list(&path, &[]).is_err());
    assert_eq!(good_list(&path, &["--limit", "1"]).unwrap().survey.rows, 1);
}

#[test]
fn a_row_with_settings_beyond_the_limit_is_skipped_or_told_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("list.csv");
    let row = |number: u32| format!("p,{},{}\n", number % 1000 + 1, number / 1000 + 1);
    // The last but one is one more than a job may have, the last is known.
    let rows: String = (0..10_001).chain([17]).map(row).collect();
    std::fs::write(&path, format!("prompt,steps,guidance\n{rows}")).unwrap();
    let refused = good_list(&path, &[]).unwrap_err();
    let what = "list.csv:10002: more than 10000 different sizes, steps and guidance scales in one list";
    assert!(refused.what.ends_with(what), "{}", refused.what);
    let survey = good_list(&path, &["--skip-invalid"]).unwrap().survey;
    assert_eq!((survey.rows, survey.skipped.count), (10_001, 1));
}

#[test]
fn lines_that_a_stray_quote_swallows_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("list.csv");
    std::fs::write(&path, "prompt\na\n\"b\nc\nd\n").unwrap();
    let survey = good_list(&path, &["--skip-invalid"]).unwrap().survey;
    assert_eq!((survey.rows, survey.skipped.rows, survey.skipped.count), (1, 1, 3));
}

//! The reading of a list: what is taken, what is sent, and what becomes of equal images.

use std::path::Path;

use clap::Parser;
use sanafarm_proto::v1::submit_job_request::Part;
use sanafarm_proto::v1::{JobSpec, PromptRow, Settings, SubmitJobRequest};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::duplicates::{Duplicates, Merged};
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

fn survey(path: &Path, options: &[&str]) -> Result<Survey, Error> {
    let list = PromptList::open(path, None, Chosen::default()).unwrap();
    let args = args(options);
    let selection = Selection::new(&args, list.numbering().clone());
    Survey::take(list, selection, args.skip_invalid, path.parent().unwrap(), |_| ())
}

/// The list of these lines in a file of this name.
fn survey_of(name: &str, text: &str, options: &[&str]) -> Result<Survey, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    survey(&path, options)
}

fn feed(
    spool: Spool,
    sender: mpsc::Sender<SubmitJobRequest>,
    answered: CancellationToken,
) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let pipe = send::Pipe { sender, answered, runtime: runtime.handle().clone() };
    send::feed(spool, JobSpec::default(), &pipe)
}

/// What goes to the coordinator: rows of each batch and the number in the seal.
fn sent(spool: Spool) -> (Vec<Vec<PromptRow>>, Option<u64>) {
    let (sender, mut receiver) = mpsc::channel(1000);
    feed(spool, sender, CancellationToken::new()).unwrap();
    let (mut batches, mut seal) = (Vec::new(), None);
    while let Some(SubmitJobRequest { part }) = receiver.blocking_recv() {
        match part.unwrap() {
            Part::Spec(_) => assert!(batches.is_empty() && seal.is_none(), "the spec comes first"),
            Part::Batch(batch) => batches.push(batch.rows),
            Part::Seal(sealed) => seal = Some(sealed.rows),
        }
    }
    (batches, seal)
}

#[test]
fn rows_are_sent_as_they_are_in_batches_of_bounded_number_and_weight() {
    let short: String = (0..2500).map(|number| format!("prompt {number}\n\n")).collect();
    let (batches, seal) = sent(survey_of("list.txt", &short, &[]).unwrap().spool);
    assert_eq!((batches.iter().map(Vec::len).collect::<Vec<_>>(), seal), (vec![1000, 1000, 500], Some(2500)));
    for (index, row) in batches.concat().iter().enumerate() {
        assert_eq!(
            (row.prompt.as_str(), row.line),
            (format!("prompt {index}").as_str(), 2 * index as u64 + 1)
        );
    }
    let long = format!("{}\n", "long".repeat(4000)).repeat(300);
    let (batches, seal) = sent(survey_of("list.txt", &long, &[]).unwrap().spool);
    assert_eq!(seal, Some(300));
    assert!(batches.len() > 1 && batches.iter().all(|rows| rows.len() < 100), "{}", batches.len());
}

#[test]
fn a_coordinator_that_needs_no_more_rows_ends_the_reading() {
    let spool = || survey_of("list.txt", "a\n", &[]).unwrap().spool;
    let (sender, receiver) = mpsc::channel(1);
    drop(receiver);
    assert_eq!(feed(spool(), sender, CancellationToken::new()), Ok(()), "the stream is closed");
    let (sender, _receiver) = mpsc::channel(1);
    let answered = CancellationToken::new();
    answered.cancel();
    assert_eq!(feed(spool(), sender, answered), Ok(()), "the stream is open and nobody reads it");
}

#[test]
fn the_content_is_what_rows_say_and_not_where_they_stand() {
    let sum = |name: &str, text: &str, options: &[&str]| {
        survey_of(name, text, options).unwrap().spool.content_sha256
    };
    let first = sum("a.txt", "a\nb\n", &[]);
    assert_eq!(first, sum("b.jsonl", "\n\"a\"\n{\"text\":\"b\"}\n", &[]));
    assert_eq!(first, sum("b.json", "[\"a\",\"b\"]", &[]));
    assert_eq!(first, sum("a.txt", "a\nb\nc\n", &["--limit", "2"]));
    assert_eq!(first, sum("a.csv", "prompt,width\na,\n,7\nb,\n", &["--skip-invalid"]));
    assert_ne!(first, sum("a.txt", "b\na\n", &[]));
    assert_ne!(first, sum("a.txt", "ab\n", &[]));
    assert_ne!(first, sum("a.csv", "prompt,width\na,\nb,32\n", &[]));
}

#[test]
fn lines_after_the_limit_are_not_judged() {
    let text = "\"a\"\nnonsense\n";
    assert!(survey_of("list.jsonl", text, &[]).is_err());
    assert_eq!(survey_of("list.jsonl", text, &["--limit", "1"]).unwrap().spool.rows, 1);
}

#[test]
fn a_row_with_settings_beyond_the_limit_is_skipped_or_told_with_its_line() {
    let row = |number: u32| format!("p,{},{}\n", number % 1000 + 1, number / 1000 + 1);
    // The last but one is one more than a job may have, the last is known.
    let rows: String = (0..10_001).chain([17]).map(row).collect();
    let text = format!("prompt,steps,guidance\n{rows}");
    let refused = survey_of("list.csv", &text, &[]).unwrap_err();
    let what = "list.csv:10002: more than 10000 different sizes, steps and guidance scales in one list";
    assert!(refused.what.ends_with(what), "{}", refused.what);
    let survey = survey_of("list.csv", &text, &["--skip-invalid"]).unwrap();
    assert_eq!((survey.spool.rows, survey.skipped.count), (10_001, 1));
}

#[test]
fn lines_that_a_stray_quote_swallows_are_counted() {
    let survey = survey_of("list.csv", "prompt\na\n\"b\nc\nd\n", &["--skip-invalid"]).unwrap();
    assert_eq!((survey.spool.rows, survey.skipped.rows, survey.skipped.count), (1, 1, 3));
}

#[test]
fn a_list_that_cannot_be_copied_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("list.txt");
    std::fs::write(&path, "a\n").unwrap();
    let list = PromptList::open(&path, None, Chosen::default()).unwrap();
    let selection = Selection::new(&args(&[]), list.numbering().clone());
    let nowhere = folder.path().join("nowhere");
    let refused = Survey::take(list, selection, false, &nowhere, |_| ()).unwrap_err();
    assert_eq!(refused.what, format!("copy the list to a temporary file in {}", nowhere.display()));
}

fn spec(images_per_prompt: u32) -> JobSpec {
    let settings = Settings { width: 64, height: 64, steps: 4, guidance: 4.5, ..Settings::default() };
    JobSpec {
        settings: Some(settings),
        negative_prompt: "blur".to_owned(),
        seed: 10,
        images_per_prompt,
        ..JobSpec::default()
    }
}

/// Rows of a list after merging, and what merging did.
fn merged(text: &str, images_per_prompt: u32) -> (Vec<u64>, Merged) {
    let spool = survey_of("list.csv", text, &[]).unwrap().spool;
    let folder = tempfile::tempdir().unwrap();
    let (spool, merged) = duplicates::merge(spool, &spec(images_per_prompt), folder.path()).unwrap();
    (sent(spool).0.concat().iter().map(|row| row.line).collect(), merged)
}

const MANY_SAME: &str = "prompt,seed,width,steps,guidance,negative_prompt,note
a,7,,,,,first
a,7,64,4,4.5,blur,the same in other words
a,8,,,,,
a,7,96,,,,
a,7,,5,,,
a,7,,,1,,
a,7,,,,other,
b,7,,,,,
a,,,,,,has seed 17 at its place
a,17,,,,,
";

#[test]
fn later_copies_are_dropped_and_nothing_else() {
    let dropped = Merged { rows: 1, images: 1, left: 0 };
    // Without line 3 the row of line 10 has index 7 and thus seed 17.
    assert_eq!(merged(MANY_SAME, 1), (vec![2, 4, 5, 6, 7, 8, 9, 10], Merged { rows: 2, images: 2, left: 0 }));
    assert_eq!(merged("prompt,seed\na,\na,\na,10\n", 1), (vec![2, 3], dropped));
    // Of four copies two are new: a row is whole or dropped.
    let copies = "prompt,seed\na,0\na,2\na,2\n";
    assert_eq!(merged(copies, 4), (vec![2, 3], Merged { rows: 1, images: 4, left: 2 }));
}

#[test]
fn the_first_two_equal_rows_are_named() {
    let refused = |text: &str| {
        let survey = survey_of("list.csv", text, &[]).unwrap();
        let numbering = Numbering::by_line("list.csv");
        let mut spool = survey.spool;
        duplicates::refuse(&mut spool, &spec(1), &numbering).map_err(|error| error.what)
    };
    assert_eq!(refused(MANY_SAME), Err("list.csv:3: the same image as line 2".to_owned()));
    assert_eq!(refused("prompt,seed\na,1\na,2\nb,1\n"), Ok(()));
}

#[test]
fn duplicates_are_counted_by_image() {
    let mut spool = survey_of("list.csv", MANY_SAME, &[]).unwrap().spool;
    let spec = spec(2);
    let mut duplicates = Duplicates::new(&spec);
    let rows = spool.batches().unwrap().next().unwrap().unwrap().rows;
    let counts: Vec<u64> = rows.iter().map(|row| duplicates.add(row)).collect();
    // Two copies each: 7 and 8, then 8 and 9; the ninth row has index 16 and thus seeds 26 and 27.
    assert_eq!(counts, [0, 2, 1, 0, 0, 0, 0, 0, 0, 0]);
}

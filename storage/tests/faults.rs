//! Object stores that fail in the middle: each test is named for what goes wrong.

#![expect(clippy::unwrap_used, reason = "what is unexpected fails the test")]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sanafarm_storage::{Error, Found, Output, Patience, Put, Settings};
use sanafarm_test_servers::S3;
use sanafarm_test_servers::s3::{Fault, On};
use support::{content, get, impatience, impatient, output, patience};

mod support;

const MIB: usize = 1 << 20;
/// What takes longer has no end.
const HANGS: Duration = Duration::from_secs(150);

/// A file of four parts, the last one short.
fn four_parts(folder: &Path) -> std::path::PathBuf {
    let file = folder.join("local.tar");
    fs::write(&file, content(26 * MIB)).unwrap();
    file
}

async fn put(output: &Output) -> Result<Put, Error> {
    output.put_new("a.png", Bytes::from_static(b"picture")).await
}

#[tokio::test]
async fn a_few_500s_are_tried_again_and_too_many_are_told() {
    let s3 = S3::start();
    let output = output(&s3);
    let on = On::put("a.png");
    s3.inject(on.clone(), 3, Fault::internal());
    assert_eq!(put(&output).await, Ok(Put::Created));
    assert_eq!(s3.seen(&on), 4);

    s3.inject(On::put("b.png"), usize::MAX, Fault::internal());
    let error = output.put_new("b.png", Bytes::new()).await.unwrap_err();
    assert_eq!(
        error,
        Error::Unavailable(
            "write b.png in s3://farm/out, 4 times: the server answers 500 InternalError: a planned fault"
                .into()
        )
    );
    assert_eq!(s3.seen(&On::put("b.png")), 4, "not for ever");
}

#[tokio::test]
async fn a_server_that_is_asked_too_much_is_left_alone_for_as_long_as_it_says() {
    let s3 = S3::start();
    let output = output(&s3);
    s3.inject(On::put("a.png"), 1, Fault::slow_down(1));
    let start = Instant::now();
    assert_eq!(put(&output).await, Ok(Put::Created));
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(s3.seen(&On::put("a.png")), 2);

    // For all who use the bucket, and for no longer than we want: two seconds after each of four answers.
    s3.inject(On::put("b.png"), usize::MAX, Fault::slow_down(9999));
    let start = Instant::now();
    let error = output.put_new("b.png", Bytes::new()).await.unwrap_err();
    assert!(matches!(&error, Error::Unavailable(text) if text.contains("503 SlowDown")), "{error:?}");
    assert_eq!(output.put_new("c.png", Bytes::new()).await, Ok(Put::Created));
    assert!(start.elapsed() >= 4 * patience().longest_wait, "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_lost_answer_is_found_out_by_the_next_try() {
    let s3 = S3::start();
    let (output, impatient) = (output(&s3), impatient(&s3));
    for (name, fault, by) in [("a.png", Fault::LoseAnswer, &output), ("b.png", Fault::Silence, &impatient)] {
        s3.inject(On::put(name), 1, fault);
        let put = by.put_new(name, Bytes::from_static(b"picture")).await;
        assert_eq!(put, Ok(Put::Exists), "{name}: the caller compares");
        assert_eq!(get(&output, name).await, "picture");
    }
    assert_eq!(s3.seen(&On::put("a.png")), 2);
}

#[tokio::test]
async fn the_lost_answer_to_the_end_of_an_upload_is_no_error() {
    let s3 = S3::start();
    let output = output(&s3);
    let folder = tempfile::tempdir().unwrap();
    s3.inject(On::new("POST", "uploadId="), 1, Fault::LoseAnswer);
    let put = output.put_new_file("a.tar", &four_parts(folder.path())).await;
    assert_eq!(put, Ok(Put::Created));
    assert!(get(&output, "a.tar").await == content(26 * MIB));
    assert_eq!(s3.uploads(), Vec::<String>::new());
}

#[tokio::test]
async fn a_connection_that_is_reset_in_the_middle_of_a_part_is_tried_again() {
    let s3 = S3::start();
    let output = output(&s3);
    let folder = tempfile::tempdir().unwrap();
    let file = four_parts(folder.path());
    s3.inject(On::put("partNumber=2&"), 2, Fault::CutRequest(3 * MIB));
    s3.inject(On::put("partNumber=4&"), 1, Fault::internal());
    assert_eq!(output.put_new_file("a.tar", &file).await, Ok(Put::Created));
    assert!(get(&output, "a.tar").await == content(26 * MIB));

    s3.inject(On::put("partNumber=3&"), usize::MAX, Fault::CutRequest(3 * MIB));
    let error = output.put_new_file("b.tar", &file).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
    assert!(
        error.to_string().starts_with("write b.tar in s3://farm/out, 4 times: http://127.0.0.1:"),
        "{error}"
    );
    let replaced = output.replace_file("a.tar", &file).await.unwrap_err();
    assert!(matches!(replaced, Error::Unavailable(_)), "{replaced:?}");
    assert_eq!(s3.uploads(), Vec::<String>::new(), "what was begun is aborted");
    assert_eq!(output.size("b.tar").await, Ok(None));
    assert_eq!(output.size("a.tar").await, Ok(Some(26 * MIB as u64)), "the old one stays");
}

#[tokio::test]
async fn a_full_store_is_told_from_one_that_is_away_and_nothing_of_it_is_left() {
    let s3 = S3::start();
    let output = output(&s3);
    let folder = tempfile::tempdir().unwrap();
    s3.inject(On::put("partNumber=2&"), usize::MAX, Fault::Answer(507, "XMinioStorageFull", Vec::new()));
    let error = output.put_new_file("a.tar", &four_parts(folder.path())).await.unwrap_err();
    assert!(matches!(error, Error::Full(_)), "{error:?}");
    assert_eq!(s3.uploads(), Vec::<String>::new());
}

#[tokio::test]
async fn an_upload_that_nobody_waits_for_any_more_is_aborted() {
    let s3 = S3::start();
    let output = output(&s3);
    let folder = tempfile::tempdir().unwrap();
    let file = four_parts(folder.path());
    s3.inject(On::put("partNumber=4&"), usize::MAX, Fault::Silence);
    let upload = tokio::spawn(async move { output.put_new_file("a.tar", &file).await });
    while s3.seen(&On::put("partNumber=4&")) == 0 {
        tokio::task::yield_now().await;
    }
    upload.abort();
    assert!(upload.await.unwrap_err().is_cancelled());
    // Who ends now need not leave parts behind.
    sanafarm_storage::aborted(HANGS).await;
    assert_eq!(s3.uploads(), Vec::<String>::new());
}

#[tokio::test]
async fn a_slow_drip_is_cut_off() {
    let s3 = S3::start();
    output(&s3).put_new("a.tar", content(100_000).into()).await.unwrap();
    let output = impatient(&s3);
    // Once: read on from where it was cut.
    s3.inject(On::get("a.tar"), 1, Fault::Drip(Duration::from_millis(100)));
    assert_eq!(get(&output, "a.tar").await, content(100_000));
    // For ever.
    s3.inject(On::get("a.tar"), usize::MAX, Fault::Drip(Duration::from_millis(100)));
    let error = output.get("a.tar", u64::MAX).await.unwrap_err();
    assert!(matches!(&error, Error::Unavailable(text) if text.contains("cut off")), "{error:?}");
    assert!(error.to_string().starts_with("read a.tar in s3://farm/out"), "{error}");
}

#[tokio::test]
async fn a_server_that_says_nothing_is_not_waited_for_for_ever() {
    let s3 = S3::start();
    let output = impatient(&s3);
    s3.inject(On::get("a.png"), usize::MAX, Fault::Silence);
    let error = output.get("a.png", 1).await.unwrap_err();
    assert!(
        matches!(&error, Error::Unavailable(text) if text.contains("cut off: 0 bytes in 1.5s")),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_server_that_does_not_answer_to_what_it_has_is_waited_for_no_longer_than_for_silence() {
    let s3 = S3::start();
    // Slow lines are borne: by this alone, 8 MiB would be waited for for days.
    let patience = Patience { slowest: 10, retries: 0, ..impatience() };
    let output =
        Output::open_with("s3://farm/out", &Settings { options: s3.environment(), patience }).unwrap();
    let folder = tempfile::tempdir().unwrap();
    s3.inject(On::put("a.png"), 1, Fault::Silence);
    s3.inject(On::put("partNumber=2&"), 1, Fault::Silence);
    let tar = four_parts(folder.path());
    let puts = async {
        [
            output.put_new("a.png", content(MIB).into()).await.unwrap_err(),
            output.put_new_file("a.tar", &tar).await.unwrap_err(),
        ]
    };
    for error in tokio::time::timeout(HANGS, puts).await.expect("it is cut off") {
        assert!(matches!(&error, Error::Unavailable(text) if text.contains("cut off: ")), "{error:?}");
    }
}

/// It is alive and takes no more bytes.
#[tokio::test]
async fn a_server_that_stops_reading_is_noticed() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        std::future::pending::<()>().await;
        drop(stream);
    });
    let options = [
        ("AWS_ENDPOINT_URL", format!("http://{address}")),
        ("AWS_ALLOW_HTTP", "true".to_owned()),
        ("AWS_ACCESS_KEY_ID", "farm".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "farm".to_owned()),
    ];
    let options = options.map(|(name, value)| (name.to_owned(), value)).to_vec();
    let patience = Patience { slowest: 10, retries: 0, ..impatience() };
    let output = Output::open_with("s3://farm/out", &Settings { options, patience }).unwrap();
    // The operating system notices: the HTTP client tells it to, after half a minute.
    let put = tokio::time::timeout(HANGS, output.put_new("a.png", content(32 * MIB).into())).await;
    let error = put.expect("it is cut off").unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
    server.abort();
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_taken_up_again() {
    let s3 = S3::start();
    let output = output(&s3);
    output.put_new("a.tar", content(MIB).into()).await.unwrap();
    s3.inject(On::get("a.tar"), 3, Fault::CutAnswer(100_000));
    assert_eq!(get(&output, "a.tar").await, content(MIB));
    assert_eq!(s3.seen(&On::get("a.tar")), 4);
}

#[tokio::test]
async fn a_refusal_is_not_tried_again() {
    let s3 = S3::start();
    let output = output(&s3);
    output.put_new("b.png", Bytes::new()).await.unwrap();
    s3.inject(On::new("", ""), usize::MAX, Fault::denied());
    let before = s3.seen(&On::new("", ""));
    let errors = [
        put(&output).await.map(drop),
        output.replace("a.png", Bytes::new()).await,
        output.get("a.png", 1).await.map(drop),
        output.size("a.png").await.map(drop),
        output.remove("b.png").await.map(drop),
        output.publish("b.png", "c.png").await.map(drop),
        output.check_writable().await,
    ];
    for error in &errors {
        assert!(matches!(error, Err(Error::Denied(text)) if text.contains("403")), "{error:?}");
    }
    assert_eq!(s3.seen(&On::new("", "")) - before, errors.len());
}

#[tokio::test]
async fn publishing_survives_lost_answers_and_500s() {
    let s3 = S3::start();
    let output = output(&s3);
    let write = async |name: &str| output.put_new(name, Bytes::from_static(b"whole")).await.unwrap();
    write("try/a").await;
    s3.inject(On::new("POST", "/out/a?"), 1, Fault::internal());
    s3.inject(On::new("DELETE", "try/a"), 2, Fault::internal());
    assert_eq!(output.publish("try/a", "a").await, Ok(Put::Created));

    write("try/b").await;
    s3.inject(On::new("POST", "/out/b?uploadId"), 1, Fault::LoseAnswer);
    assert_eq!(output.publish("try/b", "b").await, Ok(Put::Exists), "the caller compares");
    assert_eq!(get(&output, "b").await, "whole");

    write("try/c").await;
    s3.inject(On::new("DELETE", "try/c"), usize::MAX, Fault::denied());
    let error = output.publish("try/c", "c").await.unwrap_err();
    assert!(matches!(error, Error::Denied(_)), "{error:?}");
    s3.heal();
    assert_eq!(output.publish("try/c", "c").await, Ok(Put::Exists));
    assert_eq!(s3.uploads(), Vec::<String>::new());
}

#[tokio::test]
async fn a_server_that_comes_back_is_reached_again() {
    let mut s3 = S3::start();
    let output = output(&s3);
    assert_eq!(put(&output).await, Ok(Put::Created));
    s3.kill();
    let error = output.get("a.png", 100).await.unwrap_err();
    assert!(matches!(&error, Error::Unavailable(text) if text.contains("Connection refused")), "{error:?}");
    assert!(
        error.to_string().starts_with("read a.png in s3://farm/out, 4 times: http://127.0.0.1:"),
        "{error}"
    );
    s3.restart();
    assert_eq!(output.get("a.png", 100).await, Ok(Found::Object(Bytes::from_static(b"picture"))));
    assert_eq!(patience().retries, 3, "the texts above say 4 times");
}

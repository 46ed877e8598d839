//! Objects by signed URLs: workers without keys.

#![expect(clippy::unwrap_used, reason = "what is unexpected fails the test")]

use std::fs;
use std::time::Duration;

use bytes::Bytes;
use sanafarm_storage::{Access, Error, Found, Output, Put, Signed};
use sanafarm_test_servers::S3;
use sanafarm_test_servers::s3::{Fault, On};
use support::{content, get, impatience, output, patience};
use url::Url;

mod support;

const MIB: usize = 1 << 20;
const MINUTE: Duration = Duration::from_secs(60);

fn signed() -> Signed {
    Signed::with_patience(patience()).unwrap()
}

async fn url(output: &Output, access: Access) -> Url {
    output.sign("sub/a.png", access, MINUTE).await.unwrap()
}

#[tokio::test]
async fn who_has_a_url_writes_one_new_object_and_reads_one() {
    let s3 = S3::start();
    let output = output(&s3);
    let signed = signed();
    let (write, read) = (url(&output, Access::Put).await, url(&output, Access::Get).await);
    assert_eq!(signed.get(&read, 9).await, Ok(Found::Nothing));
    let picture = Bytes::from_static(b"picture");
    assert_eq!(signed.put_new(&write, picture.clone()).await, Ok(Put::Created));
    assert_eq!(signed.put_new(&write, Bytes::new()).await, Ok(Put::Exists));
    assert_eq!(signed.get(&read, 7).await, Ok(Found::Object(picture)));
    assert_eq!(signed.get(&read, 6).await, Ok(Found::Larger));
    // What is signed for one thing is good for nothing else.
    for refused in
        [signed.put_new(&read, Bytes::new()).await.map(drop), signed.get(&write, 9).await.map(drop)]
    {
        assert!(matches!(refused, Err(Error::Denied(_))), "{refused:?}");
    }
    assert_eq!(get(&output, "sub/a.png").await, "picture");
}

#[tokio::test]
async fn a_large_file_goes_up_by_one_url() {
    let s3 = S3::start();
    let output = output(&s3);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.tar");
    fs::write(&file, content(20 * MIB)).unwrap();
    let url = url(&output, Access::Put).await;
    s3.inject(On::put("a.png"), 1, Fault::CutRequest(5 * MIB));
    assert_eq!(signed().put_new_file(&url, &file).await, Ok(Put::Created));
    assert_eq!(signed().put_new_file(&url, &file).await, Ok(Put::Exists));
    assert!(get(&output, "sub/a.png").await == content(20 * MIB));
}

#[tokio::test]
async fn a_url_that_was_changed_or_has_expired_is_refused() {
    let s3 = S3::start();
    let output = output(&s3);
    let url = url(&output, Access::Put).await;
    let expired = output.sign("sub/a.png", Access::Put, Duration::ZERO).await.unwrap();
    let other = url.as_str().replace("/a.png", "/b.png");
    let mut signature = url.to_string();
    let last = signature.pop().unwrap();
    signature.push(if last == '0' { '1' } else { '0' });
    let longer = url.as_str().replace("X-Amz-Expires=60", "X-Amz-Expires=600");
    for changed in [other, signature, longer, expired.to_string()] {
        assert_ne!(changed, url.as_str());
        let refused = signed().put_new(&Url::parse(&changed).unwrap(), Bytes::new()).await.unwrap_err();
        assert!(matches!(refused, Error::Denied(_)), "{refused:?}");
        let text = refused.to_string();
        assert!(text.starts_with(&format!("write {}/farm/out/sub/", s3.endpoint())), "{text}");
        assert!(!text.contains("Signature="), "{text}");
    }
    assert!(!s3.file("farm", "out").exists());
}

#[tokio::test]
async fn who_has_a_url_cannot_overwrite() {
    let s3 = S3::start();
    let output = output(&s3);
    let url = url(&output, Access::Put).await;
    // Without the condition the signature is wrong.
    let answer = reqwest::Client::new().put(url).body("mine").send().await.unwrap();
    assert_eq!(answer.status(), 403);
}

#[tokio::test]
async fn what_comes_damaged_by_a_signed_url_is_tried_again() {
    let s3 = S3::start();
    let output = output(&s3);
    s3.inject(On::put("a.png"), usize::MAX, Fault::Damage);
    let url = url(&output, Access::Put).await;
    let damaged = signed().put_new(&url, content(1000).into()).await.unwrap_err();
    assert!(matches!(&damaged, Error::Unavailable(text) if text.contains("BadDigest")), "{damaged:?}");
}

#[tokio::test]
async fn faults_are_borne_as_with_keys() {
    let s3 = S3::start();
    let output = output(&s3);
    let signed = signed();
    let on = On::put("a.png");
    s3.inject(on.clone(), 1, Fault::internal());
    s3.inject(on.clone(), 1, Fault::slow_down(1));
    s3.inject(on.clone(), 1, Fault::LoseAnswer);
    let write = url(&output, Access::Put).await;
    let start = std::time::Instant::now();
    assert_eq!(signed.put_new(&write, content(100_000).into()).await, Ok(Put::Exists));
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(s3.seen(&on), 4);

    let read = url(&output, Access::Get).await;
    s3.inject(On::get("a.png"), 1, Fault::CutAnswer(1000));
    assert_eq!(signed.get(&read, u64::MAX).await, Ok(Found::Object(content(100_000).into())));

    let signed = Signed::with_patience(impatience()).unwrap();
    s3.inject(On::get("a.png"), 1, Fault::Drip(Duration::from_millis(100)));
    assert_eq!(signed.get(&read, u64::MAX).await, Ok(Found::Object(content(100_000).into())));

    s3.inject(On::get("a.png"), usize::MAX, Fault::Silence);
    let silent = signed.get(&read, 1).await.unwrap_err();
    assert!(matches!(&silent, Error::Unavailable(text) if text.contains(", 4 times: cut off")), "{silent:?}");
    s3.heal();
    s3.inject(On::get("a.png"), usize::MAX, Fault::denied());
    let before = s3.seen(&On::get("a.png"));
    let denied = signed.get(&read, 1).await.unwrap_err();
    assert!(matches!(denied, Error::Denied(_)), "{denied:?}");
    assert_eq!(s3.seen(&On::get("a.png")) - before, 1);
}

#[tokio::test]
async fn a_folder_cannot_sign() {
    let folder = tempfile::tempdir().unwrap();
    let output = Output::open(folder.path().to_str().unwrap()).unwrap();
    let error = output.sign("a.png", Access::Put, MINUTE).await.unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error:?}");
}

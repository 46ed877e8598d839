//! Workers without keys of the object store: the coordinator signs a URL for each object. Against a real S3 server.

use std::path::Path;

use sanafarm_proto::v1::*;
use sanafarm_storage::{Found, Output, Settings};
use sanafarm_test_servers::S3;
use sanafarm_test_servers::s3::{Fault, On};

use super::coordinator::State;
use super::{Farm, shard};

/// The bucket, for those who have its keys.
fn bucket(s3: &S3) -> Output {
    let settings = Settings { options: s3.environment(), ..Settings::default() };
    Output::open_with("s3://farm/out", &settings).unwrap()
}

/// A shard whose pictures go there.
fn presigned(mut lease: Lease) -> Lease {
    lease.output = "s3://farm/out".into();
    lease.presigned = true;
    lease
}

fn signs(s3: &S3) -> impl FnOnce(&mut State) {
    let bucket = bucket(s3);
    move |state| state.signer = Some(bucket)
}

async fn stored(s3: &S3, object: &str) -> Vec<u8> {
    match bucket(s3).get(object, u64::MAX).await.unwrap() {
        Found::Object(bytes) => bytes.into(),
        other => panic!("{object}: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pictures_are_written_to_urls_that_the_coordinator_signs() {
    let s3 = S3::start();
    let folder = tempfile::tempdir().unwrap();
    let shards = |out: &Path, model: &Path| vec![presigned(shard("a", 0, &["x", "y", "z"], out, model))];
    let mut farm = Farm::start_in(folder, shards, signs(&s3)).await;
    assert_eq!(farm.finish(3).await.done, 3);
    for index in 0..3 {
        let done = farm.coordinator().state().done(index);
        assert_eq!(done.sha256, crate::picture::sha256(&stored(&s3, &done.object).await));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tar_is_written_to_a_url_that_the_coordinator_signs() {
    let s3 = S3::start();
    let folder = tempfile::tempdir().unwrap();
    let shards = |out: &Path, model: &Path| {
        let mut lease = presigned(shard("a", 0, &["x", "y"], out, model));
        lease.form.as_mut().unwrap().layout = Layout::Webdataset.into();
        lease.archive = ".staging/a-1.tar".into();
        vec![lease]
    };
    let mut farm = Farm::start_in(folder, shards, signs(&s3)).await;
    assert_eq!(farm.finish(2).await.done, 2);
    let archive = farm.coordinator().state().archives[0].1.clone();
    assert_eq!(archive.sha256, crate::picture::sha256(&stored(&s3, ".staging/a-1.tar").await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_worker_kept_is_signed_for_its_old_attempt() {
    let s3 = S3::start();
    s3.inject(On::put("/farm/out"), usize::MAX, Fault::internal());
    let folder = tempfile::tempdir().unwrap();
    let lease = |out: &Path, model: &Path| presigned(shard("a", 0, &["x", "y"], out, model));
    let first = Farm::start_in(folder, |out, model| vec![lease(out, model)], signs(&s3)).await;
    first.coordinator().until("both are kept", |state| state.stats.outbox_images == 2).await;
    let folder = first.kill().await;
    s3.heal();
    let mut second = Farm::start_in(folder, |_, _| vec![], signs(&s3)).await;
    assert_eq!(second.finish(2).await.done, 2);
    assert!(second.watch.started().is_empty());
    let done = second.coordinator().state().done(1);
    assert_eq!(done.sha256, crate::picture::sha256(&stored(&s3, &done.object).await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_does_not_sign_ends_the_worker_with_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let shards = |out: &Path, model: &Path| vec![presigned(shard("a", 0, &["x", "y"], out, model))];
    let mut farm = Farm::start_in(folder, shards, |_| {}).await;
    let error = farm.end().await.unwrap_err();
    assert!(error.to_string().contains("this coordinator signs no URLs"), "{error}");
}

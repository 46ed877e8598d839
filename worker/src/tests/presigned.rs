//! Workers without keys of the object store: the coordinator signs a URL for each object. Against a real S3 server.

use std::path::Path;
use std::time::Duration;

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
async fn an_output_that_is_not_signed_for_is_left_to_others_and_ends_a_worker_for_one_job() {
    for only in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let shards = |out: &Path, model: &Path| {
            let good = Lease { job_id: "other".into(), ..shard("b", 100, &["z"], out, model) };
            vec![presigned(shard("a", 0, &["x", "y"], &out.with_file_name("signed"), model)), good]
        };
        let only_job = |options: &mut crate::Options| options.job = only.then(|| "job".to_owned());
        let mut farm = Farm::start_with(folder, shards, |_| {}, only_job).await;
        let said = "this coordinator signs no URLs";
        if only {
            let error = farm.end().await.unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        } else {
            let rendered = |state: &State| state.results.contains_key(&100) && !state.releases.is_empty();
            farm.coordinator().until("another job is rendered", rendered).await;
            farm.shutdown.soft.cancel();
            farm.end().await.unwrap();
        }
        let state = farm.coordinator().state();
        let (lease, reason, message) = &state.releases[0];
        assert_eq!((lease.shard_id.as_str(), *reason), ("a", ReleaseReason::Storage));
        assert!(message.contains(said), "{message}");
        assert_eq!(state.opened.len(), 1, "a new session would lose all leases of this one");
    }
}

/// The same shard with thumbnails.
fn with_thumbnails(mut lease: Lease) -> Lease {
    lease.form.as_mut().unwrap().thumbnails = true;
    for image in &mut lease.images {
        image.thumbnail = format!("thumbnails/{:04}.jpg", image.index);
    }
    lease
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_objects_of_a_lease_are_signed_in_one_call() {
    let s3 = S3::start();
    let folder = tempfile::tempdir().unwrap();
    let shards = |out: &Path, model: &Path| {
        let mut tar = with_thumbnails(presigned(shard("b", 20, &["x"; 12], out, model)));
        tar.form.as_mut().unwrap().layout = Layout::Webdataset.into();
        tar.archive = ".staging/b-1.tar".into();
        vec![with_thumbnails(presigned(shard("a", 0, &["x"; 12], out, model))), tar]
    };
    let mut farm = Farm::start_in(folder, shards, signs(&s3)).await;
    assert_eq!(farm.finish(24).await.done, 24);
    let mut calls: Vec<usize> = farm.coordinator().state().signed.iter().map(Vec::len).collect();
    calls.sort_unstable();
    assert_eq!(calls, [13, 24], "thumbnails and a tar, thumbnails and pictures");
    assert_eq!(s3.seen(&On::put("thumbnails/")), 24);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_worker_kept_of_a_lease_is_signed_in_one_call() {
    let s3 = S3::start();
    s3.inject(On::put("/farm/out"), usize::MAX, Fault::internal());
    let folder = tempfile::tempdir().unwrap();
    let shards =
        |out: &Path, model: &Path| vec![with_thumbnails(presigned(shard("a", 0, &["x"; 6], out, model)))];
    let first = Farm::start_in(folder, shards, signs(&s3)).await;
    first.coordinator().until("all are kept", |state| state.stats.outbox_images == 6).await;
    let folder = first.kill().await;
    s3.heal();
    let mut second = Farm::start_in(folder, |_, _| vec![], signs(&s3)).await;
    assert_eq!(second.finish(6).await.done, 6);
    let calls: Vec<usize> = second.coordinator().state().signed.iter().map(Vec::len).collect();
    assert_eq!(calls, [12]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_url_that_was_kept_and_is_refused_is_asked_for_again() {
    let s3 = S3::start();
    let folder = tempfile::tempdir().unwrap();
    let shards = |out: &Path, model: &Path| vec![presigned(shard("a", 0, &["x", "wait"], out, model))];
    let mut farm = Farm::start_in(folder, shards, signs(&s3)).await;
    farm.coordinator().until("the first is stored", |state| state.results.len() == 1).await;
    // As when the keys that it was signed with have ended.
    s3.inject(On::put("0001.png"), 1, Fault::denied());
    farm.watch.open();
    assert_eq!(farm.finish(2).await.done, 2);
    assert_eq!(farm.coordinator().state().signed.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thumbnails_of_a_tar_are_put_at_the_same_time() {
    let mut s3 = S3::start();
    // Each is written, and its answer stays away.
    s3.inject(On::put("thumbnails/"), usize::MAX, Fault::Silence);
    let folder = tempfile::tempdir().unwrap();
    let shards = |out: &Path, model: &Path| {
        let mut lease = with_thumbnails(presigned(shard("a", 0, &["x"; 5], out, model)));
        lease.form.as_mut().unwrap().layout = Layout::Webdataset.into();
        lease.archive = ".staging/a-1.tar".into();
        vec![lease]
    };
    let few = |options: &mut crate::Options| options.uploads = 3;
    let mut farm = Farm::start_with(folder, shards, signs(&s3), few).await;
    let at_once = async {
        while s3.seen(&On::put("thumbnails/")) < 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(40), at_once).await.expect("three are on their way");
    // Another one would have come by the time that the worker has renewed its lease a few times.
    let renewed = farm.coordinator().state().renewals.len();
    farm.coordinator().until("renewals", |state| state.renewals.len() >= renewed + 4).await;
    assert_eq!(s3.seen(&On::put("thumbnails/")), 3, "no more than may be");
    s3.heal();
    s3.restart();
    assert_eq!(farm.finish(5).await.done, 5);
}

/// A database that was put back to a time before the lease knows nothing of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kept_pictures_of_a_lease_that_nobody_gave_out_are_set_aside_and_rendered_again() {
    let s3 = S3::start();
    s3.inject(On::put("/farm/out"), usize::MAX, Fault::internal());
    for tar in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let lease = |attempt: u32, out: &Path, model: &Path| {
            let mut lease = presigned(shard("a", 0, &["x", "y"], out, model));
            lease.r#ref.as_mut().unwrap().attempt = attempt;
            if tar {
                lease.form.as_mut().unwrap().layout = Layout::Webdataset.into();
                lease.archive = format!(".staging/a-{attempt}.tar");
            }
            lease
        };
        let first = Farm::start_in(folder, |out, model| vec![lease(1, out, model)], signs(&s3)).await;
        first.coordinator().until("both are kept", |state| state.stats.outbox_images == 2).await;
        let folder = first.kill().await;
        s3.heal();
        let mut second = Farm::start_in(
            folder,
            |out, model| vec![lease(2, out, model)],
            |state| {
                signs(&s3)(state);
                state.unknown_attempt = Some(1);
            },
        )
        .await;
        assert_eq!(second.finish(2).await.done, 2);
        assert_eq!(second.watch.started().len(), 2);
        let refused = second.folder.path().join("cache/outbox/worker-1/refused");
        assert_eq!(std::fs::read_dir(refused).unwrap().count(), 4, "two records and two pictures");
        s3.inject(On::put("/farm/out"), usize::MAX, Fault::internal());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kept_pictures_wait_for_a_coordinator_that_signs_nothing_at_the_moment() {
    let s3 = S3::start();
    s3.inject(On::put("/farm/out"), usize::MAX, Fault::internal());
    let folder = tempfile::tempdir().unwrap();
    let shards = |out: &Path, model: &Path| vec![presigned(shard("a", 0, &["x"], out, model))];
    let first = Farm::start_in(folder, shards, signs(&s3)).await;
    first.coordinator().until("it is kept", |state| state.stats.outbox_images == 1).await;
    let folder = first.kill().await;
    let mut second = Farm::start_in(folder, |_, _| vec![], |_| {}).await;
    let told = |state: &State| state.stats.trouble.contains("this coordinator signs no URLs");
    second.coordinator().until("the trouble is told", told).await;
    // A new session would lose all leases of this one.
    assert_eq!(second.coordinator().state().opened.len(), 1);
    second.shutdown.hard.cancel();
    assert_eq!(second.end().await.unwrap().kept, 1);
    assert!(!second.folder.path().join("cache/outbox/worker-1/refused").exists());
}

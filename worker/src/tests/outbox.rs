//! What survives the worker, its network and its output.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sanafarm_proto::v1::*;
use tempfile::TempDir;
use tonic::Code;

use super::{Farm, shard};
use crate::Error;
use crate::outbox::record::{self, Record};

/// An output where names below `sub` cannot be written for a while: their folder is a link to itself.
pub(super) fn unreachable(folder: &TempDir) -> PathBuf {
    let out = folder.path().join("out");
    std::fs::create_dir_all(&out).unwrap();
    let link = out.join("sub");
    std::os::unix::fs::symlink("sub", &link).unwrap();
    link
}

/// A shard whose pictures belong there.
pub(super) fn below(mut lease: Lease) -> Lease {
    for image in &mut lease.images {
        image.object = format!("sub/deep/{}", image.object);
    }
    lease
}

/// The same shard, granted once more.
fn again(mut lease: Lease) -> Lease {
    lease.r#ref.as_mut().unwrap().attempt += 1;
    lease
}

pub(super) fn outbox(folder: &TempDir) -> PathBuf {
    folder.path().join("cache/outbox/worker-1")
}

/// Files of this ending in the outbox, in order.
pub(super) fn kept(folder: &TempDir, ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(outbox(folder)).unwrap();
    let mut found: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.to_str().unwrap().ends_with(ending));
    found.sort();
    found
}

/// Where the picture of an image lies in the outbox: beside its record. Their names tell nothing of its index.
pub(super) fn picture_of(folder: &TempDir, index: u64) -> PathBuf {
    let is_of = |path: &PathBuf| {
        let record: Result<Record, _> = record::read(&std::fs::read(path).unwrap());
        record.is_ok_and(|record| record.index == index)
    };
    let record = kept(folder, ".json").into_iter().find(is_of);
    record.unwrap_or_else(|| panic!("image {index} is not kept")).with_extension("picture")
}

#[tokio::test]
async fn worker_killed_between_upload_and_report_reports_when_it_is_started_again() {
    let folder = tempfile::tempdir().unwrap();
    let shards = |out: &Path, model: &Path| vec![shard("a", 0, &["x", "y"], out, model)];
    let away = |state: &mut super::coordinator::State| {
        state.away.insert("report", Code::Unavailable);
    };
    let first = Farm::start_in(folder, shards, away).await;
    let stored = |state: &super::coordinator::State| state.stats.outbox_images == 2;
    first.coordinator().until("both are kept", stored).await;
    let picture = first.folder.path().join("out/0001.png");
    while !picture.exists() || !kept(&first.folder, ".picture").is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let folder = first.kill().await;
    let written = std::fs::metadata(&picture).unwrap().modified().unwrap();

    let shards = |out: &Path, model: &Path| vec![again(shard("a", 0, &["x", "y"], out, model))];
    let mut second = Farm::start_in(folder, shards, |_| {}).await;
    assert_eq!(second.finish(2).await.done, 2);
    assert!(second.watch.started().is_empty(), "rendered again: {:?}", second.watch.started());
    let state = second.coordinator().state();
    assert_eq!((state.accepted, state.known), (2, 0));
    assert_eq!(state.done(1).sha256, crate::picture::sha256(&second.file("0001.png")));
    assert_eq!(std::fs::metadata(&picture).unwrap().modified().unwrap(), written, "not written again");
    assert!(kept(&second.folder, "").is_empty(), "acknowledged: {:?}", kept(&second.folder, ""));
}

/// The lease was given before the kept results were committed, and comes after they were acknowledged.
#[tokio::test]
async fn a_lease_that_a_report_has_overtaken_renders_nothing_again() {
    let folder = tempfile::tempdir().unwrap();
    let shards = |out: &Path, model: &Path| vec![shard("a", 0, &["x", "y"], out, model)];
    let away = |state: &mut super::coordinator::State| {
        state.away.insert("report", Code::Unavailable);
    };
    let first = Farm::start_in(folder, shards, away).await;
    first.coordinator().until("both are kept", |state| state.stats.outbox_images == 2).await;
    while !kept(&first.folder, ".picture").is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let folder = first.kill().await;

    let shards = |out: &Path, model: &Path| vec![again(shard("a", 0, &["x", "y", "z"], out, model))];
    let slow = |state: &mut super::coordinator::State| {
        away(state);
        state.slow_leases = true;
    };
    let mut second = Farm::start_in(folder, shards, slow).await;
    second.coordinator().until("the lease is given", |state| state.leased.contains_key("a")).await;
    second.coordinator().change(|state| state.away.clear());
    second.coordinator().until("both are committed", |state| state.results.len() == 2).await;
    while !kept(&second.folder, "").is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    second.coordinator().change(|state| state.slow_leases = false);
    assert_eq!(second.finish(3).await.done, 3);
    assert_eq!(second.watch.started(), ["z"]);
    let state = second.coordinator().state();
    assert_eq!((state.accepted, state.known), (3, 0));
}

#[tokio::test]
async fn worker_killed_between_rendering_and_upload_uploads_when_it_is_started_again() {
    let folder = tempfile::tempdir().unwrap();
    let link = unreachable(&folder);
    let lease = |out: &Path, model: &Path| below(shard("a", 0, &["x", "y", "z"], out, model));
    let first = Farm::start_in(folder, |out, model| vec![lease(out, model)], |_| {}).await;
    first.coordinator().until("all are kept", |state| state.stats.outbox_images == 3).await;
    first
        .coordinator()
        .until("the trouble is told", |state| {
            state.stats.trouble.contains("sub/deep/000") && state.stats.trouble.contains("wait")
        })
        .await;
    let folder = first.kill().await;
    std::fs::remove_file(link).unwrap();

    let mut second = Farm::start_in(folder, |out, model| vec![again(lease(out, model))], |_| {}).await;
    assert_eq!(second.finish(3).await.done, 3);
    assert!(second.watch.started().is_empty(), "rendered again: {:?}", second.watch.started());
    let state = second.coordinator().state();
    for index in 0..3 {
        let done = state.done(index);
        assert_eq!(done.sha256, crate::picture::sha256(&second.file(&done.object)));
    }
    drop(state);
    assert!(kept(&second.folder, "").is_empty());
}

#[tokio::test]
async fn an_output_that_comes_back_gets_all_that_waited_and_blames_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let link = unreachable(&folder);
    let shards = |out: &Path, model: &Path| {
        let other =
            Lease { job_id: "other".into(), ..shard("b", 5, &["o"], &out.with_file_name("out2"), model) };
        vec![below(shard("a", 0, &["x", "y"], out, model)), other]
    };
    let mut farm = Farm::start_in(folder, shards, |_| {}).await;
    let coordinator = farm.coordinator();
    coordinator.until("another output goes on", |state| state.results.contains_key(&5)).await;
    coordinator
        .until("its images wait, and one was tried", |state| {
            state.stats.outbox_images == 2 && state.stats.trouble.contains("sub/deep/000")
        })
        .await;
    std::fs::remove_file(link).unwrap();
    let summary = farm.finish(3).await;
    assert_eq!((summary.done, summary.failed, summary.kept), (3, 0, 0));
    assert_eq!(farm.watch.started().len(), 3);
    let state = farm.coordinator().state();
    assert!(state.releases.is_empty());
    let log = |index| state.results[&index].log.clone();
    let late = |index: u64| {
        let told = log(index);
        let late = told.lines().find(|line| line.contains("WARN not stored, tried again"));
        late.map(|line| line.contains("write sub/deep/000"))
    };
    // Whichever was kept first was tried first; the other one waited for it.
    let told: Vec<_> = [0, 1].into_iter().filter_map(late).collect();
    assert!(!told.is_empty() && told.iter().all(|why| *why), "an image tells why it is late: {}", log(0));
    assert_eq!(late(5), None, "{}", log(5));
}

#[tokio::test]
async fn cut_off_from_the_coordinator_the_worker_goes_on_and_reports_later() {
    let folder = tempfile::tempdir().unwrap();
    let shards = |out: &Path, model: &Path| vec![shard("a", 0, &["wait", "x", "y", "z"], out, model)];
    let mut farm = Farm::start_in(folder, shards, |_| {}).await;
    farm.begun(0).await;
    farm.coordinator().change(|state| {
        for call in ["lease", "renew", "report", "release"] {
            state.away.insert(call, Code::Unavailable);
        }
    });
    farm.watch.open();
    let last = farm.folder.path().join("out/0003.png");
    while !last.exists() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(farm.coordinator().state().results.is_empty());
    // Meanwhile its lease has expired, and nobody took it.
    farm.coordinator().change(|state| {
        state.away.clear();
        state.sessions.clear();
        let (lease, _) = state.leased.remove("a").unwrap();
        state.ready.push_back(again(lease));
    });
    let summary = farm.finish(4).await;
    assert_eq!(summary.done, 4);
    assert_eq!(farm.watch.started(), ["wait", "x", "y", "z"]);
    assert_eq!(farm.coordinator().state().accepted, 4);
}

#[tokio::test]
async fn corrupt_records_are_set_aside_and_named_and_their_images_rendered_again() {
    let folder = tempfile::tempdir().unwrap();
    let link = unreachable(&folder);
    let prompts = ["flipped", "torn", "short", "gone", "whole"];
    let lease = |out: &Path, model: &Path| below(shard("a", 0, &prompts, out, model));
    let first = Farm::start_in(folder, |out, model| vec![lease(out, model)], |_| {}).await;
    first.coordinator().until("all are kept", |state| state.stats.outbox_images == 5).await;
    let folder = first.kill().await;
    std::fs::remove_file(link).unwrap();
    let [flipped, torn, short, gone] = [0, 1, 2, 3].map(|index| picture_of(&folder, index));
    let mut bytes = std::fs::read(&flipped).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&flipped, bytes).unwrap();
    let torn = torn.with_extension("json");
    let bytes = std::fs::read(&torn).unwrap();
    std::fs::write(&torn, &bytes[..bytes.len() / 2]).unwrap();
    std::fs::File::options().write(true).open(&short).unwrap().set_len(100).unwrap();
    std::fs::remove_file(&gone).unwrap();
    // What a killed writer leaves is no entry.
    std::fs::write(outbox(&folder).join(format!("{}.picture", "0".repeat(32))), "half").unwrap();

    let mut second = Farm::start_in(folder, |out, model| vec![again(lease(out, model))], |_| {}).await;
    second
        .coordinator()
        .until("the trouble is told", |state| state.stats.trouble.matches("corrupt record").count() == 4)
        .await;
    assert_eq!(second.finish(5).await.done, 5);
    assert_eq!(second.watch.started(), &prompts[..4]);
    let aside = std::fs::read_dir(outbox(&second.folder).join("corrupt")).unwrap().count();
    assert_eq!(aside, 7, "four records and three pictures");
    assert!(kept(&second.folder, ".picture").is_empty());
}

#[tokio::test]
async fn an_outbox_on_a_full_disk_lets_pictures_pass_through_memory() {
    let folder = tempfile::tempdir().unwrap();
    let shards = |out: &Path, model: &Path| vec![shard("a", 0, &["wait", "x", "y"], out, model)];
    let mut farm = Farm::start_in(folder, shards, |_| {}).await;
    farm.coordinator().until("it has begun", |state| !state.renewals.is_empty()).await;
    let gone = outbox(&farm.folder);
    std::fs::remove_dir_all(&gone).unwrap();
    farm.watch.open();
    let told = |state: &super::coordinator::State| state.stats.trouble.contains("write to the outbox");
    farm.coordinator().until("the trouble is told", told).await;
    assert_eq!(farm.finish(3).await.done, 3);
}

#[tokio::test]
async fn two_workers_never_share_an_outbox() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let farm = Farm::start_in(folder, |_, _| vec![], |_| {}).await;
    farm.coordinator().until("the first is there", |state| !state.renewals.is_empty()).await;
    let folder = tempfile::tempdir().unwrap();
    let share = |options: &mut crate::Options| options.outbox.folder = cache.join("outbox");
    let mut second = Farm::start_with(folder, |_, _| vec![], |_| {}, share).await;
    let error = second.end().await.unwrap_err();
    assert!(matches!(&error, Error::OutboxInUse(text) if text.contains("another worker uses")), "{error}");
    let share = |options: &mut crate::Options| {
        options.outbox.folder = cache.join("outbox");
        options.name = "worker/2".into();
    };
    let folder = tempfile::tempdir().unwrap();
    let mut third = Farm::start_with(folder, |_, _| vec![], |_| {}, share).await;
    third.coordinator().until("it is there", |state| !state.renewals.is_empty()).await;
    third.finish(0).await;
}

#[tokio::test]
async fn images_that_cannot_be_uploaded_before_the_worker_leaves_wait_for_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let link = unreachable(&folder);
    let lease = |out: &Path, model: &Path| below(shard("a", 0, &["x", "wait"], out, model));
    let soon = |options: &mut crate::Options| options.drain_timeout = Duration::from_millis(100);
    let mut first = Farm::start_with(folder, |out, model| vec![lease(out, model)], |_| {}, soon).await;
    first.coordinator().until("one is kept", |state| state.stats.outbox_images == 1).await;
    first.begun(1).await;
    first.shutdown.soft.cancel();
    first.watch.open();
    let summary = first.end().await.unwrap();
    assert_eq!((summary.done, summary.kept), (0, 2));
    {
        let state = first.coordinator().state();
        assert_eq!((state.releases.len(), state.releases[0].1), (1, ReleaseReason::Drain));
    }
    std::fs::remove_file(link).unwrap();
    // No shard is leased to it: they are reported all the same.
    let mut second = Farm::start_in(first.folder, |_, _| vec![], |_| {}).await;
    assert_eq!(second.finish(2).await, crate::Summary { done: 2, failed: 0, kept: 0 });
    assert!(second.watch.started().is_empty());
}

#[tokio::test]
async fn a_worker_that_leaves_without_its_coordinator_keeps_its_results_for_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let shards = |out: &Path, model: &Path| vec![shard("a", 0, &["x"], out, model)];
    let mut first = Farm::start_in(folder, shards, |state| {
        state.away.insert("report", Code::Unavailable);
    })
    .await;
    first.coordinator().until("it is kept", |state| state.stats.outbox_images == 1).await;
    first.shutdown.hard.cancel();
    assert_eq!(first.end().await.unwrap().kept, 1);
    let mut second = Farm::start_in(first.folder, |_, _| vec![], |_| {}).await;
    assert_eq!(second.finish(1).await.done, 1);
    assert!(second.watch.started().is_empty());
}

#[tokio::test]
async fn an_image_that_cannot_be_stored_holds_up_no_other_one() {
    let folder = tempfile::tempdir().unwrap();
    let link = unreachable(&folder);
    let shards = |out: &Path, model: &Path| {
        let mut lease = shard("a", 0, &["bad", "wait", "x"], out, model);
        lease.images[0].object = "sub/deep/0000.png".into();
        vec![lease]
    };
    let mut farm = Farm::start_in(folder, shards, |_| {}).await;
    let coordinator = farm.coordinator();
    coordinator
        .until("the trouble is told", |state| state.stats.trouble.contains("write sub/deep/0000.png"))
        .await;
    farm.watch.open();
    coordinator.until("the others are stored", |state| state.results.len() == 2).await;
    std::fs::remove_file(link).unwrap();
    assert_eq!(farm.finish(3).await.done, 3);
}

#[tokio::test]
async fn a_thumbnail_that_was_put_is_not_put_again_when_its_tar_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let link = unreachable(&folder);
    let shards = |out: &Path, model: &Path| {
        let mut lease = shard("a", 0, &["x", "y"], out, model);
        let form = lease.form.as_mut().unwrap();
        (form.layout, form.thumbnails) = (Layout::Webdataset.into(), true);
        lease.archive = "sub/deep/a-1.tar".into();
        for image in &mut lease.images {
            image.thumbnail = format!("small/{}.jpg", image.index);
        }
        vec![lease]
    };
    let mut farm = Farm::start_in(folder, shards, |_| {}).await;
    farm.coordinator()
        .until("the trouble is told", |state| state.stats.trouble.contains("write sub/deep/a-1.tar"))
        .await;
    let small = farm.folder.path().join("out/small");
    assert_eq!(std::fs::read_dir(&small).unwrap().count(), 2);
    std::fs::remove_file(small.join("0.jpg")).unwrap();
    std::fs::remove_file(link).unwrap();
    assert_eq!(farm.finish(2).await.done, 2);
    assert!(!small.join("0.jpg").exists());
}

//! Pictures that belong in a tar: one for each lease, whole, once.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use sanafarm_proto::v1::*;
use tonic::Code;

use super::coordinator::{Fault, State};
use super::outbox::{kept, outbox, picture_of};
use super::{Farm, shard};

/// A shard whose pictures belong in a tar.
fn tarred(id: &str, first: u64, prompts: &[&str], out: &Path, model: &Path) -> Lease {
    let mut lease = shard(id, first, prompts, out, model);
    lease.form.as_mut().unwrap().layout = Layout::Webdataset.into();
    lease.archive = format!("{id}-1.tar");
    lease.images[0].id = "first".into();
    lease.images[0].extra = r#"{"license":"cc0","seed":"theirs"}"#.into();
    lease
}

fn again(mut lease: Lease) -> Lease {
    let key = lease.r#ref.as_mut().unwrap();
    key.attempt += 1;
    lease.archive = format!("{}-{}.tar", key.shard_id, key.attempt);
    lease
}

/// Names and contents of a tar, in order.
fn members(file: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut tar = tar::Archive::new(file);
    let entries = tar.entries().unwrap();
    entries
        .map(|entry| {
            let mut entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.mtime().unwrap(), header.uid().unwrap(), header.gid().unwrap()), (0, 0, 0));
            let name = entry.path().unwrap().to_str().unwrap().to_owned();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (name, content)
        })
        .collect()
}

fn names(file: &[u8]) -> Vec<String> {
    members(file).into_iter().map(|(name, _)| name).collect()
}

fn tars(farm: &Farm) -> Vec<String> {
    let entries = std::fs::read_dir(farm.folder.path().join("out")).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The picture of another worker.
fn theirs(state: &mut State, index: u64) {
    let done = ImageDone { object: format!("{index:04}.png"), ..ImageDone::default() };
    let outcome = Some(image_result::Outcome::Done(done));
    state.results.insert(index, ImageResult { index, outcome, ..ImageResult::default() });
}

#[tokio::test]
async fn each_lease_becomes_one_tar_of_whole_samples() {
    let mut farm = Farm::start(|out, model| {
        vec![tarred("a", 0, &["red", "flat", "blue"], out, model), tarred("b", 3, &["x"; 9], out, model)]
    })
    .await;
    let summary = farm.finish(12).await;
    assert_eq!((summary.done, summary.failed), (11, 1));
    assert_eq!(tars(&farm), ["a-1.tar", "b-1.tar"]);
    let file = farm.file("a-1.tar");
    let samples = ["0000.png", "0000.json", "0000.txt", "0002.png", "0002.json", "0002.txt"];
    assert_eq!(names(&file), samples);
    let content: BTreeMap<_, _> = members(&file).into_iter().collect();
    assert_eq!(content["0000.txt"], b"red");
    let facts: serde_json::Value = serde_json::from_slice(&content["0000.json"]).unwrap();
    assert_eq!((&facts["id"], &facts["index"], &facts["seed"]), (&"first".into(), &0.into(), &100.into()));
    assert_eq!((&facts["license"], &facts["recipe"]["prompt"]), (&"cc0".into(), &"red".into()));
    assert_eq!(facts["sha256"], crate::picture::sha256(&content["0000.png"]));

    let state = farm.coordinator().state();
    assert_eq!(state.archives.len(), 2);
    // Both are uploaded at the same time.
    let of = |shard: &str| state.archives.iter().find(|(lease, ..)| lease.shard_id == shard).unwrap();
    let (_, archive, images) = of("a");
    assert_eq!(images.as_slice(), [0, 2]);
    assert_eq!((archive.object.as_str(), archive.bytes), ("a-1.tar", file.len() as u64));
    assert_eq!(archive.sha256, crate::picture::sha256(&file));
    assert_eq!(state.done(2).sha256, crate::picture::sha256(&content["0002.png"]));
    assert_eq!(of("b").2, (3..12).collect::<Vec<_>>());
    assert!(state.releases.is_empty() && state.leased.is_empty());
}

#[tokio::test]
async fn images_of_others_are_left_out_of_the_next_tar() {
    let mut farm = Farm::start(|out, model| vec![tarred("a", 0, &["x", "y", "wait"], out, model)]).await;
    let coordinator = farm.coordinator();
    coordinator.until("two are kept", |state| state.stats.outbox_images == 2).await;
    coordinator.change(|state| theirs(state, 1));
    farm.watch.open();
    let summary = farm.finish(3).await;
    assert_eq!(summary.done, 3);
    let state = farm.coordinator().state();
    assert_eq!(state.taken, [[1]]);
    let (_, archive, images) = &state.archives[0];
    assert_eq!((archive.object.as_str(), images.as_slice()), ("a-1-1.tar", &[0, 2][..]));
    drop(state);
    let samples = ["0000.png", "0000.json", "0000.txt", "0002.png", "0002.json", "0002.txt"];
    assert_eq!(names(&farm.file("a-1-1.tar")), samples);
    assert_eq!(tars(&farm), ["a-1-1.tar"], "the refused one is gone");
}

#[tokio::test]
async fn when_all_images_are_of_others_nothing_is_published() {
    let mut farm = Farm::start(|out, model| vec![tarred("a", 0, &["x", "wait"], out, model)]).await;
    let coordinator = farm.coordinator();
    coordinator.until("one is kept", |state| state.stats.outbox_images == 1).await;
    coordinator.change(|state| {
        theirs(state, 0);
        theirs(state, 1);
    });
    farm.watch.open();
    farm.coordinator().until("it is refused", |state| state.taken == [[0, 1]]).await;
    farm.finish(2).await;
    assert!(farm.coordinator().state().archives.is_empty());
    assert!(tars(&farm).is_empty());
}

#[tokio::test]
async fn worker_killed_while_a_tar_collects_commits_it_when_it_is_started_again() {
    let folder = tempfile::tempdir().unwrap();
    let lease = |out: &Path, model: &Path| tarred("a", 0, &["x", "y", "wait"], out, model);
    let first = Farm::start_in(folder, |out, model| vec![lease(out, model)], |_| {}).await;
    first.coordinator().until("two are kept", |state| state.stats.outbox_images == 2).await;
    let folder = first.kill().await;
    let mut second = Farm::start_in(folder, |out, model| vec![again(lease(out, model))], |_| {}).await;
    second.coordinator().until("what was kept", |state| state.archives.len() == 1).await;
    second.watch.open();
    assert_eq!(second.finish(3).await.done, 3);
    assert_eq!(second.watch.started(), ["wait"]);
    let state = second.coordinator().state();
    let committed: Vec<_> = state
        .archives
        .iter()
        .map(|(lease, archive, images)| (lease.attempt, archive.object.as_str(), images.as_slice()))
        .collect();
    assert_eq!(committed, [(1, "a-1.tar", &[0, 1][..]), (2, "a-2.tar", &[2][..])]);
}

#[tokio::test]
async fn worker_killed_between_the_upload_of_a_tar_and_its_report_has_it_adopted() {
    let folder = tempfile::tempdir().unwrap();
    let lease = |out: &Path, model: &Path| tarred("a", 0, &["x", "y"], out, model);
    let first = Farm::start_in(
        folder,
        |out, model| vec![lease(out, model)],
        |state| {
            state.away.insert("report", Code::Unavailable);
        },
    )
    .await;
    let tar = first.folder.path().join("out/a-1.tar");
    while !tar.exists() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let folder = first.kill().await;
    let written = std::fs::metadata(&tar).unwrap().modified().unwrap();
    let mut second = Farm::start_in(folder, |out, model| vec![again(lease(out, model))], |_| {}).await;
    assert_eq!(second.finish(2).await.done, 2);
    assert!(second.watch.started().is_empty());
    let mut found = tars(&second);
    // What the killed worker was about to remove may be there still.
    found.retain(|name| !name.ends_with(".part"));
    assert_eq!(found, ["a-1.tar"]);
    assert_eq!(std::fs::metadata(&tar).unwrap().modified().unwrap(), written, "not written again");
    assert_eq!(second.coordinator().state().archives[0].0.attempt, 1);
}

#[tokio::test]
async fn a_worker_that_leaves_commits_what_it_has_of_a_tar() {
    let mut farm = Farm::start(|out, model| vec![tarred("a", 0, &["x", "wait", "y"], out, model)]).await;
    farm.coordinator().until("one is kept", |state| state.stats.outbox_images == 1).await;
    farm.begun(1).await;
    farm.shutdown.soft.cancel();
    farm.watch.open();
    assert_eq!(farm.end().await.unwrap(), crate::Summary { done: 2, failed: 0, kept: 0 });
    let state = farm.coordinator().state();
    assert_eq!((state.archives.len(), state.archives[0].2.as_slice()), (1, &[0, 1][..]));
    assert_eq!((state.releases.len(), state.releases[0].1), (1, ReleaseReason::Drain));
}

#[tokio::test]
async fn the_answer_to_the_report_of_a_tar_may_be_lost() {
    let folder = tempfile::tempdir().unwrap();
    let shards = |out: &Path, model: &Path| vec![tarred("a", 0, &["x", "y"], out, model)];
    let mut farm = Farm::start_in(folder, shards, |state| {
        state.faults.insert("report", [Fault::LoseAnswer].into());
    })
    .await;
    farm.finish(2).await;
    assert_eq!(tars(&farm), ["a-1.tar"], "a committed tar is never removed");
}

#[tokio::test]
async fn a_tar_larger_than_the_outbox_collects_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let shards = |out: &Path, model: &Path| vec![tarred("a", 0, &["x"; 8], out, model)];
    let tiny = |options: &mut crate::Options| options.outbox.limit = 3000;
    let mut farm = Farm::start_with(folder, shards, |_| {}, tiny).await;
    assert_eq!(farm.finish(8).await.done, 8);
    assert_eq!(farm.coordinator().state().archives.len(), 1);
}

#[tokio::test]
async fn a_tar_that_cannot_be_packed_takes_no_room() {
    let folder = tempfile::tempdir().unwrap();
    let shards = |out: &Path, model: &Path| {
        let mut lease = tarred("a", 0, &["x", "y"], out, model);
        // The tar has begun when this is found.
        lease.images[1].extra = "no JSON".into();
        vec![lease]
    };
    let farm = Farm::start_in(folder, shards, |_| {}).await;
    farm.coordinator()
        .until("the trouble is told", |state| state.stats.trouble.contains("pack a tar in the outbox"))
        .await;
    let folder = farm.kill().await;
    assert_eq!(kept(&folder, ".picture").len(), 2, "the pictures wait");
    assert!(kept(&folder, ".part").is_empty(), "{:?}", kept(&folder, ".part"));
}

#[tokio::test]
async fn a_picture_that_cannot_be_read_is_set_aside_and_the_others_become_a_tar() {
    let prompts = ["gone", "short", "torn", "y", "wait"];
    let mut farm = Farm::start(|out, model| vec![tarred("a", 0, &prompts, out, model)]).await;
    farm.coordinator().until("four are kept", |state| state.stats.outbox_images == 4).await;
    let [gone, short, torn] = [0, 1, 2].map(|index| picture_of(&farm.folder, index));
    std::fs::remove_file(gone).unwrap();
    std::fs::File::options().write(true).open(short).unwrap().set_len(100).unwrap();
    let mut bytes = std::fs::read(&torn).unwrap();
    bytes[50] ^= 1;
    std::fs::write(torn, bytes).unwrap();
    farm.watch.open();
    let summary = farm.finish(5).await;
    assert_eq!((summary.done, summary.failed, summary.kept), (2, 3, 0));
    let state = farm.coordinator().state();
    assert_eq!(state.archives[0].2, [3, 4]);
    for index in 0..3 {
        assert_eq!(state.failed(index).error_class(), ErrorClass::Internal, "it may be rendered elsewhere");
    }
    let aside = outbox(&farm.folder).join("corrupt");
    assert_eq!(std::fs::read_dir(aside).unwrap().count(), 5, "three records and two pictures");
}

//! Outboxes that have no room for another picture.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sanafarm_proto::v1::*;
use sanafarm_telemetry::http::Watched;

use super::outbox::{below, unreachable};
use super::{Farm, shard};

/// A worker whose outbox has no room was killed and is started again, with a shard for an output that is in reach.
async fn started_again_without_room(set: impl FnOnce(&mut crate::Options)) -> (Farm, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let link = unreachable(&folder);
    let shards = |out: &Path, model: &Path| vec![below(shard("a", 0, &["x"; 9], out, model))];
    let small = |options: &mut crate::Options| options.outbox.limit = 6000;
    let first = Farm::start_with(folder, shards, |_| {}, small).await;
    let full = |state: &super::coordinator::State| state.stats.outbox_bytes + 2880 > 6000;
    first.coordinator().until("it is full", full).await;
    let shards = |out: &Path, model: &Path| {
        let out = out.with_file_name("out2");
        vec![Lease { job_id: "other".into(), ..shard("b", 20, &["y", "z"], &out, model) }]
    };
    let limited = |options: &mut crate::Options| {
        small(options);
        set(options);
    };
    (Farm::start_with(first.kill().await, shards, |_| {}, limited).await, link)
}

#[tokio::test]
async fn a_worker_without_room_leaves_shards_to_others_and_is_idle() {
    let idle = |options: &mut crate::Options| options.limits.max_idle = Some(Duration::from_secs(1));
    let (mut farm, _) = started_again_without_room(idle).await;
    assert_eq!(farm.end().await.unwrap().done, 0);
    assert!(farm.watch.started().is_empty());
    let state = farm.coordinator().state();
    assert!(state.leased.is_empty() && state.ready.len() == 1, "{:?}", state.leased);
    // How large its pictures are was not known before.
    assert!(state.releases.len() <= 1, "{:?}", state.releases);
    let reason =
        |(_, reason, why): &(_, ReleaseReason, String)| (*reason, why.contains("the outbox is full"));
    assert!(state.releases.iter().all(|release| reason(release) == (ReleaseReason::Drain, true)));
    assert_eq!(state.close_reasons, ["idle for long enough"]);
}

#[tokio::test]
async fn a_worker_without_room_says_so_and_goes_on_when_there_is_some() {
    let mut monitor = crate::Monitor::default();
    let (mut farm, link) = started_again_without_room(|options| monitor = options.monitor.clone()).await;
    let told = |state: &super::coordinator::State| state.stats.trouble.contains("the outbox is full");
    farm.coordinator().until("the trouble is told", told).await;
    let troubles = monitor.troubles().await;
    assert!(troubles.len() == 1 && troubles[0].contains("the outbox is full"), "{troubles:?}");
    std::fs::remove_file(link).unwrap();
    farm.coordinator().until("both jobs", |state| state.results.contains_key(&21)).await;
    farm.coordinator().until("no trouble", |state| state.stats.trouble.is_empty()).await;
    // Of the last images it may have had none for a moment.
    while !monitor.troubles().await.is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    farm.shutdown.soft.cancel();
    farm.end().await.unwrap();
    assert_eq!(farm.watch.started(), ["y", "z"]);
}

#[tokio::test]
async fn a_full_outbox_holds_the_engine_until_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let link = unreachable(&folder);
    let shards = |out: &Path, model: &Path| vec![below(shard("a", 0, &["x"; 9], out, model))];
    // Pictures have 2,880 bytes of pixels and are smaller as files.
    let small = |options: &mut crate::Options| options.outbox.limit = 6000;
    let mut farm = Farm::start_with(folder, shards, |_| {}, small).await;
    let coordinator = farm.coordinator();
    coordinator.until("it is full", |state| state.stats.outbox_bytes + 2880 > 6000).await;
    let before = coordinator.state().renewals.len();
    coordinator.until("renewals", |state| state.renewals.len() >= before + 5).await;
    let started = farm.watch.started().len();
    assert!((1..=3).contains(&started), "{started} of 9 were started");
    std::fs::remove_file(link).unwrap();
    assert_eq!(farm.finish(9).await.done, 9);
}

#[tokio::test]
async fn a_picture_larger_than_the_outbox_is_taken_by_an_empty_one() {
    let folder = tempfile::tempdir().unwrap();
    let shards = |out: &Path, model: &Path| vec![shard("a", 0, &["x"; 4], out, model)];
    let tiny = |options: &mut crate::Options| options.outbox.limit = 1;
    let mut farm = Farm::start_with(folder, shards, |_| {}, tiny).await;
    assert_eq!(farm.finish(4).await.done, 4);
}

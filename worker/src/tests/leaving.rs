//! Leaving: softly, at once, and by being dropped.

use std::path::Path;
use std::time::Duration;

use sanafarm_proto::v1::*;
use sanafarm_test_servers::Port;

use super::coordinator::State;
use super::{Farm, shard};
use crate::{Options, Summary};

#[tokio::test]
async fn soft_shutdown_finishes_the_image_in_hand_and_hands_back_the_rest() {
    let shards = |out: &Path, model: &Path| vec![shard("a", 0, &["wait", "x", "y", "z"], out, model)];
    let mut farm = Farm::start(shards).await;
    farm.begun(0).await;
    farm.shutdown.soft.cancel();
    // The lease is handed back only when the image in hand is reported, and the gate is still closed.
    assert!(farm.coordinator().state().releases.is_empty());
    farm.watch.open();
    let summary = farm.end().await.unwrap();
    assert_eq!((summary.done, summary.failed), (1, 0));
    assert_eq!(farm.watch.started(), ["wait"]);
    let state = farm.coordinator().state();
    assert_eq!(state.results.keys().collect::<Vec<_>>(), [&0]);
    assert_eq!(state.releases.len(), 1);
    assert_eq!((state.releases[0].0.shard_id.as_str(), state.releases[0].1), ("a", ReleaseReason::Drain));
    assert_eq!((state.closed, state.leased.len()), (1, 0));
}

#[tokio::test]
async fn soft_shutdown_hands_back_the_shard_that_was_leased_ahead() {
    let mut farm = Farm::start(|out, model| {
        vec![shard("a", 0, &["wait"], out, model), shard("b", 1, &["x", "y"], out, model)]
    })
    .await;
    let coordinator = farm.coordinator();
    coordinator.until("both are held", |state| state.renewals.iter().any(|held| held.len() == 2)).await;
    // Without that it would be handed back too.
    farm.begun(0).await;
    farm.shutdown.soft.cancel();
    farm.coordinator().until("b is handed back", |state| state.releases.len() == 1).await;
    farm.watch.open();
    assert_eq!(farm.end().await.unwrap().done, 1);
    let state = farm.coordinator().state();
    assert_eq!((state.releases[0].0.shard_id.as_str(), state.releases[0].1), ("b", ReleaseReason::Drain));
    assert_eq!(state.releases.len(), 1, "shard a was finished");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hard_shutdown_stops_at_the_next_step_and_hands_everything_back() {
    let mut farm = Farm::start(|out, model| vec![shard("a", 0, &["wait", "x"], out, model)]).await;
    farm.watch.until_started(1).await;
    farm.shutdown.hard.cancel();
    // The gate stays closed: only the stop ends the image.
    let summary = farm.end().await.unwrap();
    assert_eq!((summary.done, summary.failed), (0, 0));
    let state = farm.coordinator().state();
    assert!(state.results.is_empty());
    assert_eq!((state.releases.len(), state.releases[0].1), (1, ReleaseReason::Drain));
    assert_eq!(state.closed, 1);
}

/// Leaves at once while a picture that is rendered stands before a disk that takes nothing until `let_go`.
fn stops_with_a_picture_on_its_way(let_go: bool) -> Summary {
    // Whoever works on a disk waits for the one thread for that.
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).max_blocking_threads(1).enable_all().build().unwrap();
    let ended = runtime.block_on(async {
        let shards = |out: &Path, model: &Path| vec![shard("a", 0, &["wait", "never", "x"], out, model)];
        let impatient = |options: &mut Options| {
            if !let_go {
                options.patience.stop = Duration::from_millis(100);
            }
        };
        let folder = tempfile::tempdir().unwrap();
        let mut farm = Farm::start_with(folder, shards, |_| {}, impatient).await;
        farm.begun(0).await;
        let (disk, gate) = std::sync::mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || _ = gate.recv());
        farm.watch.open();
        // The engine starts the second one when it is done with the first.
        farm.begun(1).await;
        farm.shutdown.hard.cancel();
        let says = |why: &String| why.contains("stopping at the next step");
        let heard = |state: &State| state.closed > 0 || state.leaving.iter().any(says);
        farm.coordinator().until("it says so, or has left", heard).await;
        if let_go {
            disk.send(()).unwrap();
        }
        let summary = farm.end().await.unwrap();
        drop(disk);
        let state = farm.coordinator().state();
        assert_eq!((state.results.len(), state.closed), (0, 1));
        assert_eq!((state.releases.len(), state.releases[0].1), (1, ReleaseReason::Drain));
        summary
    });
    drop(runtime);
    ended
}

#[test]
fn hard_shutdown_keeps_what_is_rendered() {
    assert_eq!(stops_with_a_picture_on_its_way(true), Summary { kept: 1, ..Summary::default() });
}

#[test]
fn hard_shutdown_does_not_wait_for_a_disk_that_hangs() {
    assert_eq!(stops_with_a_picture_on_its_way(false), Summary::default());
}

#[tokio::test]
async fn idle_worker_leaves_at_once() {
    let mut farm = Farm::start(|_, _| vec![]).await;
    farm.coordinator().until("a renewal", |state| !state.renewals.is_empty()).await;
    farm.shutdown.soft.cancel();
    assert_eq!(farm.end().await.unwrap().done, 0);
    assert_eq!(farm.coordinator().state().closed, 1);
}

#[tokio::test]
async fn worker_without_a_coordinator_can_be_told_to_leave() {
    // Nobody listens at it while this test has it.
    let port = Port::take();
    let address = format!("http://127.0.0.1:{}", port.number());
    let channel = tonic::transport::Endpoint::from_shared(address).unwrap().connect_lazy();
    let folder = tempfile::tempdir().unwrap();
    let options = Options::new("w", folder.path().into());
    let shutdown = crate::Shutdown::default();
    let worker = tokio::spawn(crate::run(channel.into(), options, shutdown.clone()));
    tokio::task::yield_now().await;
    shutdown.soft.cancel();
    assert_eq!(worker.await.unwrap().unwrap(), Summary::default());
}

#[tokio::test]
async fn dropping_the_worker_stops_its_engine() {
    let farm = Farm::start(|out, model| vec![shard("a", 0, &["wait", "x"], out, model)]).await;
    farm.watch.until_started(1).await;
    farm.worker.abort();
    // The engine thread ends, and with it the engine and its share of the watch.
    let alone = async {
        while std::sync::Arc::strong_count(&farm.watch) > 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), alone).await.expect("the engine thread ends");
    assert_eq!(farm.watch.started(), ["wait"]);
}

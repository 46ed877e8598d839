//! The end of a job: others take over what this worker holds.

use super::{Farm, shard};

/// Some renewals have been answered since now.
async fn renewed(farm: &Farm) {
    let before = farm.coordinator().state().renewals.len();
    farm.coordinator().until("renewals", |state| state.renewals.len() >= before + 3).await;
}

#[tokio::test]
async fn what_was_cut_off_is_left_to_others() {
    let mut farm = Farm::start(|out, model| {
        vec![shard("a", 0, &["x", "wait", "y", "z", "q", "r", "s", "t", "u"], out, model)]
    })
    .await;
    farm.coordinator().until("the first is done", |state| state.results.contains_key(&0)).await;
    farm.begun(1).await;
    farm.coordinator().change(|state| {
        if let Some((lease, _)) = state.leased.get_mut("a") {
            lease.images.truncate(3);
        }
    });
    // Most of the others stand at the engine by then.
    renewed(&farm).await;
    farm.watch.open();
    let summary = farm.finish(3).await;
    assert_eq!(summary.done, 3);
    assert_eq!(farm.watch.started(), ["x", "wait", "y"]);
    let state = farm.coordinator().state();
    assert_eq!(state.releases, [], "its lease ended with its last image");
    assert_eq!((state.accepted, state.known), (3, 0));
}

#[tokio::test]
async fn an_image_in_hand_is_finished_and_not_started_again() {
    let mut farm = Farm::start(|out, model| vec![shard("a", 0, &["x", "wait", "y"], out, model)]).await;
    farm.coordinator().until("the first is done", |state| state.results.contains_key(&0)).await;
    farm.begun(1).await;
    // The lease is lost, and its shard comes back to the same worker.
    farm.coordinator().change(|state| {
        let (mut lease, _) = state.leased.remove("a").expect("it is leased");
        lease.images.remove(0);
        lease.r#ref.as_mut().expect("it has a name").attempt += 1;
        state.ready.push_back(lease);
    });
    farm.coordinator().until("the next attempt", |state| state.leased.contains_key("a")).await;
    renewed(&farm).await;
    farm.watch.open();
    let summary = farm.finish(3).await;
    assert_eq!(summary.done, 3);
    assert_eq!(farm.watch.started(), ["x", "wait", "y"]);
    let state = farm.coordinator().state();
    assert_eq!((state.accepted, state.known), (3, 0));
}

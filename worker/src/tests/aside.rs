//! What an outbox cannot use is set aside, and holds up nothing.

use std::path::Path;
use std::time::Duration;

use sanafarm_proto::v1::*;
use tempfile::TempDir;
use tonic::Code;

use super::coordinator::Fault;
use super::outbox::{below, kept, outbox, picture_of, unreachable};
use super::{Farm, shard};

/// The folder of a worker that was killed after image 0 of a job was stored and before that was reported.
async fn unreported() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let shards = |out: &Path, model: &Path| vec![shard("a", 0, &["x"], out, model)];
    let first = Farm::start_in(folder, shards, |state| {
        state.away.insert("report", Code::Unavailable);
    })
    .await;
    first.coordinator().until("it is kept", |state| state.stats.outbox_images == 1).await;
    while !kept(&first.folder, ".picture").is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    first.kill().await
}

#[tokio::test]
async fn results_of_an_earlier_run_that_are_refused_are_set_aside_and_end_nothing() {
    let shards = |out: &Path, model: &Path| vec![shard("b", 7, &["y"], out, model)];
    let mut second = Farm::start_in(unreported().await, shards, |state| {
        let refuse = || Fault::Refuse(Code::OutOfRange);
        state.faults.insert("report", [refuse(), refuse()].into());
    })
    .await;
    second
        .coordinator()
        .until("the trouble is told", |state| state.stats.trouble.contains("was moved to"))
        .await;
    assert_eq!(second.finish(1).await.done, 1);
    assert_eq!(std::fs::read_dir(outbox(&second.folder).join("refused")).unwrap().count(), 1);
}

#[tokio::test]
async fn an_image_whose_earlier_result_is_refused_is_rendered_by_whoever_holds_it_now() {
    let shards = |out: &Path, model: &Path| vec![shard("b", 0, &["x"], out, model)];
    let mut second = Farm::start_in(unreported().await, shards, |state| {
        state.away.insert("report", Code::Unavailable);
    })
    .await;
    // It lies in the outbox: nothing of the lease is to be rendered.
    second.coordinator().until("the image is leased", |state| !state.leased.is_empty()).await;
    second.coordinator().change(|state| {
        let refuse = || Fault::Refuse(Code::OutOfRange);
        state.faults.insert("report", [refuse(), refuse()].into());
        state.away.clear();
    });
    assert_eq!(second.finish(1).await.done, 1);
    assert_eq!(second.watch.started().len(), 1);
}

#[tokio::test]
async fn a_picture_that_cannot_be_read_any_more_is_set_aside_and_the_others_are_stored() {
    let folder = tempfile::tempdir().unwrap();
    let link = unreachable(&folder);
    let shards =
        |out: &Path, model: &Path| vec![below(shard("a", 0, &["gone", "short", "whole"], out, model))];
    let mut farm = Farm::start_in(folder, shards, |_| {}).await;
    farm.coordinator().until("all are kept", |state| state.stats.outbox_images == 3).await;
    let [gone, short] = [0, 1].map(|index| picture_of(&farm.folder, index));
    std::fs::remove_file(gone).unwrap();
    std::fs::File::options().write(true).open(short).unwrap().set_len(100).unwrap();
    // An upload that has looked at them before finds out because it fails.
    farm.coordinator().until("both are found", |state| state.results.len() == 2).await;
    std::fs::remove_file(link).unwrap();
    let summary = farm.finish(3).await;
    assert_eq!((summary.done, summary.failed, summary.kept), (1, 2, 0));
    let state = farm.coordinator().state();
    assert_eq!(state.done(2).sha256, crate::picture::sha256(&farm.file("sub/deep/0002.png")));
    for (index, why) in [(0, "No such file"), (1, "has 100 bytes instead of")] {
        let failed = state.failed(index);
        assert_eq!(failed.error_class(), ErrorClass::Internal, "it may be rendered elsewhere");
        assert!(failed.message.contains(why), "{failed:?}");
    }
    let aside = std::fs::read_dir(outbox(&farm.folder).join("corrupt")).unwrap().count();
    assert_eq!(aside, 3, "two records and a picture");
}

//! Bad days: named after what goes wrong.

use std::path::Path;
use std::time::Duration;

use sanafarm_proto::v1::*;
use tonic::Code;

use super::coordinator::{Fault, State};
use super::{Farm, shard};
use crate::{Error, Options, picture};

#[tokio::test]
async fn coordinator_away_for_a_while_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let shards = |out: &Path, model: &Path| vec![shard("a", 0, &["x", "y"], out, model)];
    let mut farm = Farm::start_in(folder, shards, |state| {
        for call in ["open", "lease", "renew", "report"] {
            let away = [Code::Unavailable, Code::Unavailable, Code::Internal, Code::DeadlineExceeded];
            state.faults.insert(call, away.map(Fault::Refuse).into());
        }
    })
    .await;
    let summary = farm.finish(2).await;
    assert_eq!(summary.done, 2);
    let state = farm.coordinator().state();
    assert_eq!((state.accepted, state.known), (2, 0));
    assert_eq!(state.opened.len(), 1, "none of these codes means an unknown session");
}

#[tokio::test]
async fn lost_answer_of_a_report_does_not_report_twice_what_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let shards = |out: &Path, model: &Path| vec![shard("a", 0, &["x"], out, model)];
    let mut farm = Farm::start_in(folder, shards, |state| {
        state.faults.insert("report", [Fault::LoseAnswer, Fault::LoseAnswer].into());
    })
    .await;
    farm.coordinator().until("the report was sent again", |state| state.known == 2).await;
    let summary = farm.finish(1).await;
    assert_eq!(summary.done, 1);
    let state = farm.coordinator().state();
    assert_eq!((state.accepted, state.known), (1, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coordinator_that_forgot_the_session_gets_a_new_one_and_all_results() {
    let mut farm = Farm::start(|out, model| vec![shard("a", 0, &["x", "wait", "y", "z"], out, model)]).await;
    let coordinator = farm.coordinator();
    coordinator.until("the first result", |state| state.results.len() == 1).await;
    coordinator.change(|state| {
        state.sessions.clear();
        let (mut lease, _) = state.leased.remove("a").unwrap();
        lease.r#ref.as_mut().unwrap().attempt = 2;
        lease.images.remove(0);
        state.ready.push_back(lease);
    });
    coordinator
        .until("a new session holds the shard", |state| {
            state.leased.get("a").is_some_and(|(_, session)| session == "session-2")
        })
        .await;
    farm.watch.open();
    farm.finish(4).await;
    let state = farm.coordinator().state();
    assert_eq!((state.opened.len(), state.accepted), (2, 4));
    // Image 1 was in hand: it was finished under the old attempt, and adopted or known under the new one.
    assert!(farm.watch.started().iter().filter(|prompt| *prompt == "wait").count() <= 2);
}

/// The coordinator took the lease back and gave the shard to the same worker again, which still believes in the first lease
/// when its report is acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_given_again_to_its_holder_renders_nothing_again() {
    let folder = tempfile::tempdir().unwrap();
    let first = |out: &Path, model: &Path| shard("a", 0, &["x", "wait"], out, model);
    let (out, model) = (folder.path().join("out"), folder.path().join("model"));
    let mut second = first(&out, &model);
    second.r#ref.as_mut().unwrap().attempt = 2;
    let script = |state: &mut State| {
        state.away.insert("report", Code::Unavailable);
    };
    let mut farm = Farm::start_in(folder, |out, model| vec![first(out, model)], script).await;
    let coordinator = farm.coordinator().clone();
    let waits = |held: &HeldLease| held.rendering.contains(&1);
    coordinator
        .until("one image is kept and the other in hand", |state| {
            state.stats.outbox_images == 1 && state.renewals.last().is_some_and(|held| held.iter().any(waits))
        })
        .await;
    // It asks for more already, and hears of no lost lease.
    coordinator.change(|state| {
        state.away.insert("renew", Code::Unavailable);
        state.slow_leases = true;
        state.ready.push_back(second);
    });
    let attempt = |state: &State| state.leased["a"].0.r#ref.clone().unwrap().attempt;
    coordinator.until("the shard is given again", |state| attempt(state) == 2).await;
    coordinator.change(|state| _ = state.away.remove("report"));
    let outbox = farm.folder.path().join("cache/outbox/worker-1");
    let is_empty = || {
        let mut entries = std::fs::read_dir(&outbox).unwrap();
        entries.all(|entry| entry.unwrap().path().extension().is_none())
    };
    coordinator.until("the report", |state| state.results.len() == 1).await;
    while !is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    coordinator.change(|state| {
        state.slow_leases = false;
        state.away.clear();
    });
    let told = |held: &HeldLease| held.r#ref.as_ref().is_some_and(|lease| lease.attempt == 2);
    coordinator.until("the second lease is there", |state| state.renewals.iter().flatten().any(told)).await;
    farm.watch.open();
    assert_eq!(farm.finish(2).await.done, 2);
    assert_eq!(farm.watch.started(), ["x", "wait"]);
    assert_eq!(coordinator.state().known, 0);
}

#[tokio::test]
async fn images_of_a_revoked_lease_are_not_started() {
    let mut farm = Farm::start(|out, model| {
        vec![
            shard("a", 0, &["wait", "no", "no", "no", "no"], out, model),
            shard("b", 10, &["yes"], out, model),
        ]
    })
    .await;
    farm.begun(0).await;
    let coordinator = farm.coordinator();
    coordinator.change(|state| {
        state.leased.remove("a").unwrap();
    });
    coordinator
        .until("shard b is leased for the room that is left", |state| state.leased.contains_key("b"))
        .await;
    farm.watch.open();
    // The picture that was in hand is finished and accepted.
    let summary = farm.finish(2).await;
    assert_eq!(summary.done, 2);
    assert_eq!(farm.watch.started(), ["wait", "yes"]);
    assert!(farm.coordinator().state().releases.is_empty(), "nothing of a revoked lease is handed back");
}

#[tokio::test]
async fn worker_killed_between_upload_and_report_has_its_picture_adopted() {
    let mut first = Farm::start(|out, model| vec![shard("a", 0, &["x"], out, model)]).await;
    first.finish(1).await;
    let before = std::fs::metadata(first.folder.path().join("out/0000.png")).unwrap().modified().unwrap();
    let reported = first.coordinator().state().done(0);
    // The next coordinator never heard of it.
    let mut second =
        Farm::start_in(first.folder, |out, model| vec![shard("a", 0, &["x", "y"], out, model)], |_| {}).await;
    assert_eq!(second.finish(2).await.done, 2);
    assert_eq!(second.coordinator().state().done(0), reported);
    let file = second.folder.path().join("out/0000.png");
    assert_eq!(std::fs::metadata(file).unwrap().modified().unwrap(), before, "not written again");
}

#[tokio::test]
async fn files_of_others_are_never_overwritten() {
    let mut farm = Farm::start(|out, model| {
        let mut jpeg = shard("b", 5, &["x"], out, model);
        jpeg.form.as_mut().unwrap().format = ImageFormat::Jpeg.into();
        vec![shard("a", 0, &["x"], out, model), jpeg]
    })
    .await;
    farm.finish(2).await;
    let whole = farm.file("0000.png");
    // Of the recipe of image 5, in another format than it will be wanted in.
    let jpeg = farm.file("0005.png");
    // Somebody's text, half a picture of ours, a picture with a broken pixel, and a whole one of another recipe.
    let half = whole[..whole.len() / 2].to_vec();
    let mut broken = whole.clone();
    let at = broken.len() - 40;
    broken[at] ^= 1;
    let theirs = [b"a text".to_vec(), half, broken, whole.clone(), jpeg];
    let folder = farm.folder;
    for (content, index) in theirs.iter().zip(1..) {
        std::fs::write(folder.path().join(format!("out/{index:04}.png")), content).unwrap();
    }
    let shards = |out: &Path, model: &Path| vec![shard("a", 1, &["x"; 5], out, model)];
    let mut farm = Farm::start_in(folder, shards, |_| {}).await;
    assert_eq!(farm.finish(5).await.failed, 5);
    let state = farm.coordinator().state();
    for (content, index) in theirs.iter().zip(1..) {
        let failed = state.failed(index);
        assert_eq!(failed.error_class(), ErrorClass::Conflict, "{failed:?}");
        assert!(failed.message.contains(&format!("{index:04}.png")), "{failed:?}");
        assert!(&farm.file(&format!("{index:04}.png")) == content, "{index}");
    }
    assert!(picture::read(&whole).is_ok());
}

#[tokio::test]
async fn huge_file_in_the_place_of_a_picture_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("out")).unwrap();
    // All hole: it takes no space on the disk, and more memory than there is to read.
    let huge = std::fs::File::create(folder.path().join("out/0000.png")).unwrap();
    huge.set_len(1 << 40).unwrap();
    let shards = |out: &Path, model: &Path| vec![shard("a", 0, &["x", "y"], out, model)];
    let mut farm = Farm::start_in(folder, shards, |_| {}).await;
    let summary = farm.finish(2).await;
    assert_eq!((summary.done, summary.failed), (1, 1));
    let failed = farm.coordinator().state().failed(0);
    assert_eq!(failed.error_class(), ErrorClass::Conflict);
    assert!(failed.message.contains("larger than this picture can be"), "{failed:?}");
}

#[tokio::test]
async fn output_that_cannot_be_opened_is_left_to_others_and_ends_a_worker_for_one_job() {
    for only in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("out"), "a file in the place of the folder").unwrap();
        let shards = |out: &Path, model: &Path| {
            let good = out.with_file_name("good");
            let good = Lease { job_id: "other".into(), ..shard("b", 100, &["z"], &good, model) };
            vec![shard("a", 0, &["x", "y"], out, model), good]
        };
        let only_job = |options: &mut Options| options.job = only.then(|| "job".to_owned());
        let mut farm = Farm::start_with(folder, shards, |_| {}, only_job).await;
        if only {
            let error = farm.end().await.unwrap_err();
            assert!(matches!(&error, Error::Storage(_)) && error.to_string().contains("/out"), "{error}");
        } else {
            assert_eq!(farm.finish(1).await.done, 1);
        }
        let state = farm.coordinator().state();
        let (lease, reason, message) = &state.releases[0];
        assert_eq!((lease.shard_id.as_str(), *reason), ("a", ReleaseReason::Storage));
        assert!(message.contains("/out"), "{message}");
        assert_eq!((state.results.len(), state.closed), (usize::from(!only), 1));
        assert_eq!(farm.watch.started().len(), usize::from(!only));
    }
}

#[tokio::test]
async fn output_that_fails_in_the_middle_blames_no_image_and_ends_only_a_worker_for_one_job() {
    for only in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let shards = |out: &Path, model: &Path| {
            let good = out.with_file_name("good");
            let good = Lease { job_id: "other".into(), ..shard("b", 100, &["z"], &good, model) };
            vec![shard("a", 0, &["x", "wait", "z", "z", "z", "z"], out, model), good]
        };
        let only_job = |options: &mut Options| options.job = only.then(|| "job".to_owned());
        let mut farm = Farm::start_with(folder, shards, |_| {}, only_job).await;
        farm.coordinator().until("the first is done", |state| state.results.contains_key(&0)).await;
        let out = farm.folder.path().join("out");
        std::fs::rename(&out, out.with_file_name("gone")).unwrap();
        std::fs::write(&out, "a file in the place of the folder").unwrap();
        farm.watch.open();
        if only {
            let error = farm.end().await.unwrap_err();
            assert!(matches!(&error, Error::Storage(_)) && error.to_string().contains("/out"), "{error}");
        } else {
            let rendered = |state: &State| state.results.contains_key(&100) && !state.releases.is_empty();
            farm.coordinator().until("another job is rendered", rendered).await;
            farm.shutdown.soft.cancel();
            let summary = farm.end().await.unwrap();
            assert!(summary.kept >= 1, "what is rendered is kept: {summary:?}");
        }
        let state = farm.coordinator().state();
        assert!(state.results.keys().all(|index| [0, 100].contains(index)), "{:?}", state.results.keys());
        let (lease, reason, message) = &state.releases[0];
        assert_eq!((lease.shard_id.as_str(), *reason), ("a", ReleaseReason::Storage));
        assert!(message.contains("/out"), "{message}");
    }
}

#[tokio::test]
async fn a_name_that_cannot_be_written_fails_its_image_and_not_its_output() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("out")).unwrap();
    std::fs::write(folder.path().join("out/sub"), "a file in the place of a folder").unwrap();
    let shards = |out: &Path, model: &Path| {
        let mut lease = shard("a", 0, &["x", "y", "z", "z"], out, model);
        lease.images[1].object = "sub/y.png".into();
        vec![lease]
    };
    let mut farm = Farm::start_in(folder, shards, |_| {}).await;
    let summary = farm.finish(4).await;
    assert_eq!((summary.done, summary.failed, summary.kept), (3, 1, 0));
    let state = farm.coordinator().state();
    let failed = state.failed(1);
    assert_eq!(failed.error_class(), ErrorClass::Conflict);
    assert!(failed.message.contains("sub/y.png") && failed.message.contains("other names"), "{failed:?}");
    assert!(state.releases.is_empty(), "{:?}", state.releases);
}

#[tokio::test]
async fn a_token_that_ended_during_a_call_is_shown_once_more() {
    for (times, goes_on) in [(1, true), (2, false)] {
        let folder = tempfile::tempdir().unwrap();
        let shards = |out: &Path, model: &Path| vec![shard("a", 0, &["x", "y"], out, model)];
        let mut farm = Farm::start_in(folder, shards, |state| {
            let faults = (0..times).map(|_| Fault::Refuse(Code::Unauthenticated));
            state.faults.insert("report", faults.collect());
        })
        .await;
        if goes_on {
            assert_eq!(farm.finish(2).await.done, 2);
        } else {
            let error = farm.end().await.unwrap_err();
            assert!(matches!(&error, Error::Coordinator(text) if text.contains("report results")), "{error}");
        }
    }
}

#[tokio::test]
async fn coordinator_that_refuses_results_ends_the_worker() {
    let folder = tempfile::tempdir().unwrap();
    let shards = |out: &Path, model: &Path| vec![shard("a", 0, &["x", "y"], out, model)];
    let mut farm = Farm::start_in(folder, shards, |state| {
        state.faults.insert("report", [Fault::Refuse(Code::InvalidArgument)].into());
    })
    .await;
    let error = farm.end().await.unwrap_err();
    assert!(matches!(&error, Error::Coordinator(text) if text.contains("report results")), "{error}");
    assert_eq!(farm.coordinator().state().closed, 1);
}

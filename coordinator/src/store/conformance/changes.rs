//! What people change while jobs run.

use super::Bench;
use super::bench::*;
use crate::domain::blame::ErrorClass;
use crate::domain::id::{JobId, SessionId};
use crate::domain::state::{ImageState, JobState};
use crate::store::Error;
use crate::store::records::{Cell, Change};

pub async fn a_paused_job_gives_nothing_until_it_is_resumed(bench: Bench) {
    let id = bench.submit("a", 4, 2).await;
    let session = bench.session("w").await;
    assert_eq!(bench.change(&id, Change::Pause).await.state, JobState::Paused);
    assert_eq!(bench.change(&id, Change::Pause).await.state, JobState::Paused);
    assert_eq!(bench.lease(&session).await, None);
    assert_eq!(bench.change(&id, Change::Resume).await.state, JobState::Pending, "it never ran");
    let lease = bench.lease(&session).await.unwrap();
    assert!(lease.started_job);
    bench.change(&id, Change::Pause).await;
    // What is held goes on.
    assert!(bench.renew(&session, &lease.lease, &[0]).await);
    let results: Vec<_> = lease.images.iter().map(done).collect();
    assert_eq!(bench.report(&session, &lease.lease, &results).await.accepted, 2);
    assert_eq!(bench.lease(&session).await, None);
    assert_eq!(bench.change(&id, Change::Resume).await.state, JobState::Running);
    bench.render_all(&session).await;
    let ended = bench.store.finish_job(&id, bench.now).await.unwrap();
    assert_eq!(ended.state, JobState::Succeeded);
    let refused = bench.store.change_job(&id, &Change::Pause, &by_bob(), bench.now).await;
    assert!(matches!(refused, Err(Error::Move(_))), "{refused:?}");
}

pub async fn priority_may_change_at_any_time(bench: Bench) {
    let (_, second) = (bench.submit("first", 2, 2).await, bench.submit("second", 2, 2).await);
    assert_eq!(bench.change(&second, Change::Priority(5)).await.priority, 5);
    let session = bench.session("w").await;
    assert_eq!(bench.lease(&session).await.unwrap().job, second);
    let refused = bench.store.change_job(&second, &Change::Priority(1001), &by_bob(), bench.now).await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
}

/// A job of six images in shards of three, of which images 1 and 4 failed with these classes.
async fn half_failed(bench: &Bench, first: ErrorClass, second: ErrorClass) -> (JobId, SessionId) {
    let id = bench.submit("a", 6, 3).await;
    let session = bench.session("w").await;
    for class in [first, second] {
        let lease = bench.lease(&session).await.unwrap();
        let [a, b, c] = lease.images.as_slice() else { panic!("{} images", lease.images.len()) };
        bench.report(&session, &lease.lease, &[done(a), error(b, class), done(c)]).await;
    }
    assert_eq!(bench.store.finish_job(&id, bench.now).await.unwrap().state, JobState::Failed);
    (id, session)
}

pub async fn failed_images_are_tried_again(bench: Bench) {
    let (id, session) = half_failed(&bench, ErrorClass::Prompt, ErrorClass::Size).await;
    let changed = bench.store.change_job(&id, &Change::Retry(None), &by_bob(), bench.now).await.unwrap();
    assert_eq!((changed.retried, changed.job.state), (2, JobState::Running));
    assert_eq!((changed.job.done, changed.job.failed, changed.job.finished_at), (4, 0, None));
    bench.check_invariants().await;
    // Sent again, there is nothing left to do.
    let again = bench.store.change_job(&id, &Change::Retry(None), &by_bob(), bench.now).await.unwrap();
    assert_eq!((again.retried, again.job), (0, changed.job));
    let lease = bench.lease(&session).await.unwrap();
    assert_eq!(lease.lease.attempt, 2, "an old attempt stays old");
    assert_eq!(lease.images.iter().map(|image| image.index).collect::<Vec<_>>(), [1]);
    // It may fail once more, and be tried once more.
    bench.report(&session, &lease.lease, &[error(&lease.images[0], ErrorClass::Prompt)]).await;
    bench.render_all(&session).await;
    let failed = bench.store.finish_job(&id, bench.now).await.unwrap();
    assert_eq!((failed.state, failed.done, failed.failed), (JobState::Failed, 5, 1));
    bench.change(&id, Change::Retry(None)).await;
    bench.render_all(&session).await;
    let ended = bench.store.finish_job(&id, bench.now).await.unwrap();
    assert_eq!((ended.state, ended.done, ended.failed), (JobState::Succeeded, 6, 0));
    let images = bench.images(&id).await;
    assert!(images.iter().all(|image| image.state == ImageState::Done));
    assert_eq!(images[1].result.as_ref().unwrap().attempt, 3);
    bench.check_invariants().await;
}

pub async fn only_one_class_is_tried_again(bench: Bench) {
    let (id, session) = half_failed(&bench, ErrorClass::Prompt, ErrorClass::Size).await;
    let retry = Change::Retry(Some(ErrorClass::Size));
    let changed = bench.store.change_job(&id, &retry, &by_bob(), bench.now).await.unwrap();
    assert_eq!((changed.retried, changed.job.failed), (1, 1));
    let lease = bench.lease(&session).await.unwrap();
    assert_eq!(lease.images.iter().map(|image| image.index).collect::<Vec<_>>(), [4]);
    bench.report(&session, &lease.lease, &[done(&lease.images[0])]).await;
    assert_eq!(bench.lease(&session).await, None);
    assert_eq!(bench.store.finish_job(&id, bench.now).await.unwrap().failed, 1);
    bench.check_invariants().await;
}

pub async fn a_cancelled_job_is_not_tried_again(bench: Bench) {
    let id = bench.submit("a", 2, 2).await;
    let session = bench.session("w").await;
    let lease = bench.lease(&session).await.unwrap();
    bench.report(&session, &lease.lease, &[error(&lease.images[0], ErrorClass::Prompt)]).await;
    bench.change(&id, Change::Cancel).await;
    let refused = bench.store.change_job(&id, &Change::Retry(None), &by_bob(), bench.now).await;
    assert!(matches!(refused, Err(Error::Move(_))), "{refused:?}");
    assert_eq!(bench.store.job(id.as_str()).await.unwrap().failed, 1, "nothing of it is kept");
    bench.check_invariants().await;
}

pub async fn jobs_of_a_held_owner_wait(bench: Bench) {
    bench.submit("a", 2, 2).await;
    let session = bench.session("w").await;
    bench.store.hold_owner("ann", true, &by_bob(), bench.now).await.unwrap();
    assert_eq!(bench.lease(&session).await, None);
    bench.store.weigh_owner("ann", 2.5, &by_bob(), bench.now).await.unwrap();
    bench.store.hold_owner("ann", false, &by_bob(), bench.now).await.unwrap();
    assert_eq!(bench.store.open_jobs(bench.now).await.unwrap()[0].owner_weight, 2.5);
    assert!(bench.lease(&session).await.is_some());
    for wrong in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let refused = bench.store.weigh_owner("ann", wrong, &by_bob(), bench.now).await;
        assert!(matches!(refused, Err(Error::Invalid(_))), "{wrong}: {refused:?}");
    }
}

pub async fn the_history_tells_who_and_why(bench: Bench) {
    let (id, _) = half_failed(&bench, ErrorClass::Prompt, ErrorClass::Size).await;
    bench.change(&id, Change::Retry(None)).await;
    bench.change(&id, Change::Priority(3)).await;
    bench.change(&id, Change::Pause).await;
    bench.change(&id, Change::Resume).await;
    bench.store.hold_owner("ann", true, &by_bob(), bench.now).await.unwrap();
    bench.change(&id, Change::Cancel).await;
    let rows =
        bench.sql("select kind, actor, reason from audit_events where reason is not null order by seq").await;
    let expected =
        ["job_retried", "job_prioritised", "job_paused", "job_resumed", "owner_held", "job_cancelled"];
    let text = |text: &str| Cell::Text(text.to_owned());
    let expected: Vec<_> =
        expected.iter().map(|kind| vec![text(kind), text("bob"), text("because")]).collect();
    assert_eq!(rows, expected);
    let others = "select distinct actor from audit_events where reason is null order by actor";
    assert_eq!(bench.sql(others).await, [[text("ann")], [text("coordinator")], [text("w")]]);
}

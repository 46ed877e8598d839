//! Committing results and errors.

use std::time::Duration;

use super::Bench;
use super::bench::*;
use crate::domain::blame::ErrorClass;
use crate::domain::id::SessionId;
use crate::domain::state::ImageState;
use crate::store::Error;
use crate::store::records::{Cell, Change, LeaseRef, LeasedImage, Outcome, Report, Reported};

pub async fn a_result_is_committed_once(bench: Bench) {
    let id = bench.submit("a", 2, 32).await;
    let session = bench.session("w").await;
    let lease = bench.lease(&session).await.unwrap();
    let results: Vec<_> = lease.images.iter().map(done).collect();
    let first = bench.report(&session, &lease.lease, &results[..1]).await;
    assert_eq!(
        first,
        Reported { accepted: 1, known: 0, held: true, job_complete: false, taken: vec![], failed: vec![] }
    );
    let both = bench.report(&session, &lease.lease, &results).await;
    assert_eq!(
        both,
        Reported { accepted: 1, known: 1, held: false, job_complete: true, taken: vec![], failed: vec![] }
    );
    let again = bench.report(&session, &lease.lease, &results).await;
    assert_eq!(
        again,
        Reported { accepted: 0, known: 2, held: false, job_complete: true, taken: vec![], failed: vec![] }
    );
    let images = bench.images(&id).await;
    let result = images[1].result.as_ref().unwrap();
    assert_eq!((images[1].state, result.bytes, result.attempt), (ImageState::Done, Some(1001), 1));
    assert_eq!((result.worker.as_str(), result.device.as_str()), ("w", "cpu"));
    assert_eq!(result.finished_at, bench.now);
    assert_eq!(bench.value("select outcome from audit_attempts").await, "finished");
    bench.check_invariants().await;
}

pub async fn a_late_result_is_accepted_once(mut bench: Bench) {
    let id = bench.submit("a", 2, 32).await;
    let (old, new) = (bench.session("old").await, bench.session("new").await);
    let first = bench.lease(&old).await.unwrap();
    bench.pass(LEASE);
    bench.store.expire_leases(CAPS, bench.now).await.unwrap();
    let second = bench.lease(&new).await.unwrap();
    let late = bench.report(&old, &first.lease, &[done(&first.images[0])]).await;
    assert_eq!(
        late,
        Reported { accepted: 1, known: 0, held: false, job_complete: false, taken: vec![], failed: vec![] }
    );
    let double = bench.report(&new, &second.lease, &[done(&second.images[0])]).await;
    assert_eq!(
        double,
        Reported { accepted: 0, known: 1, held: true, job_complete: false, taken: vec![], failed: vec![] }
    );
    let images = bench.images(&id).await;
    assert_eq!(images[0].result.as_ref().unwrap().attempt, 1);
    assert_eq!(images[0].result.as_ref().unwrap().worker, "old");
    bench.check_invariants().await;
}

pub async fn a_late_result_completes_a_shard_that_another_holds(mut bench: Bench) {
    bench.submit("a", 1, 32).await;
    let (old, new) = (bench.session("old").await, bench.session("new").await);
    let first = bench.lease(&old).await.unwrap();
    bench.pass(LEASE);
    bench.store.expire_leases(CAPS, bench.now).await.unwrap();
    let second = bench.lease(&new).await.unwrap();
    let late = bench.report(&old, &first.lease, &[done(&first.images[0])]).await;
    assert_eq!(
        late,
        Reported { accepted: 1, known: 0, held: false, job_complete: true, taken: vec![], failed: vec![] }
    );
    assert!(!bench.renew(&new, &second.lease, &[0]).await, "nothing is left under it");
    assert_eq!(bench.lease(&new).await, None);
    let outcome = "select outcome from audit_attempts where attempt = 2";
    assert_eq!(bench.value(outcome).await, "finished");
}

pub async fn an_unknown_session_may_report(bench: Bench) {
    let id = bench.submit("a", 1, 32).await;
    let session = bench.session("w").await;
    let lease = bench.lease(&session).await.unwrap();
    bench.store.close_session(&session, "done", bench.now).await.unwrap();
    let nobody = SessionId::from("nobody".to_owned());
    let reported = bench.report(&nobody, &lease.lease, &[done(&lease.images[0])]).await;
    assert_eq!((reported.accepted, reported.held), (1, false));
    assert_eq!(bench.images(&id).await[0].result.as_ref().unwrap().worker, "");
    assert_eq!(bench.lease(&bench.session("other").await).await, None, "the shard is done");
}

pub async fn what_was_never_leased_is_refused(bench: Bench) {
    bench.submit("a", 4, 2).await;
    let session = bench.session("w").await;
    let lease = bench.lease(&session).await.unwrap();
    let good = &lease.images[0];
    let report = async |lease: &LeaseRef, result| bench.try_report(&session, lease, &[result]).await;
    let elsewhere = LeasedImage { index: 3, ..good.clone() };
    assert!(matches!(report(&lease.lease, done(&elsewhere)).await, Err(Error::Invalid(_))));
    let other_name = LeasedImage { object: "x.png".to_owned(), ..good.clone() };
    assert!(matches!(report(&lease.lease, done(&other_name)).await, Err(Error::Invalid(_))));
    let never = LeaseRef { attempt: 2, ..lease.lease.clone() };
    assert!(matches!(report(&never, done(good)).await, Err(Error::Invalid(_))));
    let unknown = LeaseRef { shard: crate::domain::id::ShardId::from("x".to_owned()), attempt: 1 };
    assert!(matches!(report(&unknown, done(good)).await, Err(Error::NotFound { what: "shard", .. })));
    let mut broken = done(good);
    if let Outcome::Done { sha256, .. } = &mut broken.outcome {
        *sha256 = "zz".to_owned();
    }
    assert!(matches!(report(&lease.lease, broken).await, Err(Error::Invalid(_))));
    assert_eq!(bench.value("select sum(done + failed) from audit_jobs").await, "0");
}

pub async fn a_wrong_report_is_refused_and_the_others_are_kept(bench: Bench) {
    let id = bench.submit("a", 4, 2).await;
    let session = bench.session("w").await;
    let (one, two) = (bench.lease(&session).await.unwrap(), bench.lease(&session).await.unwrap());
    let report = |lease: &LeaseRef, images: &[LeasedImage]| Report {
        session: session.clone(),
        lease: lease.clone(),
        results: images.iter().map(done).collect(),
        archive: None,
    };
    let foreign = [one.images[0].clone(), two.images[0].clone()];
    let reports = [
        report(&one.lease, &foreign),
        report(&two.lease, &two.images),
        report(&LeaseRef { attempt: 2, ..one.lease.clone() }, &one.images),
        report(&one.lease, &one.images[1..]),
    ];
    let answers = bench.store.report_results(&reports, CAPS, bench.now).await.unwrap();
    let accepted: Vec<_> =
        answers.iter().map(|answer| answer.as_ref().map(|reported| reported.accepted)).collect();
    assert!(
        matches!(accepted[..], [Err(Error::Invalid(_)), Ok(2), Err(Error::Invalid(_)), Ok(1)]),
        "{accepted:?}"
    );
    let job = bench.store.job(id.as_str()).await.unwrap();
    assert_eq!(job.done, 3, "nothing of a refused report is kept");
    bench.check_invariants().await;
}

pub async fn an_error_sent_twice_counts_once(bench: Bench) {
    bench.submit("a", 1, 32).await;
    let session = bench.session("w").await;
    let lease = bench.lease(&session).await.unwrap();
    let failed = error(&lease.images[0], ErrorClass::Internal);
    let first = bench.report(&session, &lease.lease, std::slice::from_ref(&failed)).await;
    assert_eq!(
        first,
        Reported { accepted: 1, known: 0, held: true, job_complete: false, taken: vec![], failed: vec![] }
    );
    let second = bench.report(&session, &lease.lease, &[failed]).await;
    assert_eq!((second.accepted, second.known), (0, 1));
    assert_eq!(bench.value("select errors from audit_images").await, "1");
}

pub async fn an_error_is_told_by_whom_the_attempt_was_given_to(bench: Bench) {
    bench.submit("a", 2, 32).await;
    let (holder, other) = (bench.session("holder").await, bench.session("other").await);
    let lease = bench.lease(&holder).await.unwrap();
    // A report is refused whole.
    let results = [done(&lease.images[0]), error(&lease.images[1], ErrorClass::Prompt)];
    let foreign = bench.try_report(&other, &lease.lease, &results).await;
    assert!(matches!(foreign, Err(Error::Invalid(_))), "{foreign:?}");
    let nobody = SessionId::from("nobody".to_owned());
    let unknown = bench.try_report(&nobody, &lease.lease, &results).await;
    assert!(matches!(unknown, Err(Error::NotFound { what: "session", .. })), "{unknown:?}");
    assert_eq!(bench.value("select sum(done + failed) from audit_jobs").await, "0");
    // The same worker, come back.
    let again = bench.session("holder").await;
    let told = bench.report(&again, &lease.lease, &results).await;
    assert_eq!(
        told,
        Reported { accepted: 2, known: 0, held: false, job_complete: true, taken: vec![], failed: vec![1] }
    );
    bench.check_invariants().await;
}

pub async fn an_image_with_too_many_errors_fails(mut bench: Bench) {
    let id = bench.submit("a", 2, 32).await;
    let session = bench.session("w").await;
    for attempt in 1..=CAPS.errors {
        let lease = bench.lease(&session).await.unwrap();
        assert_eq!((lease.lease.attempt, lease.images[0].index), (attempt, 0));
        let failed = error(&lease.images[0], ErrorClass::OutOfMemory);
        bench.report(&session, &lease.lease, &[failed]).await;
        bench.release(&session, &lease.lease, &finished()).await;
        bench.pass(Duration::from_secs(600));
    }
    let job = bench.store.job(id.as_str()).await.unwrap();
    assert_eq!((job.failed, job.error.as_deref()), (1, Some("out_of_memory went wrong")));
    // Its neighbour goes on.
    let lease = bench.lease(&session).await.unwrap();
    assert_eq!(lease.images.len(), 1);
    let last = bench.report(&session, &lease.lease, &[done(&lease.images[0])]).await;
    assert!(last.job_complete);
    bench.check_invariants().await;
}

pub async fn an_image_that_fails_on_different_workers_fails(mut bench: Bench) {
    let id = bench.submit("a", 2, 32).await;
    for (worker, left) in [("one", ImageState::Pending), ("two", ImageState::Failed)] {
        let session = bench.session(worker).await;
        let lease = bench.lease(&session).await.unwrap();
        bench.report(&session, &lease.lease, &[error(&lease.images[0], ErrorClass::BadImage)]).await;
        bench.release(&session, &lease.lease, &finished()).await;
        bench.pass(Duration::from_secs(10));
        assert_eq!(bench.images(&id).await[0].state, left, "after {worker}");
    }
    assert_eq!(bench.images(&id).await[1].state, ImageState::Pending, "its neighbour goes on");
    // Tried anew, both workers count anew.
    bench.store.change_job(&id, &Change::Retry(None), &by_bob(), bench.now).await.unwrap();
    let session = bench.session("two").await;
    let lease = bench.lease(&session).await.unwrap();
    bench.report(&session, &lease.lease, &[error(&lease.images[0], ErrorClass::BadImage)]).await;
    assert_eq!(bench.images(&id).await[0].state, ImageState::Pending);
}

pub async fn a_worker_that_fails_image_after_image_is_taken_out_and_forgiven(mut bench: Bench) {
    bench.submit("a", 8, 1).await;
    let bad = bench.session("bad").await;
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(bench.lease(&bad).await.unwrap());
    }
    for lease in &held[..3] {
        bench.report(&bad, &lease.lease, &[error(&lease.images[0], ErrorClass::Internal)]).await;
    }
    assert_eq!(bench.lease(&bad).await, None, "it is taken out");
    let again = bench.session("bad").await;
    assert_eq!(bench.lease(&again).await, None, "a new session does not help");
    assert!(bench.lease(&bench.session("good").await).await.is_some());
    let told = "select worker, count(*) from audit_events where kind = 'worker_excluded' group by worker";
    assert_eq!(bench.sql(told).await, [[Cell::Text("bad".to_owned()), Cell::Integer(1)]]);
    bench.pass(Duration::from_secs(60));
    let lease = bench.lease(&bad).await.unwrap();
    // What it holds it may finish; a picture forgives all.
    bench.report(&bad, &lease.lease, &[done(&lease.images[0])]).await;
    for lease in &held[3..] {
        bench.report(&bad, &lease.lease, &[error(&lease.images[0], ErrorClass::Internal)]).await;
    }
    assert!(bench.lease(&bad).await.is_some(), "two failures are not three");
}

pub async fn a_permanent_error_fails_the_image_at_once(bench: Bench) {
    let id = bench.submit("a", 1, 32).await;
    let session = bench.session("w").await;
    let lease = bench.lease(&session).await.unwrap();
    let failed = error(&lease.images[0], ErrorClass::Conflict);
    let reported = bench.report(&session, &lease.lease, &[failed]).await;
    assert_eq!((reported.held, reported.job_complete), (false, true));
    let images = bench.images(&id).await;
    let result = images[0].result.as_ref().unwrap();
    assert_eq!(images[0].state, ImageState::Failed);
    assert_eq!(result.error, Some((ErrorClass::Conflict, "conflict went wrong".to_owned())));
    for (states, count) in [
        (vec![ImageState::Failed], 1),
        (vec![ImageState::Done], 0),
        (vec![ImageState::Done, ImageState::Failed], 1),
        (vec![ImageState::Pending, ImageState::Done], 0),
        (vec![ImageState::Pending, ImageState::Failed], 1),
    ] {
        let found = bench.store.images(&id, &states, 0, 10).await.unwrap();
        assert_eq!(found, images[..count], "{states:?}");
    }
    // A picture that comes later changes nothing: a result is committed once and for ever.
    let late = bench.report(&session, &lease.lease, &[done(&lease.images[0])]).await;
    assert_eq!((late.accepted, late.known), (0, 1));
    assert_eq!(bench.images(&id).await, images);
}

pub async fn a_shard_with_errors_waits_before_it_is_tried_again(mut bench: Bench) {
    bench.submit("a", 1, 32).await;
    let session = bench.session("w").await;
    let lease = bench.lease(&session).await.unwrap();
    bench.report(&session, &lease.lease, &[error(&lease.images[0], ErrorClass::Internal)]).await;
    bench.release(&session, &lease.lease, &finished()).await;
    assert_eq!(bench.lease(&session).await, None);
    bench.pass(crate::domain::blame::retry_delay(1));
    assert_eq!(bench.lease(&session).await.unwrap().lease.attempt, 2);
}

pub async fn an_image_that_loses_its_worker_too_often_fails(mut bench: Bench) {
    let id = bench.submit("a", 3, 32).await;
    for attempt in 1..=CAPS.losses {
        let session = bench.session("w").await;
        let lease = bench.lease(&session).await.unwrap();
        assert_eq!(lease.lease.attempt, attempt);
        // Named twice it counts once; what is not of the shard does not count.
        assert!(bench.renew(&session, &lease.lease, &[1, 1, 77, u64::MAX]).await);
        bench.pass(LEASE);
        assert_eq!(bench.store.expire_leases(CAPS, bench.now).await.unwrap(), 1);
    }
    let images = bench.images(&id).await;
    let states: Vec<ImageState> = images.iter().map(|image| image.state).collect();
    assert_eq!(states, [ImageState::Pending, ImageState::Failed, ImageState::Pending]);
    let (class, _) = images[1].result.as_ref().unwrap().error.clone().unwrap();
    assert_eq!(class, ErrorClass::WorkerLost);
    let lease = bench.lease(&bench.session("w").await).await.unwrap();
    let indices: Vec<u64> = lease.images.iter().map(|image| image.index).collect();
    assert_eq!(indices, [0, 2]);
    bench.check_invariants().await;
}

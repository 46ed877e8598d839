//! Pictures whose objects are lost are rendered again.

use std::time::Duration;

use super::Bench;
use super::bench::*;
use crate::domain::blame::ErrorClass;
use crate::domain::event::{EventKind, ImageKind};
use crate::domain::id::JobId;
use crate::domain::state::{ImageState, JobState};
use crate::domain::tail::{Part, Share};
use crate::store::Error;
use crate::store::records::{Cell, Change, Changed, ImageReport, LeasedImage, Outcome, Reported};

impl Bench {
    async fn requeue(&self, job: &JobId, indices: &[u64]) -> Changed {
        let change = Change::Requeue(indices.to_vec());
        self.store.change_job(job, &change, &by_bob(), self.now).await.unwrap()
    }
}

/// The same image, rendered anew.
fn anew(image: &LeasedImage) -> ImageReport {
    let mut report = done(image);
    if let Outcome::Done { bytes, .. } = &mut report.outcome {
        *bytes = 5;
    }
    report
}

pub async fn lost_pictures_are_rendered_again(mut bench: Bench) {
    let id = bench.submit("a", 6, 3).await;
    let session = bench.session("w").await;
    bench.render_all(&session).await;
    bench.store.finish_job(&id, bench.now).await.unwrap();
    bench.pass(Duration::from_secs(60));
    let changed = bench.requeue(&id, &[1, 4, 4, 99, u64::MAX]).await;
    assert_eq!((changed.retried, changed.job.state), (2, JobState::Running));
    assert_eq!((changed.job.done, changed.job.failed, changed.job.finished_at), (4, 0, None));
    bench.check_invariants().await;
    assert_eq!(bench.requeue(&id, &[1, 4]).await.retried, 0, "they have no result any more");
    let states: Vec<_> = bench.images(&id).await.into_iter().map(|image| image.state).collect();
    let (done, open) = (ImageState::Done, ImageState::Pending);
    assert_eq!(states, [done, open, done, done, open, done]);
    for index in [1, 4] {
        let lease = bench.lease(&session).await.unwrap();
        assert_eq!(lease.lease.attempt, 2, "an old attempt stays old");
        assert_eq!(lease.images.iter().map(|image| image.index).collect::<Vec<_>>(), [index]);
        bench.report(&session, &lease.lease, &[anew(&lease.images[0])]).await;
    }
    assert_eq!(bench.store.finish_job(&id, bench.now).await.unwrap().state, JobState::Succeeded);
    let result = bench.images(&id).await.remove(4).result.unwrap();
    assert_eq!((result.bytes, result.attempt), (Some(5), 2));
    // Lost once more.
    assert_eq!(bench.requeue(&id, &[4]).await.retried, 1);
    bench.render_all(&session).await;
    assert_eq!(bench.images(&id).await[4].result.as_ref().unwrap().attempt, 3);
    bench.check_invariants().await;
    let attempts = "select sum(done) from audit_attempts";
    assert_eq!(bench.value(attempts).await, "6", "what was taken back does not count");
}

pub async fn what_an_attempt_of_that_time_tells_again_is_passed_over(mut bench: Bench) {
    let id = bench.submit("a", 2, 2).await;
    let session = bench.session("w").await;
    let lease = bench.lease(&session).await.unwrap();
    bench.pass(LEASE);
    bench.store.expire_leases(CAPS, bench.now).await.unwrap();
    let second = bench.lease(&session).await.unwrap();
    let both: Vec<_> = second.images.iter().map(done).collect();
    bench.report(&session, &second.lease, &both).await;
    bench.requeue(&id, &[0]).await;
    for old in [&lease.lease, &second.lease] {
        let told = bench.report(&session, old, &both).await;
        assert_eq!(
            told,
            Reported {
                accepted: 0,
                known: 2,
                held: false,
                job_complete: false,
                taken: Vec::new(),
                failed: vec![]
            }
        );
    }
    bench.check_invariants().await;
    let third = bench.lease(&session).await.unwrap();
    assert_eq!(bench.report(&session, &third.lease, &[anew(&third.images[0])]).await.accepted, 1);
    assert_eq!(bench.images(&id).await[0].result.as_ref().unwrap().attempt, 3);
}

pub async fn a_requeued_image_starts_afresh_and_failures_stay(mut bench: Bench) {
    let id = bench.submit("a", 3, 3).await;
    for worker in ["one", "two"] {
        let session = bench.session(worker).await;
        let lease = bench.lease(&session).await.unwrap();
        let results = match worker {
            "one" => vec![error(&lease.images[0], ErrorClass::Internal)],
            _ => vec![
                done(&lease.images[0]),
                error(&lease.images[1], ErrorClass::Prompt),
                done(&lease.images[2]),
            ],
        };
        bench.report(&session, &lease.lease, &results).await;
        bench.release(&session, &lease.lease, &finished()).await;
        bench.pass(Duration::from_secs(10));
    }
    assert_eq!(bench.store.finish_job(&id, bench.now).await.unwrap().state, JobState::Failed);
    let changed = bench.requeue(&id, &[0, 1]).await;
    assert_eq!((changed.retried, changed.job.done, changed.job.failed), (1, 1, 1));
    // The error that it had before counts no more: two workers would have failed it.
    let session = bench.session("three").await;
    let lease = bench.lease(&session).await.unwrap();
    bench.report(&session, &lease.lease, &[error(&lease.images[0], ErrorClass::Internal)]).await;
    assert_eq!(bench.images(&id).await[0].state, ImageState::Pending);
    bench.check_invariants().await;
}

pub async fn nothing_of_a_cancelled_job_is_requeued(bench: Bench) {
    let id = bench.submit("a", 2, 1).await;
    let session = bench.session("w").await;
    let lease = bench.lease(&session).await.unwrap();
    bench.report(&session, &lease.lease, &[done(&lease.images[0])]).await;
    bench.change(&id, Change::Cancel).await;
    let refused = bench.store.change_job(&id, &Change::Requeue(vec![0]), &by_bob(), bench.now).await;
    assert!(matches!(refused, Err(Error::Move(_))), "{refused:?}");
    assert_eq!(bench.images(&id).await[0].state, ImageState::Done);
    bench.check_invariants().await;
}

pub async fn a_picture_of_a_shard_that_is_held_or_cut_is_requeued(bench: Bench) {
    let id = bench.submit("a", 8, 8).await;
    let (one, two) = (bench.session("one").await, bench.session("two").await);
    let lease = bench.lease(&one).await.unwrap();
    let share = Share { shard: lease.lease.shard.clone(), attempt: 1, part: Part::Last(3) };
    let part = bench.store.take_over(&two, &share, LEASE, bench.now).await.unwrap().unwrap();
    // Of its own images two, and one that is the part's now.
    let results: Vec<_> = [0, 1, 6].iter().map(|index| done(&lease.images[*index])).collect();
    bench.report(&one, &lease.lease, &results).await;
    assert_eq!(bench.requeue(&id, &[0, 6]).await.retried, 2);
    bench.check_invariants().await;
    // Who holds them does the rest and hands back what is open again.
    let rest: Vec<_> = lease.images[2..5].iter().map(done).collect();
    assert!(bench.report(&one, &lease.lease, &rest).await.held);
    bench.release(&one, &lease.lease, &drain()).await;
    let rest: Vec<_> = part.images.iter().map(anew).collect();
    let told = bench.report(&two, &part.lease, &rest).await;
    assert_eq!((told.accepted, told.known, told.job_complete), (3, 0, false));
    let again = bench.lease(&one).await.unwrap();
    assert_eq!(again.images.iter().map(|image| image.index).collect::<Vec<_>>(), [0]);
    assert!(bench.report(&one, &again.lease, &[anew(&again.images[0])]).await.job_complete);
    bench.check_invariants().await;
}

pub async fn the_history_tells_of_the_picture_that_was_lost(mut bench: Bench) {
    let id = bench.submit("a", 2, 2).await;
    let session = bench.session("w").await;
    bench.render_all(&session).await;
    bench.pass(Duration::from_secs(60));
    bench.requeue(&id, &[1]).await;
    bench.pass(Duration::from_secs(1));
    bench.render_all(&session).await;
    let story = bench.store.image_story(&id, 1).await.unwrap().unwrap();
    let kinds: Vec<_> = story.events.iter().map(|event| event.kind.as_str()).collect();
    let (granted, finished) = (EventKind::LeaseGranted.word(), EventKind::LeaseFinished.word());
    let picture = ImageKind::ImageDone.word();
    assert_eq!(
        kinds,
        [
            EventKind::JobSubmitted.word(),
            granted,
            picture,
            finished,
            EventKind::JobRequeued.word(),
            granted,
            picture,
            finished
        ]
    );
    let requeued = &story.events[4];
    assert_eq!((requeued.actor.as_str(), requeued.reason.as_str()), ("bob", "because"));
    assert_eq!(requeued.detail.replace(' ', ""), r#"{"images":1}"#);
    let other = bench.store.image_story(&id, 0).await.unwrap().unwrap();
    assert!(other.events.iter().all(|event| event.kind != EventKind::JobRequeued.word()));
}

pub async fn a_deadline_that_was_met_ends_no_job_that_is_rendered_again(mut bench: Bench) {
    let mut wanted = spec("a");
    wanted.deadline = Some(bench.now + Duration::from_secs(100));
    let id = bench.submit_rows(wanted, (1..=1).map(row), 1).await;
    bench.render_all(&bench.session("w").await).await;
    bench.store.finish_job(&id, bench.now).await.unwrap();
    bench.pass(Duration::from_secs(200));
    assert_eq!(bench.requeue(&id, &[0]).await.job.deadline, None);
    assert_eq!(bench.store.call_off(bench.now).await.unwrap(), []);
    assert!(bench.lease(&bench.session("w").await).await.is_some());
}

pub async fn device_time_that_was_used_is_counted_for_ever(mut bench: Bench) {
    let id = bench.submit("a", 3, 3).await;
    let session = bench.session("w").await;
    let lease = bench.lease(&session).await.unwrap();
    let mut results: Vec<_> = lease.images.iter().map(done).collect();
    results[2] = error(&lease.images[2], ErrorClass::Prompt);
    bench.report(&session, &lease.lease, &results).await;
    // Two pictures of two seconds, half a second each for the decoding, and a second for the failure.
    let usage = async |bench: &Bench, column: &str| {
        let sql =
            format!("select cast(sum({column}) as double precision) from audit_usage where owner = 'ann'");
        bench.value(&sql).await.parse::<f64>().unwrap()
    };
    assert_eq!(usage(&bench, "device_seconds").await, 5.0);
    bench.requeue(&id, &[0]).await;
    bench.change(&id, Change::Retry(None)).await;
    assert_eq!(usage(&bench, "device_seconds").await, 5.0, "what was taken back was used all the same");
    assert_eq!(usage(&bench, "images").await, 1.0);
    // The next day by another worker.
    bench.pass(Duration::from_secs(24 * 3600));
    bench.render_all(&bench.session("other").await).await;
    assert_eq!(usage(&bench, "device_seconds").await, 9.0);
    assert_eq!(usage(&bench, "decode_seconds").await, 2.0);
    assert_eq!(usage(&bench, "taken_back_seconds").await, 3.0);
    let columns = ["images", "failed", "bytes", "taken_back"];
    let mut sums = Vec::new();
    for column in columns {
        sums.push(usage(&bench, column).await);
    }
    assert_eq!(sums, [3.0, 0.0, 3003.0, 2.0], "pictures and bytes are those that are there");
    let by_worker =
        "select worker, cast(device_seconds as double precision), images from audit_usage order by day";
    let cell = |worker: &str, seconds, images| {
        vec![Cell::Text(worker.to_owned()), Cell::Real(seconds), Cell::Integer(images)]
    };
    assert_eq!(bench.sql(by_worker).await, [cell("w", 5.0, 1), cell("other", 4.0, 2)]);
}

pub async fn without_images_a_job_that_has_ended_writes_its_files_anew(bench: Bench) {
    let id = bench.submit("a", 2, 2).await;
    let session = bench.session("w").await;
    assert_eq!(bench.requeue(&id, &[]).await.job.state, JobState::Pending, "they will be written");
    bench.render_all(&session).await;
    bench.store.finish_job(&id, bench.now).await.unwrap();
    assert_eq!(bench.store.jobs_to_finish().await.unwrap(), []);
    let changed = bench.requeue(&id, &[]).await;
    assert_eq!((changed.retried, changed.job.state, changed.job.done), (0, JobState::Running, 2));
    assert_eq!(bench.lease(&session).await, None, "nothing is rendered");
    assert_eq!(bench.store.jobs_to_finish().await.unwrap().len(), 1);
    assert_eq!(bench.store.finish_job(&id, bench.now).await.unwrap().state, JobState::Succeeded);
    bench.check_invariants().await;
}

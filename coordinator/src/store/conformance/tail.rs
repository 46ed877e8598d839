//! The end of a job: shards that are cut, and images that two workers render.

use std::time::Duration;

use super::Bench;
use super::bench::*;
use crate::domain::blame::ErrorClass;
use crate::domain::id::SessionId;
use crate::domain::spec::Row;
use crate::domain::state::JobState;
use crate::domain::tail::{Part, Share};
use crate::store::Error;
use crate::store::records::{Change, Lease, LeaseRef, Subject};

impl Bench {
    async fn take_over(&self, session: &SessionId, from: &LeaseRef, part: Part) -> Option<Lease> {
        let share = Share { shard: from.shard.clone(), attempt: from.attempt, part };
        self.store.take_over(session, &share, LEASE, self.now).await.unwrap()
    }

    /// The last image that a held lease is for; none when it is gone.
    async fn last_index(&self, session: &SessionId, lease: &LeaseRef, rendering: &[u64]) -> Option<u64> {
        let kept = self.try_renew(session, lease, rendering).await.unwrap();
        kept.first().map(|kept| kept.last_index)
    }
}

fn indices(lease: &Lease) -> Vec<u64> {
    lease.images.iter().map(|image| image.index).collect()
}

pub async fn the_end_of_a_job_is_told(mut bench: Bench) {
    let id = bench.submit("a", 20, 10).await;
    let (one, two) = (bench.session("one").await, bench.session("two").await);
    let first = bench.lease(&one).await.unwrap();
    assert_eq!(bench.store.tails(bench.now).await.unwrap(), [], "a shard is ready");
    let second = bench.lease(&one).await.unwrap();
    bench.pass(Duration::from_secs(9));
    bench.report(&one, &first.lease, &[done(&first.images[0])]).await;
    bench.renew(&one, &first.lease, &[0, 1]).await;
    let tails = bench.store.tails(bench.now).await.unwrap();
    assert_eq!(tails.len(), 1);
    let job = &tails[0].job;
    assert_eq!((&job.id, job.owner.as_str(), job.leased_images), (&id, "ann", 20));
    assert_eq!(tails[0].pace, Some(2.0));
    let told: Vec<_> = tails[0]
        .held
        .iter()
        .map(|held| {
            (&held.shard, held.attempt, held.held_for.as_secs(), held.done, held.remaining, held.rendering)
        })
        .collect();
    assert_eq!(told, [(&first.lease.shard, 1, 9, 1, 9, 1), (&second.lease.shard, 1, 9, 0, 10, 0)]);
    let waiting = [two.clone(), one.clone()];
    assert_eq!(bench.store.idle(&waiting).await.unwrap(), std::slice::from_ref(&two));
    bench.store.hold_owner("ann", true, &by_bob(), bench.now).await.unwrap();
    assert_eq!(bench.store.tails(bench.now).await.unwrap(), [], "its owner's jobs are held");
}

pub async fn what_is_cut_off_is_a_shard_of_its_own(bench: Bench) {
    let id = bench.submit("a", 10, 10).await;
    let (one, two) = (bench.session("one").await, bench.session("two").await);
    let first = bench.lease(&one).await.unwrap();
    assert_eq!(bench.last_index(&one, &first.lease, &[0]).await, Some(9));
    let part = bench.take_over(&two, &first.lease, Part::Last(4)).await.unwrap();
    assert_eq!((indices(&part), part.lease.attempt), (vec![6, 7, 8, 9], 2), "no image sees an attempt twice");
    assert_eq!(part.settings, first.settings);
    assert_eq!(part.images[..], first.images[6..]);
    assert_eq!(bench.last_index(&one, &first.lease, &[0]).await, Some(5));
    let again = bench.take_over(&bench.session("three").await, &part.lease, Part::Last(2)).await.unwrap();
    assert_eq!((indices(&again), again.lease.attempt), (vec![8, 9], 3));
    let results: Vec<_> = first.images[..6].iter().map(done).collect();
    let reported = bench.report(&one, &first.lease, &results).await;
    assert_eq!((reported.accepted, reported.held, reported.job_complete), (6, false, false));
    bench.render_all(&two).await;
    let of_three: Vec<_> = again.images.iter().map(done).collect();
    bench.report(&two, &again.lease, &of_three).await;
    let reported = bench.report(&two, &part.lease, &[done(&part.images[0]), done(&part.images[1])]).await;
    assert_eq!((reported.accepted, reported.held, reported.job_complete), (2, false, true));
    let job = bench.store.finish_job(&id, bench.now).await.unwrap();
    assert_eq!((job.state, job.done), (JobState::Succeeded, 10));
    let shards = "select sum(images) from (select distinct shard_id, images from audit_attempts) as s";
    assert_eq!(bench.value(shards).await, "10", "the parts are the whole");
    assert_eq!(bench.value("select sum(done) from audit_attempts").await, "10");
    assert_eq!(bench.value("select count(*) from audit_events where kind = 'shard_cut'").await, "2");
    assert_eq!(bench.value("select count(*) from audit_attempts where outcome <> 'finished'").await, "0");
    bench.check_invariants().await;
}

pub async fn what_was_rendered_before_the_cut_was_known_counts(bench: Bench) {
    bench.submit("a", 6, 6).await;
    let (one, two) = (bench.session("one").await, bench.session("two").await);
    let first = bench.lease(&one).await.unwrap();
    let part = bench.take_over(&two, &first.lease, Part::Last(3)).await.unwrap();
    let late = bench.report(&one, &first.lease, &[done(&first.images[5]), done(&first.images[0])]).await;
    assert_eq!((late.accepted, late.known, late.held), (2, 0, true));
    let results: Vec<_> = part.images.iter().map(done).collect();
    let reported = bench.report(&two, &part.lease, &results).await;
    assert_eq!((reported.accepted, reported.known, reported.held), (2, 1, false));
    let all: Vec<_> = first.images.iter().map(done).collect();
    let reported = bench.report(&one, &first.lease, &all).await;
    assert_eq!((reported.accepted, reported.known, reported.job_complete), (2, 4, true));
    let by_worker = "select worker, sum(done) from audit_attempts group by worker order by worker";
    assert_eq!(
        format!("{:?}", bench.sql(by_worker).await),
        r#"[[Text("one"), Integer(4)], [Text("two"), Integer(2)]]"#
    );
    bench.check_invariants().await;
}

pub async fn a_part_may_be_completed_by_who_had_it_before(bench: Bench) {
    bench.submit("a", 4, 4).await;
    let (one, two) = (bench.session("one").await, bench.session("two").await);
    let first = bench.lease(&one).await.unwrap();
    let part = bench.take_over(&two, &first.lease, Part::Last(2)).await.unwrap();
    let all: Vec<_> = first.images[2..].iter().map(done).collect();
    assert!(bench.report(&one, &first.lease, &all).await.held);
    assert!(!bench.renew(&two, &part.lease, &[]).await, "there is nothing left to do");
    let mut wrong = done(&first.images[0]);
    wrong.index = 4;
    let refused = bench.try_report(&one, &first.lease, &[wrong]).await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    bench.check_invariants().await;
}

pub async fn errors_of_what_was_cut_off_count_apart(bench: Bench) {
    let id = bench.submit("a", 4, 4).await;
    let (one, two) = (bench.session("one").await, bench.session("two").await);
    let first = bench.lease(&one).await.unwrap();
    let part = bench.take_over(&two, &first.lease, Part::Last(2)).await.unwrap();
    let broken = |lease: &Lease| {
        let image = lease.images.iter().find(|image| image.index == 3).unwrap();
        [error(image, ErrorClass::OutOfMemory)]
    };
    assert_eq!(bench.report(&one, &first.lease, &broken(&first)).await.accepted, 1);
    assert_eq!(bench.report(&two, &part.lease, &broken(&part)).await.accepted, 1, "another attempt");
    let failed = bench.store.job(id.as_str()).await.unwrap().failed;
    assert_eq!(failed, 1, "two workers failed it");
    bench.report(&two, &part.lease, &[done(&part.images[0])]).await;
    let results: Vec<_> = first.images[..2].iter().map(done).collect();
    assert!(bench.report(&one, &first.lease, &results).await.job_complete);
    bench.store.finish_job(&id, bench.now).await.unwrap();
    bench.change(&id, Change::Retry(None)).await;
    let again = bench.lease(&one).await.unwrap();
    assert_eq!((indices(&again), &again.lease.shard, again.lease.attempt), (vec![3], &part.lease.shard, 3));
    assert!(bench.report(&one, &again.lease, &[done(&again.images[0])]).await.job_complete);
    bench.check_invariants().await;
}

pub async fn a_permanent_error_of_a_part_fails_it_whoever_tells(bench: Bench) {
    let id = bench.submit("a", 2, 2).await;
    let (one, two) = (bench.session("one").await, bench.session("two").await);
    let first = bench.lease(&one).await.unwrap();
    let part = bench.take_over(&two, &first.lease, Part::Last(1)).await.unwrap();
    bench.report(&one, &first.lease, &[error(&first.images[1], ErrorClass::Prompt)]).await;
    assert!(!bench.renew(&two, &part.lease, &[]).await, "there is nothing left to do");
    bench.report(&one, &first.lease, &[done(&first.images[0])]).await;
    bench.store.finish_job(&id, bench.now).await.unwrap();
    assert_eq!(
        bench.store.change_job(&id, &Change::Retry(None), &by_bob(), bench.now).await.unwrap().retried,
        1
    );
    let again = bench.lease(&two).await.unwrap();
    assert_eq!((indices(&again), &again.lease.shard), (vec![1], &part.lease.shard));
    bench.check_invariants().await;
}

pub async fn what_is_in_hand_is_not_cut_off(bench: Bench) {
    bench.submit("a", 6, 6).await;
    let (one, two) = (bench.session("one").await, bench.session("two").await);
    let first = bench.lease(&one).await.unwrap();
    bench.renew(&one, &first.lease, &[3]).await;
    let part = bench.take_over(&two, &first.lease, Part::Last(5)).await.unwrap();
    assert_eq!(indices(&part), [4, 5]);
    assert_eq!(bench.take_over(&two, &first.lease, Part::Last(1)).await, None, "the rest may be in hand");
    bench.renew(&two, &part.lease, &[5]).await;
    assert_eq!(bench.take_over(&bench.session("three").await, &part.lease, Part::Last(1)).await, None);
    bench.check_invariants().await;
}

pub async fn a_lost_part_charges_what_it_had_in_hand(mut bench: Bench) {
    let id = bench.submit("a", 6, 6).await;
    let (one, two) = (bench.session("one").await, bench.session("two").await);
    let first = bench.lease(&one).await.unwrap();
    let part = bench.take_over(&two, &first.lease, Part::Last(3)).await.unwrap();
    bench.renew(&two, &part.lease, &[3]).await;
    bench.pass(LEASE);
    assert!(bench.renew(&one, &first.lease, &[0]).await, "nobody has taken it back yet");
    assert_eq!(bench.store.expire_leases(CAPS, bench.now).await.unwrap(), 1);
    let again = bench.lease(&one).await.unwrap();
    assert_eq!((indices(&again), again.lease.attempt), (vec![3, 4, 5], 3));
    bench.renew(&one, &again.lease, &[3]).await;
    bench.pass(LEASE);
    bench.store.expire_leases(CAPS, bench.now).await.unwrap();
    let images = bench.images(&id).await;
    let error = images[3].result.as_ref().unwrap().error.as_ref().unwrap();
    assert_eq!(error.0, ErrorClass::WorkerLost);
    bench.check_invariants().await;
}

pub async fn a_late_image_is_rendered_by_two(bench: Bench) {
    let id = bench.submit("a", 2, 2).await;
    let (one, two) = (bench.session("one").await, bench.session("two").await);
    let first = bench.lease(&one).await.unwrap();
    bench.report(&one, &first.lease, &[done(&first.images[0])]).await;
    bench.renew(&one, &first.lease, &[1]).await;
    assert_eq!(bench.take_over(&one, &first.lease, Part::Whole).await, None, "it has it");
    let second = bench.take_over(&two, &first.lease, Part::Whole).await.unwrap();
    assert_eq!((indices(&second), second.lease.attempt), (vec![1], 2));
    assert!(!bench.renew(&one, &first.lease, &[1]).await);
    let tails = bench.store.tails(bench.now).await.unwrap();
    assert!(tails[0].held[0].is_second);
    let reported = bench.report(&one, &first.lease, &[done(&first.images[1])]).await;
    assert_eq!((reported.accepted, reported.job_complete), (1, true), "it came first");
    let reported = bench.report(&two, &second.lease, &[done(&second.images[0])]).await;
    assert_eq!((reported.accepted, reported.known, reported.held), (0, 1, false));
    assert_eq!(bench.store.job(id.as_str()).await.unwrap().done, 2);
    assert_eq!(bench.value("select count(*) from audit_events where kind = 'lease_revoked'").await, "1");
    bench.check_invariants().await;
}

pub async fn only_what_is_held_is_taken_over(bench: Bench) {
    let id = bench.submit("a", 8, 4).await;
    let (one, two) = (bench.session("one").await, bench.session("two").await);
    let lease = bench.lease(&one).await.unwrap().lease;
    let old = LeaseRef { attempt: 2, ..lease.clone() };
    assert_eq!(bench.take_over(&two, &old, Part::Whole).await, None, "no such attempt");
    bench.change(&id, Change::Pause).await;
    assert_eq!(bench.take_over(&two, &lease, Part::Last(1)).await, None, "the job gives nothing");
    bench.change(&id, Change::Resume).await;
    bench.store.close_session(&two, "done", bench.now).await.unwrap();
    let share = Share { shard: lease.shard.clone(), attempt: 1, part: Part::Last(1) };
    let closed = bench.store.take_over(&two, &share, LEASE, bench.now).await;
    assert!(matches!(closed, Err(Error::SessionClosed(_))), "{closed:?}");
    let bad = bench.session("bad").await;
    let other = bench.lease(&bad).await.unwrap();
    for image in &other.images[..3] {
        bench.report(&bad, &other.lease, &[error(image, ErrorClass::Internal)]).await;
    }
    assert_eq!(bench.take_over(&bad, &lease, Part::Last(1)).await, None, "its worker was taken out");
    bench.change(&id, Change::Cancel).await;
    let three = bench.session("three").await;
    assert_eq!(bench.take_over(&three, &lease, Part::Whole).await, None, "the job has ended");
    bench.check_invariants().await;
}

pub async fn a_shard_between_those_of_other_groups_is_cut(bench: Bench) {
    let rows = (1..=12).map(|line| Row { width: Some(if line % 2 == 0 { 128 } else { 64 }), ..row(line) });
    let id = bench.submit_rows(spec("a"), rows, 50).await;
    let sessions = [bench.session("a").await, bench.session("b").await, bench.session("c").await];
    let narrow = bench.lease(&sessions[0]).await.unwrap();
    let wide = bench.lease(&sessions[1]).await.unwrap();
    assert_eq!((indices(&narrow), indices(&wide)), (vec![0, 2, 4, 6, 8, 10], vec![1, 3, 5, 7, 9, 11]));
    let part = bench.take_over(&sessions[2], &wide.lease, Part::Last(2)).await.unwrap();
    assert_eq!((indices(&part), part.settings.width), (vec![9, 11], 128));
    for (session, lease) in sessions.iter().zip([&narrow, &wide, &part]) {
        let results: Vec<_> = lease.images.iter().map(done).collect();
        bench.report(session, &lease.lease, &results).await;
    }
    let job = bench.store.finish_job(&id, bench.now).await.unwrap();
    assert_eq!((job.state, job.done), (JobState::Succeeded, 12));
    bench.check_invariants().await;
}

pub async fn the_story_of_an_image_follows_it_from_shard_to_shard(bench: Bench) {
    let id = bench.submit("a", 9, 9).await;
    let (one, two, three) =
        (bench.session("one").await, bench.session("two").await, bench.session("three").await);
    let first = bench.lease(&one).await.unwrap();
    let part = bench.take_over(&two, &first.lease, Part::Last(6)).await.unwrap();
    let last = bench.take_over(&three, &part.lease, Part::Last(3)).await.unwrap();
    // Not the image's any more.
    bench.release(&one, &first.lease, &drain()).await;
    let again = bench.lease(&one).await.unwrap();
    assert_eq!((indices(&again), again.lease.attempt), (vec![0, 1, 2], 2));
    bench.report(&three, &last.lease, &[done(&last.images[2])]).await;
    let story = bench.store.image_story(&id, 8).await.unwrap().unwrap();
    let told: Vec<_> = story
        .events
        .iter()
        .filter(|event| event.attempt.is_some())
        .map(|event| (event.kind.as_str(), event.worker.as_str(), event.attempt.unwrap()))
        .collect();
    assert_eq!(
        told,
        [
            ("lease_granted", "one", 1),
            ("shard_cut", "one", 1),
            ("lease_granted", "two", 2),
            ("shard_cut", "two", 2),
            ("lease_granted", "three", 3),
            ("lease_released", "one", 1),
            ("image_done", "three", 3),
        ]
    );
    let made = async |worker: &str| {
        let of = bench.store.worker(worker).await.unwrap().unwrap();
        bench.store.yielded(&Subject::Worker(of)).await.unwrap().done
    };
    // One that was rendered before the cut was known is its worker's.
    bench.report(&one, &first.lease, &[done(&first.images[7])]).await;
    assert_eq!((made("one").await, made("two").await, made("three").await), (1, 0, 1));
}

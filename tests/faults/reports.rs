//! Reports that come twice, in another order, or late.

use sanafarm_proto::v1::ErrorClass;
use tonic::Code;

use crate::support::books::assert_balanced;
use crate::support::cluster::{Cluster, Coordinator, LONG_LEASES};
use crate::support::hand::{Hand, failure, pictures};
use crate::support::wait_until;

/// Two shards: of 32 images and of 8.
const IMAGES: usize = 40;

/// Two coordinators and a job.
fn farm() -> (Cluster, [Coordinator; 2]) {
    let cluster = Cluster::new();
    let coordinators = [cluster.coordinator(&LONG_LEASES), cluster.coordinator(&LONG_LEASES)];
    cluster.submit(&coordinators[0].address, IMAGES, "64x64", "1");
    (cluster, coordinators)
}

/// The job has ended so, with all its pictures, and everything adds up.
#[track_caller]
fn assert_ended(cluster: &Cluster, state: &str) {
    wait_until("the job to end", || cluster.sql("select state from audit_jobs") == state);
    assert_balanced(cluster);
}

#[test]
fn one_report_at_two_coordinators_at_the_same_moment_counts_once() {
    let (cluster, [first, second]) = farm();
    let here = Hand::open(&first.address, "w");
    let there = here.at(&second.address);
    for shard in 1..=2 {
        let (lease, leased) = here.lease();
        let results = pictures(&leased.images);
        for (number, result) in results.iter().enumerate() {
            let result = std::slice::from_ref(result);
            let told = std::thread::scope(|scope| {
                let other = scope.spawn(|| there.told(&lease, result));
                [here.told(&lease, result), other.join().unwrap()]
            });
            let sum = (told[0].0 + told[1].0, told[0].1 + told[1].1);
            assert_eq!(sum, (1, 1), "image {number} of shard {shard}: {told:?}");
        }
        assert_eq!(there.told(&lease, &results), (0, results.len() as u64, false));
    }
    assert_ended(&cluster, "succeeded");
}

#[test]
fn images_may_be_reported_in_any_order() {
    let (cluster, [first, second]) = farm();
    let here = Hand::open(&first.address, "w");
    let there = here.at(&second.address);
    let ((early, one), (late, two)) = (here.lease(), here.lease());
    // The last of the last shard comes first, one here and one there.
    let mut results = pictures(&one.images).into_iter().map(|result| (&early, result)).collect::<Vec<_>>();
    results.extend(pictures(&two.images).into_iter().map(|result| (&late, result)));
    for (number, (lease, result)) in results.iter().rev().enumerate() {
        let hand = if number % 2 == 0 { &here } else { &there };
        let left = if *lease == &late { two.images.len() > number + 1 } else { IMAGES > number + 1 };
        assert_eq!(hand.told(lease, std::slice::from_ref(result)), (1, 0, left), "report {number}");
    }
    assert_ended(&cluster, "succeeded");
    assert_eq!(cluster.sql("select distinct outcome from audit_attempts"), "finished");
}

#[test]
fn a_lost_worker_adds_pictures_and_changes_nothing_else() {
    let (cluster, [first, second]) = farm();
    let (old, new) = (Hand::open(&first.address, "old"), Hand::open(&second.address, "new"));
    let ((lost, leased), (other, rest)) = (old.lease(), new.lease());
    assert_eq!(old.renew(&lost, &[0]), Ok(true));
    assert_eq!(new.told(&other, &pictures(&rest.images)), (8, 0, false));
    // It is silent from now on. Nobody waits for what it holds: nobody takes over a part of it.
    cluster.sql("update leases set expires_at = now() where ended_at is null");
    let expired = "select count(*) from audit_attempts where outcome = 'lost'";
    wait_until("its lease to expire", || cluster.number(expired) == 1);
    let (lease, again) = new.lease();
    assert_eq!((&lease.shard_id, lease.attempt), (&lost.shard_id, lost.attempt + 1));
    assert_eq!(leased, sanafarm_proto::v1::Lease { r#ref: leased.r#ref.clone(), ..again.clone() });

    let results = pictures(&again.images);
    assert_eq!(old.told(&lost, &results[..1]), (1, 0, false), "a picture is not thrown away");
    assert_eq!(new.told(&lease, &results[..2]), (1, 1, true));
    assert_eq!(old.renew(&lost, &[2]), Ok(false));
    assert_eq!(old.release(&lost), Ok(()));
    assert_eq!(new.renew(&lease, &[2]), Ok(true), "it is as it was");
    // Its last picture ends the lease of the other.
    assert_eq!(new.told(&lease, &results[2..31]), (29, 0, true));
    assert_eq!(old.told(&lost, &results[31..]), (1, 0, false));
    assert_eq!(new.renew(&lease, &[]), Ok(false), "nothing is left to do under it");
    assert_ended(&cluster, "succeeded");

    // Now there is nothing that could be added.
    let history = "select count(*) from events";
    let before = cluster.number(history);
    assert_eq!(old.told(&lost, &results), (0, 32, false));
    assert_eq!(old.told(&lost, &[failure(&again.images[3], ErrorClass::Conflict)]), (0, 1, false));
    assert_eq!(old.renew(&lost, &[3]), Ok(false));
    assert_eq!((cluster.number(history), cluster.number("select count(*) from image_errors")), (before, 0));
    assert_ended(&cluster, "succeeded");
    let by = "select worker, count(*) from audit_images group by worker order by worker";
    assert_eq!(cluster.sql(by), "new|38\nold|2");
}

#[test]
fn a_session_that_was_closed_adds_pictures_and_gets_nothing() {
    let (cluster, [first, second]) = farm();
    let gone = Hand::open(&first.address, "gone");
    let (lease, leased) = gone.lease();
    gone.close();
    let late = gone.at(&second.address);
    assert_eq!(late.told(&lease, &pictures(&leased.images[..1])), (1, 0, false));
    assert_eq!(late.renew(&lease, &[1]), Err(Code::NotFound));
    assert_eq!(late.release(&lease), Err(Code::NotFound));

    let next = Hand::open(&second.address, "next");
    for images in [31, 8] {
        let (lease, leased) = next.lease();
        assert_eq!(leased.images.len(), images, "all that have no picture");
        assert_eq!(next.told(&lease, &pictures(&leased.images)), (images as u64, 0, false));
    }
    assert_ended(&cluster, "succeeded");
    let outcome = "select outcome, done from audit_attempts where worker = 'gone'";
    assert_eq!(cluster.sql(outcome), "released|1");
}

#[test]
fn a_cancelled_job_keeps_the_pictures_that_come_late_and_stays_cancelled() {
    let (cluster, [first, second]) = farm();
    let hand = Hand::open(&first.address, "w");
    let (lease, leased) = hand.lease();
    let job = leased.job_id.as_str();
    cluster.sandbox.run(&["cancel", job, "--coordinator", &second.address]).ok();
    assert_eq!(hand.renew(&lease, &[0]), Ok(false));
    let results = pictures(&leased.images);
    assert_eq!(hand.told(&lease, &results[..2]), (2, 0, false));
    assert_eq!(hand.told(&lease, &results[..3]), (1, 2, false));
    assert_ended(&cluster, "cancelled");
    assert_eq!(cluster.sql("select done, pending from audit_jobs"), "3|37");
}

//! A worker that lies. It is refused, hears why, and nobody's honest work suffers.

use sanafarm_proto::v1::image_result::Outcome;
use sanafarm_proto::v1::{ErrorClass, ImageDone, ImageResult, LeaseRef};
use tonic::Code;

use crate::support::books::assert_balanced;
use crate::support::cluster::{Cluster, Coordinator, LONG_LEASES};
use crate::support::hand::{Hand, failure, picture, pictures};
use crate::support::wait_until;

/// Two shards: of 32 images and of 8.
const IMAGES: usize = 40;

fn farm() -> (Cluster, Coordinator) {
    let cluster = Cluster::new();
    let coordinator = cluster.coordinator(&LONG_LEASES);
    cluster.submit(&coordinator.address, IMAGES, "64x64", "1");
    (cluster, coordinator)
}

/// A result with something else in its picture.
fn forged(result: &ImageResult, forge: impl FnOnce(&mut ImageDone)) -> ImageResult {
    let mut forged = result.clone();
    match &mut forged.outcome {
        Some(Outcome::Done(done)) => forge(done),
        other => panic!("{other:?} is no picture"),
    }
    forged
}

#[test]
fn a_result_that_cannot_be_true_is_refused_with_all_its_report() {
    let (cluster, coordinator) = farm();
    let (liar, honest) =
        (Hand::open(&coordinator.address, "liar"), Hand::open(&coordinator.address, "honest"));
    let ((own, leased), (theirs, foreign)) = (liar.lease(), honest.lease());
    let (good, next) = (picture(&leased.images[0], 0), &leased.images[1]);
    let result = picture(next, 1);

    let sums = ["", "0", &"f".repeat(63), &"f".repeat(65), &"g".repeat(64), "no checksum"];
    let sums = sums.map(|sum| (forged(&result, |done| done.sha256 = sum.to_owned()), "sha256"));
    let names = ["", "../../passwd", &leased.images[0].object, &foreign.images[0].object];
    let names = names.map(|name| (forged(&result, |done| done.object = name.to_owned()), "was written to"));
    let others = [
        (picture(&foreign.images[0], 1), "is not in this shard"),
        (ImageResult { index: IMAGES as u64, ..result.clone() }, "is not in this shard"),
        (ImageResult { index: u64::MAX, ..result.clone() }, "index"),
        (forged(&result, |done| done.bytes = u64::MAX), "bytes"),
        (forged(&result, |done| done.recipe = "no recipe".to_owned()), "is no JSON"),
        (ImageResult { outcome: None, ..result.clone() }, "no outcome"),
        (ImageResult { render_seconds: f64::NAN, ..result.clone() }, "seconds"),
        (ImageResult { render_seconds: -1.0, ..result.clone() }, "seconds"),
        (ImageResult { decode_seconds: f64::INFINITY, ..result.clone() }, "seconds"),
        (failure(&foreign.images[0], ErrorClass::Prompt), "is not in this shard"),
        (failure(next, ErrorClass::WorkerLost), "only the coordinator"),
    ];
    for (lie, why) in sums.into_iter().chain(names).chain(others) {
        let (code, message) = liar.refused(&own, &[good.clone(), lie.clone()]);
        assert!(code == Code::InvalidArgument && message.contains(why), "{code:?} {message}: {lie:?}");
    }
    let never = |shard_id: &str, attempt| LeaseRef { shard_id: shard_id.to_owned(), attempt };
    for attempt in [0, 2, i32::MAX as u32, u32::MAX] {
        let (code, message) = liar.refused(&never(&own.shard_id, attempt), std::slice::from_ref(&good));
        assert!(
            code == Code::InvalidArgument && message.contains("was never given out"),
            "{code:?} {message}"
        );
    }
    for shard in ["", "no shard", "00000000-0000-7000-8000-000000000000"] {
        let (code, message) = liar.refused(&never(shard, 1), std::slice::from_ref(&good));
        assert!(code == Code::OutOfRange && message.contains("no shard"), "{code:?} {message}");
    }
    assert_eq!(cluster.number("select count(*) from results"), 0, "nothing of a refused report is kept");
    assert_eq!(cluster.number("select count(*) from image_errors"), 0);
    assert_eq!(honest.told(&theirs, &pictures(&foreign.images)), (8, 0, false));
    assert_eq!(liar.told(&own, &pictures(&leased.images)), (32, 0, false), "the truth is welcome");
    wait_until("the job to end", || cluster.sql("select state from audit_jobs") == "succeeded");
    assert_balanced(&cluster);
}

#[test]
fn a_worker_has_no_say_about_what_others_hold() {
    let (cluster, coordinator) = farm();
    let (honest, liar) =
        (Hand::open(&coordinator.address, "honest"), Hand::open(&coordinator.address, "liar"));
    let (lease, leased) = honest.lease();
    let expiry = "select expires_at, rendering from audit_attempts where worker = 'honest'";
    assert_eq!(honest.renew(&lease, &[0]), Ok(true));
    let before = cluster.sql(expiry);
    assert_eq!(liar.renew(&lease, &[1]), Ok(false));
    assert_eq!(liar.release(&lease), Ok(()), "a lease that it does not hold is left as it is");
    assert_eq!(cluster.sql(expiry), before);

    // An error is told by whom the attempt was given to, or the worst of them would end what is well.
    for class in [ErrorClass::Internal, ErrorClass::Prompt] {
        let (code, message) = liar.refused(&lease, &[failure(&leased.images[0], class)]);
        let why = "was given to another worker";
        assert!(code == Code::InvalidArgument && message.contains(why), "{code:?} {message}");
    }
    let nobody = liar.nobody();
    let (code, _) = nobody.refused(&lease, &[failure(&leased.images[0], ErrorClass::Prompt)]);
    assert_eq!(code, Code::NotFound);
    assert_eq!(nobody.renew(&lease, &[]), Err(Code::NotFound));
    assert_eq!(nobody.release(&lease), Err(Code::NotFound));
    // One that came back with a new session is the same worker.
    let again = Hand::open(&coordinator.address, "honest");
    assert_eq!(again.told(&lease, &[failure(&leased.images[0], ErrorClass::Internal)]), (1, 0, false));
    assert_eq!(cluster.number("select count(*) from image_errors"), 1);

    assert_eq!(honest.told(&lease, &pictures(&leased.images)), (32, 0, false));
    let (rest, left) = honest.lease();
    assert_eq!(honest.told(&rest, &pictures(&left.images)), (8, 0, false));
    wait_until("the job to end", || cluster.sql("select state from audit_jobs") == "succeeded");
    assert_balanced(&cluster);
    assert_eq!(cluster.sql("select distinct worker from audit_images"), "honest");
}

#[test]
fn a_second_picture_of_an_image_replaces_nothing() {
    let (cluster, coordinator) = farm();
    let hand = Hand::open(&coordinator.address, "w");
    let (lease, leased) = hand.lease();
    let image = &leased.images[0];
    assert_eq!(hand.told(&lease, &[picture(image, 7)]), (1, 0, true));
    assert_eq!(hand.told(&lease, &[picture(image, 8)]), (0, 1, true));
    assert_eq!(hand.told(&lease, &[failure(image, ErrorClass::Conflict)]), (0, 1, true));
    // Twice in one report: the first is taken.
    let next = &leased.images[1];
    assert_eq!(hand.told(&lease, &[picture(next, 7), picture(next, 8)]), (1, 1, true));
    let sums = "select sha256, count(*) from audit_images where state = 'done' group by sha256";
    assert_eq!(cluster.sql(sums), format!("{:064x}|2", 7));
    assert_balanced(&cluster);
}

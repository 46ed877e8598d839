//! Which objects a worker without keys of its own may reach.

use super::Bench;
use super::bench::*;
use crate::domain::signing::Named;
use crate::domain::tail::{Part, Share};
use crate::store::Error;
use crate::store::records::{AttemptObjects, LeaseRef};

pub async fn the_objects_of_an_attempt_are_told_to_its_worker_alone(mut bench: Bench) {
    bench.submit("a", 6, 3).await;
    let (own, other) = (bench.session("w").await, bench.session("other").await);
    let lease = bench.lease(&own).await.unwrap();
    bench.report(&own, &lease.lease, &[done(&lease.images[1])]).await;
    let mut found = bench.store.attempt_objects(&own, &lease.lease).await.unwrap();
    found.images.sort_by(|a, b| a.object.cmp(&b.object));
    let named = |place: usize, open| Named { object: lease.images[place].object.clone(), open };
    let images = vec![named(0, true), named(1, false), named(2, true)];
    assert_eq!(found, AttemptObjects { output: "/out/a".to_owned(), form: spec("a").form, images });
    // A new session of the worker, and an attempt that it does not hold any more: its pictures may be on its disk.
    bench.pass(LEASE);
    bench.store.expire_leases(CAPS, bench.now).await.unwrap();
    let again = bench.session("w").await;
    assert_eq!(bench.store.attempt_objects(&again, &lease.lease).await.unwrap().images.len(), 3);
    let never = LeaseRef { attempt: 2, ..lease.lease.clone() };
    let unknown = LeaseRef { shard: crate::domain::id::ShardId::from("x".to_owned()), attempt: 1 };
    for (session, lease) in [(&other, &lease.lease), (&own, &never), (&own, &unknown)] {
        let refused = bench.store.attempt_objects(session, lease).await;
        assert!(matches!(&refused, Err(Error::NotYours(told)) if told == lease), "{refused:?}");
    }
    bench.store.close_session(&own, "done", bench.now).await.unwrap();
    let closed = bench.store.attempt_objects(&own, &lease.lease).await;
    assert!(matches!(closed, Err(Error::SessionClosed(_))), "{closed:?}");
    let nobody = crate::domain::id::SessionId::from("nobody".to_owned());
    let unknown = bench.store.attempt_objects(&nobody, &lease.lease).await;
    assert!(matches!(unknown, Err(Error::NotFound { what: "session", .. })), "{unknown:?}");
}

pub async fn what_was_cut_off_meanwhile_is_still_of_the_attempt(bench: Bench) {
    bench.submit("a", 8, 8).await;
    let (one, two) = (bench.session("one").await, bench.session("two").await);
    let lease = bench.lease(&one).await.unwrap();
    let share = Share { shard: lease.lease.shard.clone(), attempt: 1, part: Part::Last(3) };
    let part = bench.store.take_over(&two, &share, LEASE, bench.now).await.unwrap().unwrap();
    let count =
        async |session, lease| bench.store.attempt_objects(session, lease).await.unwrap().images.len();
    assert_eq!(count(&one, &lease.lease).await, 8, "it may have rendered them before it learns of the cut");
    assert_eq!(count(&two, &part.lease).await, 3);
}

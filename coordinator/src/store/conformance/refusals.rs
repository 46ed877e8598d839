//! Workers that cannot render a job, and render others.

use std::time::Duration;

use super::Bench;
use super::bench::*;
use crate::domain::blame::ErrorClass;
use crate::store::records::{Refusal, Release, ReleaseReason};

fn storage() -> Release {
    Release { reason: ReleaseReason::Storage, message: "/out: permission denied\0".to_owned() }
}

const MINUTE: Duration = Duration::from_secs(60);

pub async fn a_job_that_a_worker_cannot_write_is_left_to_others_for_a_while(mut bench: Bench) {
    let (bad, good) = (bench.submit("bad", 4, 2).await, bench.submit("good", 2, 2).await);
    let (one, two) = (bench.session("one").await, bench.session("two").await);
    let lease = bench.lease(&one).await.unwrap();
    assert_eq!(lease.job, bad);
    bench.release(&one, &lease.lease, &storage()).await;
    let refusals = bench.store.refusals(bench.now).await.unwrap();
    let [Refusal { job, worker, why, until }] = refusals.as_slice() else { panic!("{refusals:?}") };
    assert_eq!((job, worker.as_str(), *until), (&bad, "one", bench.now + MINUTE));
    assert!(why.starts_with("/out: permission denied"), "{why}");
    // Others have its shard at once, and it has other jobs.
    assert_eq!(bench.lease(&two).await.unwrap().lease.shard, lease.lease.shard);
    assert_eq!(bench.lease(&one).await.unwrap().job, good);
    assert_eq!(bench.lease(&one).await, None);
    // It asks again after a while, in another session as well.
    bench.pass(MINUTE);
    assert_eq!(bench.store.refusals(bench.now).await.unwrap(), []);
    let again = bench.session("one").await;
    let lease = bench.lease(&again).await.unwrap();
    assert_eq!(lease.job, bad);
    bench.release(&again, &lease.lease, &storage()).await;
    assert_eq!(bench.store.refusals(bench.now).await.unwrap()[0].until, bench.now + 5 * MINUTE);
    assert_eq!(bench.store.backlog(&bad, bench.now).await.unwrap().delayed, 0);
}

pub async fn a_model_that_a_worker_cannot_load_takes_it_out_of_that_job_alone(bench: Bench) {
    let (bad, good) = (bench.submit("bad", 5, 5).await, bench.submit("good", 2, 2).await);
    let session = bench.session("one").await;
    let lease = bench.lease(&session).await.unwrap();
    assert_eq!(lease.job, bad);
    let failed: Vec<_> = lease.images.iter().map(|image| error(image, ErrorClass::Model)).collect();
    bench.report(&session, &lease.lease, &failed).await;
    let refusals = bench.store.refusals(bench.now).await.unwrap();
    let [Refusal { job, worker, why, until }] = refusals.as_slice() else { panic!("{refusals:?}") };
    assert_eq!((job, worker.as_str(), why.as_str()), (&bad, "one", "model went wrong"));
    assert_eq!(*until, bench.now + MINUTE);
    assert_eq!(bench.store.sessions().await.unwrap()[0].excluded_until, None);
    assert_eq!(bench.lease(&session).await.unwrap().job, good);
}

pub async fn the_only_worker_of_a_job_never_refuses_it(bench: Bench) {
    bench.submit("a", 2, 2).await;
    let session = bench.open("one", true).await;
    let lease = bench.lease(&session).await.unwrap();
    bench.report(&session, &lease.lease, &[error(&lease.images[0], ErrorClass::Model)]).await;
    bench.release(&session, &lease.lease, &storage()).await;
    assert_eq!(bench.store.refusals(bench.now).await.unwrap(), []);
}

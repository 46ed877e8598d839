//! The farm in figures.

use std::time::Duration;

use super::Bench;
use super::bench::*;
use crate::domain::blame::ErrorClass;
use crate::domain::state::JobState;
use crate::store::records::{Change, Overview, Queued};

pub async fn the_farm_is_told_in_figures(mut bench: Bench) {
    bench.store.reach().await.unwrap();
    assert_eq!(bench.store.overview(bench.now).await.unwrap(), Overview::default());
    let submitted_at = bench.now;
    bench.submit("a", 4, 2).await;
    let second = bench.submit("b", 3, 3).await;
    bench.pass(Duration::from_secs(1));
    let session = bench.session("w").await;
    let lease = bench.lease(&session).await.unwrap();
    let results = [done(&lease.images[0]), error(&lease.images[1], ErrorClass::Prompt)];
    let told = bench.report(&session, &lease.lease, &results).await;
    assert_eq!(told.failed, [lease.images[1].index], "an error that no try mends");
    let Overview { jobs, queue, workers } = bench.store.overview(bench.now).await.unwrap();
    let mut jobs = jobs;
    jobs.sort_by_key(|(state, _)| state.word());
    assert_eq!(jobs, [(JobState::Pending, 1), (JobState::Running, 1)]);
    assert_eq!(workers, 1);
    let model = queue[0].model.clone();
    let waits = |images, pace| Queued { model: model.clone(), images, submitted_at, ready: true, pace };
    assert_eq!(queue, [waits(2, Some(2.0)), waits(3, None)]);
    bench.change(&second, Change::Pause).await;
    let queue = bench.store.overview(bench.now).await.unwrap().queue;
    assert_eq!(queue.len(), 1, "a paused job waits for somebody else");
    bench.lease(&session).await.unwrap();
    let queue = bench.store.overview(bench.now).await.unwrap().queue;
    assert_eq!((queue[0].images, queue[0].ready), (2, false), "what is being rendered is still to do");
    let connections = bench.store.connections();
    assert!(connections.idle + connections.busy > 0);
}

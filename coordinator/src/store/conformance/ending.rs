//! How jobs and processes end.

use std::time::Duration;

use super::Bench;
use super::bench::*;
use crate::domain::blame::ErrorClass;
use crate::domain::state::{ImageState, JobState};
use crate::store::records::{Begun, Cell, Change, Recovered};

pub async fn a_job_ends_when_told_and_only_when_complete(mut bench: Bench) {
    let id = bench.submit("a", 2, 1).await;
    let session = bench.session("w").await;
    assert!(bench.store.finish_job(&id, bench.now).await.is_err());
    assert_eq!(bench.store.jobs_to_finish().await.unwrap(), []);
    bench.render_all(&session).await;
    let waiting = bench.store.jobs_to_finish().await.unwrap();
    assert_eq!((waiting.len(), waiting[0].state), (1, JobState::Running));
    bench.pass(Duration::from_secs(9));
    let ended = bench.store.finish_job(&id, bench.now).await.unwrap();
    assert_eq!((ended.state, ended.finished_at), (JobState::Succeeded, Some(bench.now)));
    assert_eq!(bench.store.jobs_to_finish().await.unwrap(), []);
    // Done again after a crash, it is the same.
    assert_eq!(bench.store.finish_job(&id, bench.now).await.unwrap(), ended);
    assert_eq!(bench.change(&id, Change::Cancel).await, ended);
}

pub async fn a_job_with_a_failed_image_fails(bench: Bench) {
    let id = bench.submit("a", 2, 32).await;
    let session = bench.session("w").await;
    let lease = bench.lease(&session).await.unwrap();
    let results = [done(&lease.images[0]), error(&lease.images[1], ErrorClass::Prompt)];
    assert!(bench.report(&session, &lease.lease, &results).await.job_complete);
    bench.store.record_output_error(&id, "disk full", bench.now).await.unwrap();
    let ended = bench.store.finish_job(&id, bench.now).await.unwrap();
    assert_eq!((ended.state, ended.done, ended.failed), (JobState::Failed, 1, 1));
    let detail = "select detail ->> 'error' from audit_events where kind = 'output_error'";
    assert_eq!(bench.value(detail).await, "disk full");
}

pub async fn cancel_revokes_and_keeps_what_is_done(bench: Bench) {
    let id = bench.submit("a", 4, 2).await;
    let session = bench.session("w").await;
    let lease = bench.lease(&session).await.unwrap();
    bench.report(&session, &lease.lease, &[done(&lease.images[0])]).await;
    let job = bench.change(&id, Change::Cancel).await;
    assert_eq!((job.state, job.done, job.finished_at), (JobState::Cancelled, 1, Some(bench.now)));
    assert!(!bench.renew(&session, &lease.lease, &[1]).await);
    assert_eq!(bench.lease(&session).await, None, "nothing of it is leased any more");
    assert_eq!(bench.value("select outcome from audit_attempts").await, "revoked");
    assert_eq!(bench.value("select sum(losses) from audit_images").await, "0");
    assert_eq!(bench.store.jobs_to_finish().await.unwrap(), []);
}

pub async fn a_result_for_a_cancelled_job_is_kept(bench: Bench) {
    let id = bench.submit("a", 1, 32).await;
    let session = bench.session("w").await;
    let lease = bench.lease(&session).await.unwrap();
    bench.change(&id, Change::Cancel).await;
    let reported = bench.report(&session, &lease.lease, &[done(&lease.images[0])]).await;
    assert_eq!((reported.accepted, reported.held, reported.job_complete), (1, false, false));
    assert_eq!(bench.images(&id).await[0].state, ImageState::Done);
    let job = bench.store.job(id.as_str()).await.unwrap();
    assert_eq!((job.state, job.done), (JobState::Cancelled, 1));
    bench.check_invariants().await;
}

pub async fn a_restart_releases_what_lived_in_the_process(bench: Bench) {
    let id = bench.submit("a", 2, 32).await;
    for attempt in 1..=CAPS.losses * 3 {
        let session = bench.open("me", true).await;
        let lease = bench.lease(&session).await.unwrap();
        assert_eq!(lease.lease.attempt, attempt);
        assert!(bench.renew(&session, &lease.lease, &[0]).await);
        let recovered = bench.store.recover(LEASE, bench.now).await.unwrap();
        assert_eq!(recovered, Recovered { released: 1, abandoned: 0 });
    }
    assert_eq!(bench.value("select sum(losses) from audit_images").await, "0");
    assert_eq!(bench.store.job(id.as_str()).await.unwrap().failed, 0);
    let Begun::New(unsealed, _) = bench.store.begin_job(&spec("b"), bench.now).await.unwrap() else {
        panic!()
    };
    let recovered = bench.store.recover(LEASE, bench.now).await.unwrap();
    assert_eq!(recovered, Recovered { released: 0, abandoned: 1 });
    assert!(bench.store.seal_job(&unsealed, &Default::default(), bench.now).await.is_err());
}

pub async fn a_restart_leaves_workers_elsewhere_alone(mut bench: Bench) {
    bench.submit("a", 2, 32).await;
    let session = bench.session("far").await;
    let lease = bench.lease(&session).await.unwrap();
    bench.pass(LEASE * 10);
    assert_eq!(bench.store.recover(LEASE, bench.now).await.unwrap(), Recovered::default());
    assert_eq!(bench.store.expire_leases(CAPS, bench.now).await.unwrap(), 0);
    assert!(bench.renew(&session, &lease.lease, &[0]).await);
}

pub async fn every_move_is_in_the_history(mut bench: Bench) {
    let id = bench.submit("a", 2, 1).await;
    let session = bench.session("w").await;
    let lease = bench.lease(&session).await.unwrap();
    bench.release(&session, &lease.lease, &drain()).await;
    bench.lease(&session).await.unwrap();
    bench.pass(LEASE);
    bench.store.expire_leases(CAPS, bench.now).await.unwrap();
    bench.render_all(&session).await;
    bench.store.finish_job(&id, bench.now).await.unwrap();
    bench.store.close_session(&session, "done", bench.now).await.unwrap();
    let rows = bench.sql("select kind from audit_events order by seq").await;
    let kinds: Vec<_> = rows
        .iter()
        .map(|row| match row.as_slice() {
            [Cell::Text(kind)] => kind.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        kinds,
        [
            "job_submitted",
            "session_opened",
            "lease_granted",
            "job_started",
            "lease_released",
            "lease_granted",
            "lease_lost",
            "lease_granted",
            "lease_finished",
            "lease_granted",
            "lease_finished",
            "job_finished",
            "session_closed",
        ]
    );
}

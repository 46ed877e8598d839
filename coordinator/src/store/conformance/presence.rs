//! What waits, and who is there.

use std::time::Duration;

use super::Bench;
use super::bench::*;
use crate::domain::blame::ErrorClass;
use crate::domain::explain::Backlog;
use crate::domain::id::JobId;
use crate::domain::state::JobState;
use crate::store::Error;
use crate::store::records::Change;

pub async fn what_waits_is_told_by_cause(mut bench: Bench) {
    let id = bench.submit("a", 6, 2).await;
    let session = bench.session("w").await;
    let first = bench.lease(&session).await.unwrap();
    let failed: Vec<_> = first.images.iter().map(|image| error(image, ErrorClass::OutOfMemory)).collect();
    bench.report(&session, &first.lease, &failed).await;
    bench.release(&session, &first.lease, &finished()).await;
    bench.lease(&session).await.unwrap();
    let backlog = bench.store.backlog(&id, bench.now).await.unwrap();
    let expected = Backlog {
        state: JobState::Running,
        owner_held: false,
        ready: 1,
        delayed: 1,
        next_at: Some(bench.now + Duration::from_secs(1)),
        leased: 1,
        error: Some((ErrorClass::OutOfMemory, "out_of_memory went wrong".to_owned())),
        output_error: None,
    };
    assert_eq!(backlog, expected);
    bench.pass(Duration::from_secs(1));
    bench.store.hold_owner("ann", true, &by_bob(), bench.now).await.unwrap();
    bench.change(&id, Change::Pause).await;
    let backlog = bench.store.backlog(&id, bench.now).await.unwrap();
    let now = Backlog { state: JobState::Paused, owner_held: true, ready: 2, delayed: 0, ..expected };
    assert_eq!(backlog, Backlog { next_at: None, error: None, ..now });
    let nobody = JobId::from("018f0000-0000-7000-8000-000000000000".to_owned());
    let missing = bench.store.backlog(&nobody, bench.now).await;
    assert!(matches!(missing, Err(Error::NotFound { what: "job", .. })), "{missing:?}");
}

pub async fn open_sessions_are_listed_with_what_they_hold(mut bench: Bench) {
    let id = bench.submit("a", 4, 2).await;
    let (one, two) = (bench.session("one").await, bench.session("two").await);
    let gone = bench.session("gone").await;
    bench.store.close_session(&gone, "done", bench.now).await.unwrap();
    let opened_at = bench.now;
    bench.pass(Duration::from_secs(3));
    let leases = [bench.lease(&two).await.unwrap(), bench.lease(&two).await.unwrap()];
    let sessions = bench.store.sessions().await.unwrap();
    let names: Vec<_> = sessions.iter().map(|session| session.session.worker.as_str()).collect();
    assert_eq!(names, ["one", "two"]);
    assert_eq!((&sessions[0].id, sessions[0].leases.len(), sessions[0].seen_at), (&one, 0, opened_at));
    assert_eq!((sessions[1].opened_at, sessions[1].seen_at), (opened_at, bench.now));
    let mut held: Vec<_> = sessions[1].leases.iter().map(|held| held.lease.clone()).collect();
    held.sort();
    let mut expected = leases.map(|lease| lease.lease);
    expected.sort();
    assert_eq!(held, expected);
    let lease = &sessions[1].leases[0];
    assert_eq!((&lease.job, lease.model.as_str(), lease.images), (&id, "sana-tiny", 2));
    assert_eq!(lease.expires_at, bench.now + LEASE);
    assert_eq!(sessions[1].excluded_until, None);
}

pub async fn a_session_tells_that_its_worker_was_taken_out(bench: Bench) {
    bench.submit("a", 3, 1).await;
    let session = bench.session("bad").await;
    for _ in 0..3 {
        let lease = bench.lease(&session).await.unwrap();
        bench.report(&session, &lease.lease, &[error(&lease.images[0], ErrorClass::Internal)]).await;
    }
    let sessions = bench.store.sessions().await.unwrap();
    assert_eq!(sessions[0].excluded_until, Some(bench.now + Duration::from_secs(60)));
}

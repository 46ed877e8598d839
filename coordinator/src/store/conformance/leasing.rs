//! Handing out shards and getting them back.

use std::time::Duration;

use super::Bench;
use super::bench::*;
use crate::domain::id::JobId;
use crate::domain::schedule::{Choice, Device, Needs};
use crate::domain::spec::{JobSpec, Row};
use crate::domain::state::JobState;
use crate::store::Error;
use crate::store::records::{Change, Claim, NewSession};

pub async fn the_oldest_job_is_leased_first(bench: Bench) {
    let first = bench.submit("first", 4, 2).await;
    let second = bench.submit("second", 2, 2).await;
    let session = bench.session("w").await;
    let mut order = Vec::new();
    while let Some(lease) = bench.lease(&session).await {
        order.push((lease.job, lease.images[0].index));
    }
    assert_eq!(order, [(first.clone(), 0), (first, 2), (second, 0)]);
}

pub async fn a_session_may_work_for_one_job_only(bench: Bench) {
    let first = bench.submit("first", 2, 2).await;
    let second = bench.submit("second", 2, 2).await;
    let session = bench.session("w").await;
    let lease = bench.try_lease(&session, Some(&second)).await.unwrap().unwrap();
    assert_eq!(lease.job, second);
    let none = bench.try_lease(&session, Some(&second)).await.unwrap();
    assert_eq!(none, None, "the other job is not its own");
    assert_eq!(bench.lease(&session).await.unwrap().job, first);
}

pub async fn claims_of_one_moment_get_different_shards(bench: Bench) {
    let (first, second) = (bench.submit("first", 4, 2).await, bench.submit("second", 2, 2).await);
    let mut claims = Vec::new();
    let choice = |job: &JobId| Choice { job: job.clone(), group: None };
    for worker in 0..4 {
        let session = bench.session(&format!("w{worker}")).await;
        claims.push(Claim { session, choices: vec![choice(&second), choice(&first)] });
    }
    let closed = bench.session("gone").await;
    bench.store.close_session(&closed, "done", bench.now).await.unwrap();
    claims.insert(1, Claim { session: closed, choices: vec![choice(&first)] });
    let mut answers = bench.store.lease_shards(&claims, LEASE, bench.now).await.unwrap();
    assert!(matches!(answers.remove(1), Err(Error::SessionClosed(_))));
    let mut got: Vec<_> = answers
        .into_iter()
        .filter_map(|answer| answer.unwrap())
        .map(|lease| (lease.job, lease.images[0].index, lease.lease.attempt))
        .collect();
    got.sort_by_key(|(job, index, _)| (*job == first, *index));
    assert_eq!(got, [(second, 0, 1), (first.clone(), 0, 1), (first, 2, 1)]);
}

pub async fn a_claim_looks_where_it_is_told(bench: Bench) {
    let rows = (1..=4).map(|line| Row { width: Some(if line % 2 == 0 { 128 } else { 64 }), ..row(line) });
    let job = bench.submit_rows(spec("a"), rows, 1).await;
    let open = bench.store.open_jobs(bench.now).await.unwrap();
    let sizes: Vec<_> = open[0].groups.iter().map(|group| (group.number, group.size)).collect();
    assert_eq!(sizes, [(0, (64, 64)), (1, (128, 64))]);
    let session = bench.session("w").await;
    let lease = async |group| {
        let choices = vec![Choice { job: job.clone(), group: Some(group) }];
        let claim = Claim { session: session.clone(), choices };
        only(bench.store.lease_shards(&[claim], LEASE, bench.now).await.unwrap()).unwrap()
    };
    let wide = lease(1).await.unwrap();
    assert_eq!(wide.images.iter().map(|image| image.index).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(lease(1).await, None);
    let open = bench.store.open_jobs(bench.now).await.unwrap();
    assert_eq!(open[0].groups.len(), 1, "the other group has nothing ready");
    assert_eq!(lease(0).await.unwrap().images[0].index, 0);
}

pub async fn an_open_job_tells_what_the_scheduler_goes_by(mut bench: Bench) {
    let needs = Needs { labels: [("zone".to_owned(), "eu".to_owned())].into(), ..Needs::default() };
    let wanted = JobSpec { priority: -3, needs: needs.clone(), ..spec("a") };
    let id = bench.submit_rows(wanted, (1..=4).map(row), 2).await;
    let submitted = bench.now;
    let told = bench.store.job(id.as_str()).await.unwrap();
    assert_eq!((told.priority, &told.needs), (-3, &needs));
    let open = bench.store.open_jobs(bench.now).await.unwrap();
    assert_eq!((open.len(), open[0].priority, open[0].owner_weight), (1, -3, 1.0));
    assert_eq!((&open[0].needs, open[0].leased_at, open[0].leased_images), (&needs, None, 0));
    let session = bench.session("w").await;
    assert_eq!(bench.lease(&session).await, None, "it has no such label");
    bench.pass(Duration::from_secs(7));
    let choices = vec![Choice { job: id.clone(), group: None }];
    let claim = Claim { session, choices };
    let lease = only(bench.store.lease_shards(&[claim], LEASE, bench.now).await.unwrap()).unwrap().unwrap();
    let open = bench.store.open_jobs(bench.now).await.unwrap();
    assert_eq!((open[0].leased_at, open[0].leased_images), (Some(bench.now), 2));
    assert_eq!(open[0].submitted_at, submitted);
    assert_eq!(lease.images.len(), 2);
    bench.change(&id, Change::Cancel).await;
    assert_eq!(bench.store.open_jobs(bench.now).await.unwrap(), []);
}

pub async fn a_session_is_known_as_it_was_opened(bench: Bench) {
    let device = Device {
        id: "cuda:0".to_owned(),
        name: "a GPU".to_owned(),
        memory_bytes: 24 << 30,
        memory_free_bytes: 23 << 30,
        compute_capability: "8.9".to_owned(),
        driver: "12.4".to_owned(),
    };
    let opened = NewSession {
        worker: "w".to_owned(),
        version: "1.2".to_owned(),
        devices: vec![device],
        labels: [("zone".to_owned(), "eu".to_owned())].into(),
        embedded: false,
    };
    let session = bench.store.open_session(&opened, bench.now).await.unwrap();
    assert_eq!(bench.store.session(&session).await.unwrap(), opened);
    bench.store.close_session(&session, "done", bench.now).await.unwrap();
    assert!(matches!(bench.store.session(&session).await, Err(Error::SessionClosed(_))));
}

pub async fn a_lease_holds_what_is_left_to_do(bench: Bench) {
    let id = bench.submit("a", 3, 32).await;
    let session = bench.session("w").await;
    let lease = bench.lease(&session).await.unwrap();
    assert_eq!((lease.lease.attempt, &lease.job, lease.model.as_str()), (1, &id, "sana-tiny"));
    assert_eq!((lease.images[1].prompt.as_str(), lease.images[1].seed), ("prompt 2", 101));
    assert_eq!(lease.images[1].negative_prompt, "blurry");
    bench.report(&session, &lease.lease, &[done(&lease.images[1])]).await;
    bench.release(&session, &lease.lease, &drain()).await;
    let again = bench.lease(&session).await.unwrap();
    assert_eq!((&again.lease.shard, again.lease.attempt), (&lease.lease.shard, 2));
    let indices: Vec<u64> = again.images.iter().map(|image| image.index).collect();
    assert_eq!(indices, [0, 2]);
}

pub async fn the_first_lease_starts_the_job(mut bench: Bench) {
    let id = bench.submit("a", 4, 2).await;
    bench.pass(Duration::from_secs(5));
    let session = bench.session("w").await;
    assert!(bench.lease(&session).await.unwrap().started_job);
    assert!(!bench.lease(&session).await.unwrap().started_job);
    let job = bench.store.job(id.as_str()).await.unwrap();
    assert_eq!((job.state, job.started_at), (JobState::Running, Some(bench.now)));
}

pub async fn an_old_attempt_renews_and_releases_nothing(mut bench: Bench) {
    bench.submit("a", 2, 2).await;
    let (old, new) = (bench.session("old").await, bench.session("new").await);
    let first = bench.lease(&old).await.unwrap();
    assert_eq!(bench.lease(&new).await, None, "it is held");
    bench.pass(LEASE);
    assert_eq!(bench.store.expire_leases(CAPS, bench.now).await.unwrap(), 1);
    assert_eq!(bench.store.expire_leases(CAPS, bench.now).await.unwrap(), 0);
    let second = bench.lease(&new).await.unwrap();
    assert_eq!(second.lease.attempt, 2);
    assert!(!bench.renew(&old, &first.lease, &[]).await);
    bench.release(&old, &first.lease, &drain()).await;
    // Not even with the right attempt: it belongs to another session.
    assert!(!bench.renew(&old, &second.lease, &[]).await);
    bench.release(&old, &second.lease, &drain()).await;
    assert!(bench.renew(&new, &second.lease, &[]).await);
    assert_eq!(bench.lease(&old).await, None, "still held by the new session");
}

pub async fn a_renewed_lease_does_not_expire(mut bench: Bench) {
    bench.submit("a", 2, 2).await;
    let session = bench.session("w").await;
    let lease = bench.lease(&session).await.unwrap();
    for _ in 0..5 {
        bench.pass(LEASE / 2);
        assert!(bench.renew(&session, &lease.lease, &[0]).await);
        assert_eq!(bench.store.expire_leases(CAPS, bench.now).await.unwrap(), 0);
    }
}

pub async fn release_costs_nothing(bench: Bench) {
    let id = bench.submit("a", 2, 2).await;
    let session = bench.session("w").await;
    for attempt in 1..=10 {
        let lease = bench.lease(&session).await.unwrap();
        assert_eq!(lease.lease.attempt, attempt);
        assert!(bench.renew(&session, &lease.lease, &[0, 1]).await);
        bench.release(&session, &lease.lease, &drain()).await;
        // Sent twice, it is harmless.
        bench.release(&session, &lease.lease, &drain()).await;
    }
    assert_eq!(bench.value("select sum(errors + losses) from audit_images").await, "0");
    assert_eq!(bench.store.job(id.as_str()).await.unwrap().failed, 0);
}

pub async fn a_closed_session_releases_its_leases(bench: Bench) {
    bench.submit("a", 4, 2).await;
    let (one, two) = (bench.session("one").await, bench.session("two").await);
    bench.lease(&one).await.unwrap();
    bench.lease(&one).await.unwrap();
    assert_eq!(bench.lease(&two).await, None);
    bench.store.close_session(&one, "done", bench.now).await.unwrap();
    bench.store.close_session(&one, "done", bench.now).await.unwrap();
    assert!(bench.lease(&two).await.is_some());
    assert!(bench.lease(&two).await.is_some());
    let outcomes = "select count(*) from audit_attempts where worker = 'one' and outcome = 'released'";
    assert_eq!(bench.value(outcomes).await, "2");
}

pub async fn a_closed_session_gets_no_lease(bench: Bench) {
    bench.submit("a", 1, 2).await;
    let session = bench.session("w").await;
    bench.store.close_session(&session, "done", bench.now).await.unwrap();
    let refused = bench.try_lease(&session, None).await;
    assert!(matches!(refused, Err(Error::SessionClosed(id)) if id == session));
    let unknown = crate::domain::id::SessionId::from("nobody".to_owned());
    let refused = bench.try_lease(&unknown, None).await;
    assert!(matches!(refused, Err(Error::NotFound { what: "session", .. })));
}

pub async fn silent_sessions_are_closed(mut bench: Bench) {
    bench.submit("a", 1, 2).await;
    let (holder, idle) = (bench.session("holder").await, bench.session("idle").await);
    let lease = bench.lease(&holder).await.unwrap();
    bench.pass(LEASE * 4);
    let before = bench.now.checked_sub(LEASE).unwrap();
    assert_eq!(bench.store.close_silent_sessions(before, bench.now).await.unwrap(), 1);
    let refused = bench.try_lease(&idle, None).await;
    assert!(matches!(refused, Err(Error::SessionClosed(_))));
    assert!(bench.renew(&holder, &lease.lease, &[]).await, "its lease is still for the sweep to take");
}

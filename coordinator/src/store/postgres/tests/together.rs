//! Two coordinators on one database, at the same moment.

use std::collections::HashSet;
use std::sync::Arc;

use sanafarm_test_servers::Postgres;

use super::{HOUR, another, fresh};
use crate::domain::blame::ErrorClass;
use crate::domain::schedule::Choice;
use crate::domain::spec::JobSpec;
use crate::domain::state::JobState;
use crate::domain::waiting::Wanted;
use crate::store::Error;
use crate::store::conformance::{Bench, CAPS, LEASE, done, error, row, spec};
use crate::store::postgres::PostgresStore;
use crate::store::records::{Begun, By, Change, Claim, HeldLease, Lease, Renewal, Report};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_shard_is_never_given_out_twice() {
    let (store, server) = fresh().await;
    let first = Bench::new(store);
    let second = another(&server).await;
    let jobs = [first.submit("a", 300, 1).await, first.submit("b", 300, 1).await];
    let mut tasks = Vec::new();
    for worker in 0..16 {
        let session = first.session(&format!("w{worker}")).await;
        let store = Arc::clone(if worker % 2 == 0 { &first.store } else { &second.store });
        let mut choices: Vec<_> = jobs.iter().map(|job| Choice { job: job.clone(), group: None }).collect();
        choices.rotate_left(worker % 3 % 2);
        let now = first.now;
        tasks.push(tokio::spawn(async move {
            let mut leases = Vec::new();
            loop {
                // Several claims in one call, as a busy coordinator has them.
                let claim = Claim { session: session.clone(), choices: choices.clone() };
                let claims = vec![claim; 1 + worker % 4];
                let answers = store.lease_shards(&claims, LEASE, now).await.unwrap();
                let got: Vec<_> = answers.into_iter().filter_map(|answer| answer.unwrap()).collect();
                if got.is_empty() {
                    return leases;
                }
                leases.extend(got);
            }
        }));
    }
    let mut leases = Vec::new();
    for task in tasks {
        leases.extend(task.await.unwrap());
    }
    // None was free only because somebody else looked at it: what is left is given out now.
    let rest = first.session("rest").await;
    while let Some(lease) = first.lease(&rest).await {
        leases.push(lease);
    }
    assert_eq!(leases.len(), 600);
    assert!(leases.iter().all(|lease| lease.lease.attempt == 1 && lease.images.len() == 1));
    let images: HashSet<_> = leases.iter().map(|lease| (&lease.job, lease.images[0].index)).collect();
    assert_eq!(images.len(), 600);
    assert_eq!(deadlocks(&server), "0");
    for job in &jobs {
        let starts = leases.iter().filter(|lease| lease.job == *job && lease.started_job).count();
        assert_eq!(starts, 1, "a job starts once");
    }
    first.check_invariants().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_same_results_are_committed_once() {
    let (store, server) = fresh().await;
    let first = Bench::new(store);
    let second = another(&server).await;
    let id = first.submit("a", 256, 16).await;
    let session = first.session("w").await;
    let mut reports = Vec::new();
    while let Some(lease) = first.lease(&session).await {
        // In pieces, and with errors among them, which take another way in.
        for (number, piece) in lease.images.chunks(4).enumerate() {
            let mut results: Vec<_> = piece.iter().map(done).collect();
            if number == 1 {
                results[3] = error(&piece[3], ErrorClass::Prompt);
            }
            reports.push(Report {
                session: session.clone(),
                lease: lease.lease.clone(),
                results,
                archive: None,
            });
        }
    }
    let reports = Arc::new(reports);
    let mut tasks = Vec::new();
    for task in 0..8 {
        let store = Arc::clone(if task % 2 == 0 { &first.store } else { &second.store });
        let (reports, now) = (Arc::clone(&reports), first.now);
        tasks.push(tokio::spawn(async move {
            let mut accepted = 0;
            // Everybody in another order.
            let mut mine: Vec<_> = reports.iter().cloned().collect();
            mine.rotate_left(task * 7);
            if task % 3 == 0 {
                mine.reverse();
            }
            for some in mine.chunks(1 + task) {
                for answer in store.report_results(some, CAPS, now).await.unwrap() {
                    accepted += answer.unwrap().accepted;
                }
            }
            accepted
        }));
    }
    let mut accepted = 0;
    for task in tasks {
        accepted += task.await.unwrap();
    }
    assert_eq!(accepted, 256);
    let job = first.store.job(id.as_str()).await.unwrap();
    assert_eq!((job.done, job.failed), (240, 16));
    assert_eq!(deadlocks(&server), "0");
    assert_eq!(first.value("select count(*) from audit_events where kind = 'lease_finished'").await, "16");
    assert_eq!(first.value("select sum(done) from audit_attempts").await, "240");
    assert_eq!(first.value("select sum(errors) from audit_attempts").await, "16");
    assert_eq!(server.sql("farm", "SELECT count(*) FROM shards WHERE remaining > 0 OR state <> 'done'"), "0");
    first.check_invariants().await;
}

/// Transactions that the server had to end because they waited for each other.
fn deadlocks(server: &Postgres) -> String {
    server.sql("farm", "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn renewals_and_reports_of_the_same_leases_do_not_get_stuck() {
    let (store, server) = fresh().await;
    let first = Bench::new(store);
    let second = another(&server).await;
    let id = first.submit("a", 256, 4).await;
    let session = first.session("w").await;
    let mut leases = Vec::new();
    while let Some(lease) = first.lease(&session).await {
        leases.push(lease);
    }
    let leases = Arc::new(leases);
    let mut tasks = Vec::new();
    for task in 0..8usize {
        let store = Arc::clone(if task % 2 == 0 { &first.store } else { &second.store });
        let (mut mine, session, now) = (leases.as_ref().clone(), session.clone(), first.now);
        mine.rotate_left(task * 7);
        if task % 3 == 0 {
            mine.reverse();
        }
        tasks.push(tokio::spawn(async move {
            for round in 0..4 {
                if task < 4 {
                    let report = |lease: &Lease| Report {
                        session: session.clone(),
                        lease: lease.lease.clone(),
                        results: vec![done(&lease.images[(task + round) % 4])],
                        archive: None,
                    };
                    let reports: Vec<_> = mine.iter().map(report).collect();
                    for answer in store.report_results(&reports, CAPS, now).await.unwrap() {
                        answer.unwrap();
                    }
                } else {
                    let held = mine.iter().map(|lease| HeldLease {
                        lease: lease.lease.clone(),
                        rendering: vec![lease.images[0].index],
                    });
                    let renewal = Renewal {
                        session: session.clone(),
                        held: held.collect(),
                        stats: None,
                        leaving: None,
                    };
                    store.renew_leases(&[renewal], LEASE, now).await.unwrap().remove(0).unwrap();
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(first.store.job(id.as_str()).await.unwrap().done, 256);
    assert_eq!(deadlocks(&server), "0");
    first.check_invariants().await;
}

/// Everything that moves shards, jobs and leases, all at once: nobody waits for ever, and the books are right.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn everything_at_once_ends_well() {
    let (store, server) = fresh().await;
    let first = Bench::new(store);
    let second = another(&server).await;
    let jobs = [first.submit("a", 200, 2).await, first.submit("b", 200, 2).await];
    let mut tasks = Vec::new();
    for worker in 0..8u64 {
        let bench = Bench {
            store: Arc::clone(if worker % 2 == 0 { &first.store } else { &second.store }),
            now: first.now,
        };
        tasks.push(tokio::spawn(async move {
            for round in 0..15 {
                let session = bench.session(&format!("w{worker}")).await;
                let Ok(Some(lease)) = bench.try_lease(&session, None).await else { continue };
                bench.renew(&session, &lease.lease, &[lease.images[0].index]).await;
                let result = match (worker + round) % 3 {
                    0 => error(&lease.images[0], ErrorClass::Internal),
                    _ => done(&lease.images[0]),
                };
                bench.report(&session, &lease.lease, &[result]).await;
                match (worker + round) % 4 {
                    0 => bench.store.close_session(&session, "bye", bench.now).await.unwrap(),
                    1 => {
                        let release = crate::store::records::Release {
                            reason: crate::store::records::ReleaseReason::Finished,
                            message: String::new(),
                        };
                        bench.release(&session, &lease.lease, &release).await;
                    }
                    2 => {
                        let later = bench.now.saturating_add(LEASE * 2).unwrap();
                        bench.store.expire_leases(CAPS, later).await.unwrap();
                    }
                    _ => {}
                }
            }
        }));
    }
    let by = By::default();
    for _ in 0..10 {
        first.store.change_job(&jobs[0], &Change::Pause, &by, first.now).await.unwrap();
        second.store.change_job(&jobs[0], &Change::Resume, &by, first.now).await.unwrap();
        second.store.change_job(&jobs[1], &Change::Retry(None), &by, first.now).await.unwrap();
    }
    for task in tasks {
        task.await.unwrap();
    }
    first.check_invariants().await;
    assert_eq!(deadlocks(&server), "0");
    let mut late = Bench { store: Arc::clone(&second.store), now: first.now };
    let honest = late.session("honest").await;
    for _ in 0..5 {
        late.pass(LEASE * 4);
        while late.store.expire_leases(CAPS, late.now).await.unwrap() > 0 {}
        late.render_all(&honest).await;
    }
    for job in &jobs {
        let job = late.store.job(job.as_str()).await.unwrap();
        assert_eq!(job.done + job.failed, 200);
    }
    let wrong = "SELECT count(*) FROM shards AS s WHERE remaining <> 0 OR state <> 'done' \
        OR EXISTS (SELECT FROM leases AS l WHERE l.shard = s.key AND l.ended_at IS NULL)";
    assert_eq!(server.sql("farm", wrong), "0");
    late.check_invariants().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_token_is_one_job_however_often_it_is_sent() {
    let (store, server) = fresh().await;
    let first = Bench::new(store);
    let second = another(&server).await;
    let tasks: Vec<_> = (0..12)
        .map(|task| {
            let store = Arc::clone(if task % 2 == 0 { &first.store } else { &second.store });
            let now = first.now;
            tokio::spawn(async move {
                match store.begin_job(&spec("same"), now).await.unwrap() {
                    Begun::New(id, _) => match store.seal_job(&id, &Default::default(), now).await {
                        Ok(job) => Some(job.id),
                        Err(Error::Replaced(_)) => None,
                        Err(error) => panic!("{error}"),
                    },
                    Begun::Existing(job) => Some(job.id),
                }
            })
        })
        .collect();
    let mut jobs = HashSet::new();
    for task in tasks {
        jobs.extend(task.await.unwrap());
    }
    assert_eq!(jobs.len(), 1);
    assert_eq!(first.store.jobs(None, &[], 10).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_job_is_called_off_once_and_leaves_no_lease_behind() {
    let (store, server) = fresh().await;
    let first = Bench::new(store);
    let second = another(&server).await;
    let late = first.now + LEASE;
    let lost = first.submit("lost", 2, 1).await;
    let after = vec![Wanted { job: lost.to_string(), any_end: false }];
    let waits = first.submit_rows(JobSpec { after, ..spec("waits") }, (1..=50).map(row), 1).await;
    let due = JobSpec { deadline: Some(late), ..spec("due") };
    let due = first.submit_rows(due, (1..=300).map(row), 1).await;
    let mut tasks = Vec::new();
    for task in 0..10 {
        let store = Arc::clone(if task % 2 == 0 { &first.store } else { &second.store });
        let session = first.session(&format!("w{task}")).await;
        let (lost, waits, due, now) = (lost.clone(), waits.clone(), due.clone(), first.now);
        tasks.push(tokio::spawn(async move {
            match task {
                // Coordinators whose clocks are ahead of those that hand shards out.
                0 | 1 => {
                    while store.job(due.as_str()).await.unwrap().state != JobState::Cancelled
                        || store.job(waits.as_str()).await.unwrap().state != JobState::Cancelled
                    {
                        store.call_off(late).await.unwrap();
                    }
                }
                2 => {
                    store.change_job(&lost, &Change::Cancel, &By::default(), now).await.unwrap();
                }
                _ => {
                    let choices = [waits, due].map(|job| Choice { job, group: None }).to_vec();
                    let claims = vec![Claim { session, choices }; 1 + task % 3];
                    let mut leased = true;
                    while leased {
                        let answers = store.lease_shards(&claims, LEASE, now).await.unwrap();
                        leased = answers.into_iter().any(|answer| answer.unwrap().is_some());
                    }
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let attempts = |job, outcome| {
        format!("select count(*) from audit_attempts where job_id = '{job}' and outcome {outcome}")
    };
    assert_eq!(first.value(&attempts(&waits, "is not null")).await, "0", "it had to wait");
    assert_eq!(first.value(&attempts(&due, "<> 'revoked'")).await, "0");
    let ends = "select count(*) from audit_events where kind = 'job_cancelled'";
    assert_eq!(first.value(ends).await, "3", "each is told once");
    first.check_invariants().await;
}

/// More calls than connections wait for each other's, and none of them holds one while it wants another.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_connection_serves_many_calls() {
    let server = Postgres::start();
    let store = PostgresStore::open_with(&server.database("farm"), 1, HOUR).await.unwrap();
    let bench = Arc::new(Bench::new(Arc::new(store)));
    let id = bench.submit("a", 64, 2).await;
    let tasks: Vec<_> = (0..32u64)
        .map(|task| {
            let (bench, id) = (Arc::clone(&bench), id.clone());
            tokio::spawn(async move {
                let session = bench.session(&format!("w{task}")).await;
                let lease = bench.lease(&session).await.unwrap();
                bench.renew(&session, &lease.lease, &[lease.images[0].index]).await;
                let failed = error(&lease.images[0], ErrorClass::Prompt);
                bench.report(&session, &lease.lease, &[failed, done(&lease.images[1])]).await;
                bench.store.expire_leases(CAPS, bench.now).await.unwrap();
                let other = spec(&format!("other {task}"));
                let Begun::New(other, _) = bench.store.begin_job(&other, bench.now).await.unwrap() else {
                    panic!()
                };
                bench.store.seal_job(&other, &Default::default(), bench.now).await.unwrap();
                bench.store.images(&id, &[], 0, 100).await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let job = bench.store.job(id.as_str()).await.unwrap();
    assert_eq!((job.done, job.failed), (32, 32));
}

//! Servers and coordinators that come and go.

use std::time::Duration;

use sanafarm_test_servers::Postgres;

use super::{HOUR, another, fresh, fresh_store};
use crate::store::conformance::{Bench, CAPS, LEASE, done, spec};
use crate::store::postgres::PostgresStore;
use crate::store::records::{Begun, Duty, Recovered, Turn};
use crate::store::{Error, Store};

#[tokio::test]
async fn a_restarted_server_costs_one_error_at_most() {
    let (store, mut server) = fresh().await;
    let bench = Bench::new(store);
    let id = bench.submit("a", 4, 1).await;
    let session = bench.session("w").await;
    // Some connections that are idle at the same time.
    let many = || futures::future::join_all((0..8).map(|_| bench.store.job(id.as_str())));
    assert!(many().await.iter().all(|job| job.is_ok()));
    let turn = bench.store.turn(&Duty::Sweep).await.unwrap();
    assert!(turn.is_some());
    for crash in [false, true] {
        if crash {
            server.kill();
        }
        server.restart();
        if bench.store.job(id.as_str()).await.is_err() {
            bench.store.job(id.as_str()).await.unwrap();
        }
        assert!(many().await.iter().all(|job| job.is_ok()));
        let lease = bench.lease(&session).await.unwrap();
        bench.report(&session, &lease.lease, &[done(&lease.images[0])]).await;
    }
    // The right went with its connection, and the coordinator shows again that it lives.
    assert!(bench.store.turn(&Duty::Sweep).await.unwrap().is_some());
    let other = another(&server).await;
    assert_eq!(other.store.recover(LEASE, bench.now).await.unwrap(), Recovered::default());
    let living = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 1396788801";
    assert_eq!(server.sql("farm", living), "2");
    drop(turn);
}

#[tokio::test]
async fn one_connection_that_is_found_broken_casts_doubt_on_all() {
    let server = Postgres::start();
    let store = PostgresStore::open_with(&server.database("farm"), 2, HOUR).await.unwrap();
    let jobs = || store.jobs(None, &[], 1);
    let both = futures::join!(jobs(), jobs());
    assert!(both.0.is_ok() && both.1.is_ok());
    // Idle for so long that it is tested is only the one that is not used now.
    tokio::time::sleep(Duration::from_secs(1)).await;
    jobs().await.unwrap();
    while store.pool.num_idle() < 2 {
        tokio::task::yield_now().await;
    }
    // As after a restart, but sooner than the other one is idle for so long.
    let ended = "SELECT bool_and(pg_terminate_backend(pid, 60000)) FROM pg_stat_activity WHERE application_name = 'sanafarm'";
    assert_eq!(server.sql("postgres", ended), "t");
    jobs().await.unwrap();
    jobs().await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_gone_is_named() {
    let (store, mut server) = fresh_store().await;
    server.stop();
    // Whether it finds out by using a connection or by asking for one.
    let error = store.jobs(None, &[], 1).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("postgres://postgres@127.0.0.1"), "{error}");
}

#[tokio::test]
async fn what_a_living_coordinator_does_is_left_alone() {
    let (store, server) = fresh().await;
    let mut first = Bench::new(store);
    assert_eq!(first.store.recover(LEASE, first.now).await.unwrap(), Recovered::default());
    first.submit("a", 4, 2).await;
    let (near, far) = (first.open("near", true).await, first.session("far").await);
    let (held, lost) = (first.lease(&near).await.unwrap(), first.lease(&far).await.unwrap());
    let Begun::New(unsealed, _) = first.store.begin_job(&spec("b"), first.now).await.unwrap() else {
        panic!()
    };
    first.pass(LEASE);
    // Another one starts: it takes nothing away, and gives nobody more time.
    let second = another(&server).await;
    assert_eq!(second.store.recover(LEASE, first.now).await.unwrap(), Recovered::default());
    while second.store.purge().await.unwrap() {}
    first.store.add_batch(&unsealed, &Default::default(), first.now).await.unwrap();
    assert_eq!(second.store.expire_leases(CAPS, first.now).await.unwrap(), 2);
    assert!(!first.renew(&near, &held.lease, &[]).await && !first.renew(&far, &lost.lease, &[]).await);
    first.lease(&near).await.unwrap();
    // The first dies. What it took in is abandoned by the second, who was there all the time.
    first.store.close().await;
    second.store.purge().await.unwrap();
    let late = second.store.add_batch(&unsealed, &Default::default(), first.now).await;
    assert!(matches!(late, Err(Error::Replaced(_))), "{late:?}");
    // A third finds what lived in the first one's process.
    let third = another(&server).await;
    let recovered = third.store.recover(LEASE, first.now).await.unwrap();
    assert_eq!(recovered, Recovered { released: 1, abandoned: 0 });
    assert_eq!(third.value("select outcome from audit_attempts where attempt = 2").await, "released");
}

#[tokio::test]
async fn the_first_to_come_back_gives_workers_time() {
    let (store, server) = fresh().await;
    let mut bench = Bench::new(store);
    bench.store.recover(LEASE, bench.now).await.unwrap();
    bench.submit("a", 2, 2).await;
    let session = bench.session("far").await;
    let lease = bench.lease(&session).await.unwrap();
    bench.store.close().await;
    bench.pass(LEASE * 10);
    let (second, third) = (another(&server).await, another(&server).await);
    let recovered =
        futures::join!(second.store.recover(LEASE, bench.now), third.store.recover(LEASE, bench.now));
    assert_eq!((recovered.0.unwrap(), recovered.1.unwrap()), (Recovered::default(), Recovered::default()));
    assert_eq!(second.store.expire_leases(CAPS, bench.now).await.unwrap(), 0);
    let held = vec![crate::store::records::HeldLease { lease: lease.lease.clone(), rendering: vec![0] }];
    let renewal = crate::store::records::Renewal { session, held, stats: None, leaving: None };
    let kept = third.store.renew_leases(&[renewal], LEASE, bench.now).await.unwrap().remove(0).unwrap().kept;
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].lease, lease.lease);
}

/// Given up behind the scenes, a turn reaches the next one a moment later.
async fn handed_over(store: &dyn Store, duty: &Duty) -> Turn {
    let taken = async {
        loop {
            if let Some(turn) = store.turn(duty).await.unwrap() {
                break turn;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), taken).await.unwrap()
}

#[tokio::test]
async fn a_duty_is_done_by_one_and_handed_over() {
    let (store, server) = fresh().await;
    let first = Bench::new(store);
    let second = another(&server).await;
    let id = first.submit("a", 1, 1).await;
    for duty in [Duty::Sweep, Duty::Purge, Duty::Finish(id.to_string())] {
        let turn = first.store.turn(&duty).await.unwrap();
        assert!(turn.is_some());
        assert!(second.store.turn(&duty).await.unwrap().is_none());
        assert!(first.store.turn(&duty).await.unwrap().is_none(), "not even its holder does it twice");
        drop(turn);
        let _turn = handed_over(&*second.store, &duty).await;
    }
    let _turn = handed_over(&*first.store, &Duty::Sweep).await;
    assert!(second.store.turn(&Duty::Sweep).await.unwrap().is_none());
    // As if its process had died.
    server.sql(
        "postgres",
        "SELECT pg_terminate_backend(pid) FROM pg_locks \
         WHERE locktype = 'advisory' AND classid = 1396788803 AND objid = hashtext('sweep')::oid",
    );
    handed_over(&*second.store, &Duty::Sweep).await;
}

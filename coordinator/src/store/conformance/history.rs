//! What the history tells: who did what.

use std::time::Duration;

use super::Bench;
use super::bench::*;
use crate::domain::blame::ErrorClass;
use crate::domain::spec::JobSpec;
use crate::store::records::{By, Cell, Change};

/// Kind, actor and reason of the events of these kinds, in order.
async fn told(bench: &Bench, kinds: &[&str]) -> Vec<[String; 3]> {
    let list: Vec<_> = kinds.iter().map(|kind| format!("'{kind}'")).collect();
    let sql = format!(
        "select kind, actor, coalesce(reason, '-') from audit_events where kind in ({}) order by seq",
        list.join(", ")
    );
    let text = |cell: &Cell| match cell {
        Cell::Text(text) => text.clone(),
        other => panic!("{other:?}"),
    };
    let rows = bench.sql(&sql).await;
    rows.iter().map(|row| [text(&row[0]), text(&row[1]), text(&row[2])]).collect()
}

pub async fn what_the_farm_does_by_itself_is_told_so(mut bench: Bench) {
    let id = bench.submit("a", 8, 1).await;
    let (near, lost, gone) =
        (bench.open("near", true).await, bench.session("lost").await, bench.session("gone").await);
    bench.lease(&near).await.unwrap();
    let lease = bench.lease(&lost).await.unwrap();
    assert!(bench.renew(&lost, &lease.lease, &[lease.images[0].index]).await);
    bench.store.recover(LEASE, bench.now).await.unwrap();
    bench.lease(&gone).await.unwrap();
    bench.store.close_session(&gone, "updating", bench.now).await.unwrap();
    bench.pass(LEASE * 2);
    bench.store.expire_leases(CAPS, bench.now).await.unwrap();
    bench.store.close_silent_sessions(bench.now, bench.now).await.unwrap();
    let last = bench.session("last").await;
    bench.lease(&last).await.unwrap();
    bench.change(&id, Change::Cancel).await;
    let row = |kind: &str, actor: &str, reason: &str| [kind, actor, reason].map(str::to_owned);
    assert_eq!(
        told(&bench, &["lease_released", "lease_lost", "lease_revoked", "session_closed"]).await,
        [
            row("lease_released", "coordinator", "process ended"),
            row("session_closed", "coordinator", "process ended"),
            row("lease_released", "gone", "updating"),
            row("session_closed", "gone", "updating"),
            row("lease_lost", "coordinator", "-"),
            row("session_closed", "coordinator", "silent"),
            row("lease_revoked", "bob", "because"),
        ]
    );
}

pub async fn an_image_that_lost_its_worker_is_given_up_by_the_farm(mut bench: Bench) {
    bench.submit("a", 1, 1).await;
    let session = bench.session("w").await;
    for _ in 0..CAPS.losses {
        let lease = bench.lease(&session).await.unwrap();
        assert!(bench.renew(&session, &lease.lease, &[0]).await);
        bench.pass(LEASE);
        bench.store.expire_leases(CAPS, bench.now).await.unwrap();
    }
    let failed = ["image_failed", "coordinator", "-"].map(str::to_owned);
    assert_eq!(told(&bench, &["image_failed"]).await, [failed]);
}

pub async fn whoever_does_not_tell_a_name_is_not_the_farm(bench: Bench) {
    let nobody = JobSpec { owner: String::new(), ..spec("a") };
    let id = bench.submit_rows(nobody, [row(1)].into_iter(), 1).await;
    bench.store.change_job(&id, &Change::Pause, &By::default(), bench.now).await.unwrap();
    let row = |kind: &str| [kind, "unknown", "-"].map(str::to_owned);
    assert_eq!(
        told(&bench, &["job_submitted", "job_paused"]).await,
        [row("job_submitted"), row("job_paused")]
    );
}

pub async fn a_worker_is_taken_out_and_forgiven_in_words(mut bench: Bench) {
    bench.submit("a", 12, 1).await;
    let session = bench.session("w").await;
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(bench.lease(&session).await.unwrap());
    }
    let mut held = held.iter();
    for _ in 0..2 {
        for lease in held.by_ref().take(3) {
            bench.report(&session, &lease.lease, &[error(&lease.images[0], ErrorClass::Internal)]).await;
        }
        bench.pass(Duration::from_secs(1));
    }
    // The second picture finds nothing to forgive.
    for lease in held {
        bench.report(&session, &lease.lease, &[done(&lease.images[0])]).await;
    }
    let row = |kind: &str| [kind, "coordinator", "-"].map(str::to_owned);
    assert_eq!(
        told(&bench, &["worker_excluded", "worker_forgiven"]).await,
        [row("worker_excluded"), row("worker_excluded"), row("worker_forgiven")]
    );
    let times = "select detail ->> 'times' from audit_events where kind = 'worker_forgiven'";
    assert_eq!(bench.value(times).await, "2");
}

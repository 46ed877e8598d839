//! Workers that are asked to leave or leave, and how they spend their time.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Bench;
use super::bench::*;
use crate::domain::id::SessionId;
use crate::domain::leaving::Drain;
use crate::domain::tail::{Part, Share};
use crate::store::records::{
    By, Cell, DeviceStats, EventRecord, Kept, OfWorker, Presence, Renewal, Renewed, Stats, Subject,
};

fn of(worker: &str) -> OfWorker {
    OfWorker { worker: worker.to_owned(), session: None }
}

impl Bench {
    async fn drain(&self, of: &OfWorker, drain: Drain) -> Vec<SessionId> {
        self.store.drain(of, drain, &by_bob(), self.now).await.unwrap()
    }

    async fn tell(&self, session: &SessionId, stats: Option<Stats>, leaving: Option<&str>) -> Renewed {
        let leaving = leaving.map(str::to_owned);
        let renewal = Renewal { session: session.clone(), held: Vec::new(), stats, leaving };
        only(self.store.renew_leases(&[renewal], LEASE, self.now).await.unwrap()).unwrap()
    }

    async fn present(&self, session: &SessionId) -> Presence {
        let sessions = self.store.sessions().await.unwrap();
        sessions.into_iter().find(|present| present.id == *session).unwrap()
    }

    /// Kind, actor, reason and detail of the events of this kind.
    async fn told_of(&self, worker: &str, kind: &str) -> Vec<[String; 3]> {
        let events = self.store.events(&Subject::Worker(of(worker)), 0, 1000).await.unwrap();
        let of_kind = events.into_iter().filter(|event| event.kind == kind);
        of_kind
            .map(|EventRecord { actor, reason, detail, .. }| [actor, reason, detail.replace(' ', "")])
            .collect()
    }
}

pub async fn a_drained_worker_gets_nothing_more_and_is_told(bench: Bench) {
    let job = bench.submit("a", 6, 2).await;
    let (first, second) = (bench.session("w").await, bench.session("w").await);
    let other = bench.session("other").await;
    let lease = bench.lease(&first).await.unwrap();
    assert_eq!(bench.tell(&first, None, None).await.drain, None);
    let asked = bench.drain(&of("w"), Drain::Soon).await;
    assert_eq!(asked, [first.clone(), second.clone()], "both of its sessions");
    assert_eq!((bench.lease(&first).await, bench.lease(&second).await), (None, None));
    let waiting = [second.clone(), other.clone()];
    assert_eq!(
        bench.store.idle(&waiting).await.unwrap(),
        std::slice::from_ref(&other),
        "nor does it help others"
    );
    let renewed = bench.tell(&second, None, None).await;
    assert_eq!(renewed, Renewed { kept: Vec::new(), drain: Some(Drain::Soon) });
    assert_eq!(bench.present(&first).await.drain, Some(Drain::Soon));
    assert_eq!(bench.present(&other).await.drain, None);
    // What it holds it may finish or hand back.
    assert_eq!(bench.report(&first, &lease.lease, &[done(&lease.images[0])]).await.accepted, 1);
    bench.release(&first, &lease.lease, &drain()).await;
    assert_eq!(bench.lease(&other).await.unwrap().images.len(), 1);
    assert!(bench.lease(&bench.session("w").await).await.is_some(), "a new session starts afresh");
    assert_eq!(bench.value("select sum(errors + losses) from audit_images").await, "0");
    assert_eq!(bench.store.job(job.as_str()).await.unwrap().done, 1);
    bench.check_invariants().await;
}

pub async fn a_drain_is_told_once_and_may_become_more_urgent(bench: Bench) {
    let session = bench.session("w").await;
    let only_it = OfWorker { worker: "w".to_owned(), session: Some(session.clone()) };
    let neighbour = bench.session("w").await;
    for (wanted, now) in [
        (Drain::Soon, Drain::Soon),
        (Drain::Soon, Drain::Soon),
        (Drain::Now, Drain::Now),
        (Drain::Soon, Drain::Now),
    ] {
        assert_eq!(bench.drain(&only_it, wanted).await, std::slice::from_ref(&session));
        assert_eq!(bench.present(&session).await.drain, Some(now), "after {wanted}");
    }
    assert_eq!(bench.present(&neighbour).await.drain, None);
    let event = |drain: &str| ["bob".to_owned(), "because".to_owned(), format!(r#"{{"drain":"{drain}"}}"#)];
    assert_eq!(bench.told_of("w", "worker_drained").await, [event("soon"), event("now")]);
    bench.store.close_session(&session, "drained", bench.now).await.unwrap();
    assert_eq!(bench.drain(&only_it, Drain::Now).await, [], "it has left");
    assert_eq!(bench.drain(&of("nobody"), Drain::Now).await, []);
}

pub async fn a_worker_that_leaves_gets_nothing_more(mut bench: Bench) {
    bench.submit("a", 8, 4).await;
    let (leaver, stayer) = (bench.session("leaver").await, bench.session("stayer").await);
    let held = bench.lease(&leaver).await.unwrap();
    bench.tell(&leaver, None, Some("spot notice")).await;
    bench.pass(Duration::from_secs(5));
    bench.tell(&leaver, None, Some("spot notice, still")).await;
    assert_eq!(bench.present(&leaver).await.leaving.as_deref(), Some("spot notice"));
    assert_eq!(bench.lease(&leaver).await, None);
    let other = bench.lease(&stayer).await.unwrap();
    let take = async |session: &SessionId, from: &crate::store::records::Lease| {
        let share = Share { shard: from.lease.shard.clone(), attempt: 1, part: Part::Last(2) };
        bench.store.take_over(session, &share, LEASE, bench.now).await.unwrap()
    };
    assert_eq!(take(&leaver, &other).await, None, "nor what others hold");
    assert_eq!(take(&stayer, &held).await.unwrap().images.len(), 2, "others help");
    let told = bench.told_of("leaver", "worker_leaving").await;
    assert_eq!(told, [["leaver".to_owned(), "spot notice".to_owned(), "{}".to_owned()]]);
    bench.drain(&of("stayer"), Drain::Soon).await;
    assert_eq!(take(&stayer, &held).await, None, "not who was asked to leave either");
    bench.check_invariants().await;
}

pub async fn what_a_worker_says_of_its_time_is_kept(mut bench: Bench) {
    bench.submit("a", 2, 2).await;
    let session = bench.session("w").await;
    assert_eq!(bench.present(&session).await.stats, None);
    let device = |id: &str, idle: f64| DeviceStats {
        id: id.to_owned(),
        idle,
        busy: BTreeMap::from([("denoise".to_owned(), 0.5)]),
        batch: 4,
        resident: true,
        broken: String::new(),
        steps_down: 1,
    };
    let stats = Stats {
        devices: vec![device("cuda:0", 0.25), device("cuda:1", 0.75)],
        busy: BTreeMap::from([("encode".to_owned(), 0.125)]),
        outbox_images: 3,
        outbox_bytes: 4_000_000_000_000,
        trouble: "out of reach".to_owned(),
    };
    // Also when its sign of life is younger than a second.
    bench.tell(&session, Some(stats.clone()), None).await;
    assert_eq!(bench.present(&session).await.stats.as_ref(), Some(&stats));
    bench.pass(Duration::from_secs(20));
    let calm = Stats { trouble: String::new(), ..stats.clone() };
    let lease = bench.lease(&session).await.unwrap();
    let held = vec![crate::store::records::HeldLease { lease: lease.lease.clone(), rendering: Vec::new() }];
    let renewal = Renewal { session: session.clone(), held, stats: Some(calm.clone()), leaving: None };
    let renewed = only(bench.store.renew_leases(&[renewal], LEASE, bench.now).await.unwrap()).unwrap();
    assert_eq!(renewed.kept, [Kept { lease: lease.lease, last_index: 1 }]);
    assert_eq!(bench.present(&session).await.stats.as_ref(), Some(&calm));
    // Who tells nothing is believed to be as before.
    bench.pass(Duration::from_secs(20));
    bench.tell(&session, None, None).await;
    assert_eq!(bench.present(&session).await.stats.as_ref(), Some(&calm));
    assert_eq!(bench.present(&session).await.seen_at, bench.now);
    let columns =
        "select drain, leaving, cast(idle * 100 as integer), outbox_images, trouble from audit_workers";
    let row = [Cell::Null, Cell::Null, Cell::Integer(50), Cell::Integer(3), Cell::Null];
    assert_eq!(bench.sql(columns).await, [row]);
    bench.store.drain(&of("w"), Drain::Now, &By::default(), bench.now).await.unwrap();
    bench.tell(&session, None, Some("ctrl-c")).await;
    let text = |text: &str| Cell::Text(text.to_owned());
    assert_eq!(bench.sql("select drain, leaving from audit_workers").await, [[text("now"), text("ctrl-c")]]);
}

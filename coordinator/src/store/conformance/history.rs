//! What the history tells: who did what, and the stories of jobs, images and workers.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Bench;
use super::bench::*;
use crate::domain::blame::ErrorClass;
use crate::domain::id::JobId;
use crate::domain::schedule::Device;
use crate::domain::settings::Settings;
use crate::domain::spec::{JobSpec, Row};
use crate::domain::state::ImageState;
use crate::store::records::{
    By, Cell, Change, EventRecord, NewSession, Newest, OfWorker, Range, Subject, Yield,
};

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
        bench.pass(Duration::from_secs(60));
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

fn kinds(events: &[EventRecord]) -> Vec<&str> {
    events.iter().map(|event| event.kind.as_str()).collect()
}

pub async fn a_job_tells_its_events_page_by_page(mut bench: Bench) {
    let id = bench.submit("a", 6, 2).await;
    let (one, two) = (bench.session("one").await, bench.session("two").await);
    let lease = bench.lease(&one).await.unwrap();
    let [first, second] = lease.images.as_slice() else { panic!("{} images", lease.images.len()) };
    bench.report(&one, &lease.lease, &[done(first), error(second, ErrorClass::Prompt)]).await;
    bench.pass(Duration::from_secs(1));
    bench.render_all(&two).await;
    let other = bench.submit("other", 1, 1).await;
    bench.change(&id, Change::Priority(2)).await;
    let of = Subject::Job(id.clone());
    let all = bench.store.events(&of, 0, 100).await.unwrap();
    let sql = format!("select kind from audit_events where job_id = '{id}' order by seq");
    let view: Vec<Vec<Cell>> =
        kinds(&all).into_iter().map(|kind| vec![Cell::Text(kind.to_owned())]).collect();
    assert_eq!(bench.sql(&sql).await, view);
    let mut paged = Vec::new();
    loop {
        let after = paged.last().map_or(0, |last: &EventRecord| last.seq);
        let page = bench.store.events(&of, after, 3).await.unwrap();
        assert!(page.len() <= 3);
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(paged, all);

    let failed = all.iter().find(|event| event.kind == "image_failed").unwrap();
    let range = Some(Range { first: 0, last: 1, images: 2 });
    assert_eq!((failed.range, failed.index, failed.attempt), (range, Some(1), Some(1)));
    assert_eq!((failed.worker.as_str(), failed.actor.as_str()), ("one", "one"));
    assert_eq!((failed.job.as_ref(), failed.session.as_ref()), (Some(&id), Some(&one)));
    let last = all.last().unwrap();
    assert_eq!((last.actor.as_str(), last.reason.as_str(), last.range), ("bob", "because", None));

    let newest = bench.store.newest(&of, 3).await.unwrap();
    let third = all.len() - 3;
    assert_eq!(newest, Newest { from: all[third].seq, older: third as u64 });
    assert_eq!(bench.store.newest(&of, all.len() as u64).await.unwrap().older, 0);
    assert_eq!(bench.store.newest(&of, 100).await.unwrap(), Newest::default());
    let counts = bench.store.counts(&of).await.unwrap();
    assert_eq!(counts.values().sum::<u64>(), all.len() as u64);
    assert_eq!((counts["lease_granted"], counts["image_failed"], counts.get("job_paused")), (3, 1, None));
    let made = Yield { done: 5, failed: 1, device_seconds: 11.0, workers: 2 };
    assert_eq!(bench.store.yielded(&of).await.unwrap(), made);
    let nothing = bench.store.yielded(&Subject::Job(other)).await.unwrap();
    assert_eq!(nothing, Yield::default());
}

/// A job of two sizes in turn, in shards of two: those of one size lie over those of the other.
async fn alternating(bench: &Bench, images: u64) -> JobId {
    let wide = Settings { width: 96, ..spec("a").settings };
    let rows = (1..=images).map(|line| match line % 2 {
        0 => Row { width: Some(64), height: Some(96), ..row(line) },
        _ => row(line),
    });
    bench.submit_rows(JobSpec { settings: wide, ..spec("a") }, rows, 2).await
}

pub async fn a_worker_tells_all_its_sessions_or_one(mut bench: Bench) {
    alternating(&bench, 8).await;
    let (first, other) = (bench.session("w").await, bench.session("other").await);
    let lease = bench.lease(&first).await.unwrap();
    let [a, b] = lease.images.as_slice() else { panic!("{} images", lease.images.len()) };
    bench.report(&first, &lease.lease, &[done(a), error(b, ErrorClass::Size)]).await;
    bench.store.close_session(&first, "done", bench.now).await.unwrap();
    bench.pass(Duration::from_secs(1));
    let lease = bench.lease(&other).await.unwrap();
    bench.report(&other, &lease.lease, &[done(&lease.images[0])]).await;
    let second = bench.session("w").await;
    bench.render_all(&second).await;

    let whole = OfWorker { worker: "w".to_owned(), session: None };
    let one = OfWorker { worker: "w".to_owned(), session: Some(first.clone()) };
    assert_eq!(bench.store.worker("w").await.unwrap().as_ref(), Some(&whole));
    assert_eq!(bench.store.worker(first.as_str()).await.unwrap().as_ref(), Some(&one));
    for unknown in ["W", "", "nobody", "0199", "a\0b", "00000000-0000-0000-0000-000000000000"] {
        assert_eq!(bench.store.worker(unknown).await.unwrap(), None, "{unknown:?}");
    }
    let (whole, one) = (Subject::Worker(whole), Subject::Worker(one));
    let work = ["lease_granted", "lease_finished"];
    let mut expected =
        vec!["session_opened", "lease_granted", "image_failed", "lease_finished", "session_closed"];
    assert_eq!(kinds(&bench.store.events(&one, 0, 100).await.unwrap()), expected);
    expected.push("session_opened");
    expected.extend(work.repeat(2));
    let events = bench.store.events(&whole, 0, 100).await.unwrap();
    assert_eq!(kinds(&events), expected);
    let place = events[5].seq;
    assert_eq!(bench.store.events(&whole, place, 1).await.unwrap(), events[6..7]);
    assert_eq!(bench.store.newest(&whole, 5).await.unwrap(), Newest { from: place, older: 5 });
    assert_eq!(bench.store.counts(&whole).await.unwrap()["session_opened"], 2);
    let made = Yield { done: 1, failed: 1, device_seconds: 3.0, workers: 1 };
    assert_eq!(bench.store.yielded(&one).await.unwrap(), made);
    let made = Yield { done: 5, failed: 1, device_seconds: 11.0, workers: 1 };
    assert_eq!(bench.store.yielded(&whole).await.unwrap(), made);
}

pub async fn sessions_of_a_worker_that_overlap_are_told_in_order(bench: Bench) {
    bench.submit("a", 24, 1).await;
    // The second is idle for long, the third does most.
    let sessions = [bench.session("w").await, bench.session("w").await, bench.session("w").await];
    for turn in [0, 2, 2, 0, 2, 2, 2, 1, 0, 2, 1, 2, 2, 0] {
        let lease = bench.lease(&sessions[turn]).await.unwrap();
        bench.report(&sessions[turn], &lease.lease, &[done(&lease.images[0])]).await;
    }
    let of = Subject::Worker(OfWorker { worker: "w".to_owned(), session: None });
    let all = bench.store.events(&of, 0, 1000).await.unwrap();
    assert_eq!(all.len(), 3 + 2 * 14);
    assert!(all.is_sorted_by(|a, b| a.seq < b.seq));
    for size in [1, 2, 3, 5, 30, 31, 32] {
        let mut paged: Vec<EventRecord> = Vec::new();
        loop {
            let page = bench.store.events(&of, paged.last().map_or(0, |last| last.seq), size).await.unwrap();
            paged.extend(page.iter().cloned());
            // A short page is the last.
            if page.len() < size as usize {
                break;
            }
        }
        assert_eq!(paged, all, "pages of {size}");
    }
}

pub async fn a_session_that_was_opened_tells_its_devices(bench: Bench) {
    let device = Device {
        id: "cuda:0".to_owned(),
        name: "Somebody's".to_owned(),
        memory_bytes: 80 << 30,
        memory_free_bytes: 79 << 30,
        compute_capability: "9.0".to_owned(),
        driver: "12.4".to_owned(),
    };
    let session = NewSession {
        worker: "w".to_owned(),
        version: "1".to_owned(),
        devices: vec![device.clone()],
        labels: BTreeMap::new(),
        embedded: false,
    };
    let id = bench.store.open_session(&session, bench.now).await.unwrap();
    bench.store.close_session(&id, "done", bench.now).await.unwrap();
    let of = Subject::Worker(bench.store.worker("w").await.unwrap().unwrap());
    let events = bench.store.events(&of, 0, 10).await.unwrap();
    let devices: Vec<_> = events.iter().map(|event| event.devices.as_slice()).collect();
    assert_eq!(devices, [&[device][..], &[]]);
}

pub async fn an_image_tells_its_attempts_and_what_came_of_them(mut bench: Bench) {
    let id = bench.submit("a", 3, 3).await;
    let session = bench.session("w").await;
    let story = async |bench: &Bench, index| bench.store.image_story(&id, index).await.unwrap();
    let unborn = story(&bench, 1).await.unwrap();
    assert_eq!((kinds(&unborn.events), unborn.held_by), (vec!["job_submitted"], None));

    let lease = bench.lease(&session).await.unwrap();
    assert_eq!(story(&bench, 1).await.unwrap().held_by.as_deref(), Some("w"));
    let [a, b, _] = lease.images.as_slice() else { panic!("{} images", lease.images.len()) };
    bench.report(&session, &lease.lease, &[done(a), error(b, ErrorClass::Internal)]).await;
    bench.release(&session, &lease.lease, &finished()).await;
    bench.change(&id, Change::Pause).await;
    bench.change(&id, Change::Resume).await;
    bench.pass(Duration::from_secs(10));
    let lease = bench.lease(&session).await.unwrap();
    assert!(bench.renew(&session, &lease.lease, &[1]).await);
    bench.pass(LEASE);
    bench.store.expire_leases(CAPS, bench.now).await.unwrap();
    let lease = bench.lease(&session).await.unwrap();
    let [b, c] = lease.images.as_slice() else { panic!("{} images", lease.images.len()) };
    bench.report(&session, &lease.lease, &[error(b, ErrorClass::Prompt), done(c)]).await;
    bench.store.finish_job(&id, bench.now).await.unwrap();
    bench.pass(Duration::from_secs(1));
    bench.change(&id, Change::Retry(None)).await;
    let again = story(&bench, 1).await.unwrap();
    assert_eq!((again.image.state, again.held_by), (ImageState::Pending, None));
    bench.render_all(&session).await;

    let told = story(&bench, 1).await.unwrap();
    assert_eq!(
        kinds(&told.events),
        [
            "job_submitted",
            "lease_granted",
            "image_error",
            "lease_released",
            "job_paused",
            "job_resumed",
            "lease_granted",
            "lease_lost",
            "lease_granted",
            "image_error",
            "image_failed",
            "lease_finished",
            "job_retried",
            "lease_granted",
            "image_done",
            "lease_finished",
        ]
    );
    assert_eq!((told.losses, told.held_by, told.image.state), (1, None, ImageState::Done));
    let (error, picture) = (&told.events[2], &told.events[14]);
    assert_eq!((error.seq, error.attempt, error.index, error.worker.as_str()), (0, Some(1), Some(1), "w"));
    assert_eq!(error.detail, r#"{"error_class":"internal","error":"internal went wrong","device":"cpu"}"#);
    assert_eq!((picture.attempt, picture.session.as_ref(), picture.at), (Some(4), Some(&session), bench.now));
    assert!(picture.detail.contains(&format!(r#""sha256":"{:064x}""#, 1)), "{}", picture.detail);

    // What came after its picture is not its story.
    let told = story(&bench, 0).await.unwrap();
    assert_eq!(kinds(&told.events), ["job_submitted", "lease_granted", "image_done", "lease_released"]);
    let told = story(&bench, 2).await.unwrap();
    let last = &kinds(&told.events)[5..];
    assert_eq!(last, ["lease_granted", "lease_lost", "lease_granted", "image_done", "lease_finished"]);
    assert_eq!(told.losses, 0, "it was not in hand");
    assert_eq!(story(&bench, 3).await, None);
}

pub async fn an_image_of_one_size_is_not_told_the_attempts_at_another(bench: Bench) {
    let id = alternating(&bench, 8).await;
    bench.render_all(&bench.session("w").await).await;
    for index in 0..8 {
        let told = bench.store.image_story(&id, index).await.unwrap().unwrap();
        let expected = ["job_submitted", "lease_granted", "image_done", "lease_finished"];
        assert_eq!(kinds(&told.events), expected, "image {index}");
    }
}

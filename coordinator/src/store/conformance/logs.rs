//! What workers log about images.

use std::time::Duration;

use super::Bench;
use super::bench::*;
use crate::domain::blame::ErrorClass;
use crate::domain::id::SessionId;
use crate::store::Error;
use crate::store::records::{AttemptLog, ImageReport, LeasedImage, Report};

fn logged(report: ImageReport, log: &str) -> ImageReport {
    ImageReport { log: log.to_owned(), ..report }
}

pub async fn what_was_logged_is_kept_with_its_attempt(mut bench: Bench) {
    let id = bench.submit("a", 3, 3).await;
    let session = bench.session("w").await;
    let lease = bench.lease(&session).await.unwrap();
    let failed = logged(error(&lease.images[0], ErrorClass::Internal), "loading\nit broke\n");
    let first = [failed, logged(done(&lease.images[1]), "fine"), done(&lease.images[2])];
    bench.report(&session, &lease.lease, &first).await;
    bench.release(&session, &lease.lease, &finished()).await;
    let first_at = bench.now;
    bench.pass(Duration::from_secs(10));
    let other = bench.session("v").await;
    let lease = bench.lease(&other).await.unwrap();
    let second = [logged(done(&lease.images[0]), "it works now")];
    bench.report(&other, &lease.lease, &second).await;
    // Sent again, it is told once.
    bench.report(&other, &lease.lease, &second).await;
    let told = bench.store.logs(&id, 0, 0, 10).await.unwrap();
    let log = |attempt, session: &SessionId, worker: &str, at, log: &str| AttemptLog {
        attempt,
        session: Some(session.clone()),
        worker: worker.to_owned(),
        device: "cpu".to_owned(),
        at,
        log: log.to_owned(),
    };
    let expected = [
        log(1, &session, "w", first_at, "loading\nit broke\n"),
        log(2, &other, "v", bench.now, "it works now"),
    ];
    assert_eq!(told, expected);
    assert_eq!(bench.store.logs(&id, 0, 1, 10).await.unwrap(), expected[1..]);
    assert_eq!(bench.store.logs(&id, 0, 0, 1).await.unwrap(), expected[..1]);
    assert_eq!(bench.store.logs(&id, 1, 0, 10).await.unwrap()[0].log, "fine");
    assert_eq!(bench.store.logs(&id, 2, 0, 10).await.unwrap(), [], "nothing was logged");
    let nobody = crate::domain::id::JobId::from("018f0000-0000-7000-8000-000000000000".to_owned());
    let missing = bench.store.logs(&nobody, 0, 0, 10).await;
    assert!(matches!(missing, Err(Error::NotFound { what: "job", .. })), "{missing:?}");
    let view =
        "select count(*) from audit_logs where image_index = 0 and worker = 'v' and log = 'it works now'";
    assert_eq!(bench.value(view).await, "1");
}

pub async fn of_a_refused_report_nothing_is_kept(bench: Bench) {
    let id = bench.submit("a", 4, 2).await;
    let session = bench.session("w").await;
    let (one, two) = (bench.lease(&session).await.unwrap(), bench.lease(&session).await.unwrap());
    let report = |lease: &crate::store::records::Lease, results: Vec<ImageReport>| Report {
        session: session.clone(),
        lease: lease.lease.clone(),
        results,
        archive: None,
    };
    let stranger = LeasedImage { index: 3, ..one.images[0].clone() };
    let reports = [
        report(&one, vec![logged(done(&one.images[0]), "lost"), logged(done(&stranger), "lost")]),
        report(&one, vec![logged(error(&stranger, ErrorClass::Internal), "lost")]),
        report(&two, two.images.iter().map(|image| logged(done(image), "kept")).collect()),
    ];
    let answers = bench.store.report_results(&reports, CAPS, bench.now).await.unwrap();
    assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, false, true]);
    assert_eq!(bench.store.logs(&id, 0, 0, 10).await.unwrap(), []);
    assert_eq!(bench.store.logs(&id, 3, 0, 10).await.unwrap()[0].log, "kept");
    assert_eq!(bench.value("select count(*) from audit_logs").await, "2");
}

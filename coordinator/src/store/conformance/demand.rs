//! What workers could do. The view goes by the database's own time: here the bench lives an hour before or after it.

use std::time::Duration;

use jiff::Timestamp;

use super::Bench;
use super::bench::*;
use crate::domain::blame::ErrorClass;
use crate::domain::id::JobId;
use crate::domain::schedule::{DeviceKind, Needs};
use crate::domain::spec::JobSpec;
use crate::domain::waiting::Wanted;
use crate::store::records::{Change, Demand};

const HOUR: Duration = Duration::from_secs(3600);

/// Ready images, held images and seconds an image of a job; none when it is not told of.
async fn left(bench: &Bench, job: &JobId) -> Option<(u64, u64, f64)> {
    let demand = bench.store.demand().await.unwrap();
    let mut of_job = demand.iter().filter(|demand| demand.job == *job);
    let told = of_job.next().map(|demand| {
        let Demand { ready_images, held_images, seconds_per_image, .. } = demand;
        (*ready_images, *held_images, *seconds_per_image)
    });
    assert_eq!(of_job.next(), None);
    told
}

pub async fn what_may_run_and_what_is_in_hand_is_counted(mut bench: Bench) {
    bench.now = Timestamp::now() - HOUR;
    let job = bench.submit("a", 6, 2).await;
    assert_eq!(left(&bench, &job).await, Some((6, 0, 10.0)), "nothing is known of the model");
    let session = bench.session("w").await;
    let lease = bench.lease(&session).await.unwrap();
    assert_eq!(left(&bench, &job).await, Some((4, 2, 10.0)));
    let [first, second] = lease.images.as_slice() else { panic!("{} images", lease.images.len()) };
    bench.report(&session, &lease.lease, &[done(first), error(second, ErrorClass::Internal)]).await;
    assert_eq!(left(&bench, &job).await, Some((4, 1, 2.0)));
    // What waits after an error waits no more: that was an hour ago.
    bench.release(&session, &lease.lease, &finished()).await;
    assert_eq!(left(&bench, &job).await, Some((5, 0, 2.0)));
    bench.now = Timestamp::now() + HOUR;
    let lease = bench.lease(&session).await.unwrap();
    let failed: Vec<_> = lease.images.iter().map(|image| error(image, ErrorClass::Internal)).collect();
    bench.report(&session, &lease.lease, &failed).await;
    bench.release(&session, &lease.lease, &finished()).await;
    let waiting = lease.images.len() as u64;
    assert_eq!(left(&bench, &job).await, Some((5 - waiting, 0, 2.0)), "these wait now");
    bench.pass(HOUR);
    bench.render_all(&session).await;
    assert_eq!(left(&bench, &job).await, None);
}

pub async fn what_is_held_back_is_not_counted_but_in_hand(mut bench: Bench) {
    bench.now = Timestamp::now() - HOUR;
    let job = bench.submit("a", 4, 2).await;
    let session = bench.session("w").await;
    bench.lease(&session).await.unwrap();
    bench.change(&job, Change::Pause).await;
    assert_eq!(left(&bench, &job).await, Some((0, 2, 10.0)));
    bench.change(&job, Change::Resume).await;
    bench.store.hold_owner("ann", true, &by_bob(), bench.now).await.unwrap();
    assert_eq!(left(&bench, &job).await, Some((0, 2, 10.0)));
    bench.store.hold_owner("ann", false, &by_bob(), bench.now).await.unwrap();
    assert_eq!(left(&bench, &job).await, Some((2, 2, 10.0)));
    let after = vec![Wanted { job: job.to_string(), any_end: true }];
    let rows = || (1..=3).map(row);
    let next = bench.submit_rows(JobSpec { after, ..spec("next") }, rows(), 2).await;
    let deadline = Some(bench.now + HOUR / 2);
    let late = bench.submit_rows(JobSpec { deadline, ..spec("late") }, rows(), 2).await;
    assert_eq!((left(&bench, &next).await, left(&bench, &late).await), (None, None));
    bench.change(&job, Change::Cancel).await;
    assert_eq!((left(&bench, &job).await, left(&bench, &next).await), (None, Some((3, 0, 10.0))));
}

pub async fn what_a_worker_must_have_is_told_and_time_goes_by_work(mut bench: Bench) {
    bench.now = Timestamp::now() - HOUR;
    bench.submit("a", 2, 2).await;
    bench.render_all(&bench.session("w").await).await;
    let needs = Needs {
        labels: [("zone".to_owned(), "eu".to_owned())].into(),
        device_kind: Some(DeviceKind::Cuda),
        memory_bytes: 24_000_000_000,
    };
    let mut wide = JobSpec { needs: needs.clone(), ..spec("wide") };
    wide.settings.width *= 2;
    wide.settings.steps *= 3;
    let wide = bench.submit_rows(wide, (1..=2).map(row), 2).await;
    let other = JobSpec { model: "other".to_owned(), ..spec("other") };
    let other = bench.submit_rows(other, (1..=2).map(row), 2).await;
    // Six times the work of the images of two seconds that were rendered.
    assert_eq!(left(&bench, &wide).await, Some((2, 0, 12.0)));
    assert_eq!(left(&bench, &other).await, Some((2, 0, 10.0)));
    let demand = bench.store.demand().await.unwrap();
    assert_eq!((&demand[0].needs, &demand[1].needs), (&needs, &Needs::default()));
    assert_eq!(demand.iter().map(Demand::device_seconds).sum::<f64>(), 44.0);
    let view = "select sum(device_seconds) from keda_backlog where model = 'sana-tiny' and device_kind = 'cuda' \
                and memory_bytes <= 24e9 and labels ->> 'zone' = 'eu'";
    assert_eq!(bench.value(view).await.parse::<f64>().unwrap(), 24.0);
}

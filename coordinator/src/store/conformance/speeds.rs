//! What images took is known for estimates, however much is rendered after them.

use super::Bench;
use super::bench::*;
use crate::domain::form::{Form, ImageFormat};
use crate::domain::id::JobId;
use crate::domain::spec::Row;
use crate::domain::speed::Speed;
use crate::store::records::{Change, ImageReport};

const MODEL: &str = "sana-tiny";

/// Row `line` of pictures of this width.
fn wide(line: u64, width: u32) -> Row {
    Row { width: Some(width), ..row(line) }
}

impl Bench {
    /// Renders what is ready, each image in so many seconds, and ends the job.
    async fn render_in(&self, job: &JobId, seconds: f64) {
        let session = self.session("w").await;
        while let Some(lease) = self.lease(&session).await {
            let results: Vec<_> = lease.images.iter().map(done).collect();
            let results: Vec<_> =
                results.into_iter().map(|result| ImageReport { render_seconds: seconds, ..result }).collect();
            self.report(&session, &lease.lease, &results).await;
        }
        self.store.finish_job(job, self.now).await.unwrap();
    }

    /// Width of a picture 64 high, seconds and images of each speed that is known.
    async fn known(&self) -> Vec<(u64, f64, u64)> {
        let speeds = self.store.speeds(MODEL).await.unwrap();
        let mut known: Vec<_> =
            speeds.iter().map(|speed| (speed.pixels / 64, speed.seconds, speed.images)).collect();
        known.sort_by_key(|(width, ..)| *width);
        known
    }
}

pub async fn measured_speed_is_known(bench: Bench) {
    assert_eq!(bench.store.speeds(MODEL).await.unwrap(), []);
    let id = bench.submit("a", 3, 32).await;
    bench.render_all(&bench.session("w").await).await;
    let format = ImageFormat::Png;
    let speed = Speed { pixels: 64 * 64, steps: 4, format, seconds: 2.0, bytes: 1001.0, images: 3 };
    assert_eq!(bench.store.speeds(MODEL).await.unwrap(), [speed]);
    assert_eq!(bench.store.speeds("another").await.unwrap(), []);
    bench.store.finish_job(&id, bench.now).await.unwrap();
    assert_eq!(bench.store.speeds(MODEL).await.unwrap(), [speed], "it is known after the end as before");
    assert_eq!(bench.store.speeds("another").await.unwrap(), []);
}

pub async fn what_was_measured_is_known_however_many_jobs_come_later(bench: Bench) {
    let first = bench.submit_rows(spec("a"), (1..=4).map(|line| wide(line, 32 * line as u32)), 32).await;
    bench.render_in(&first, 3.0).await;
    for number in 0..30 {
        let id = bench.submit_rows(spec(&format!("b{number}")), [wide(1, 32)].into_iter(), 32).await;
        bench.render_in(&id, f64::from(number)).await;
    }
    // The newest of one size is believed.
    let known = [(32, 29.0, 1), (64, 3.0, 1), (96, 3.0, 1), (128, 3.0, 1)];
    assert_eq!(bench.known().await, known);
    // Another format is another speed.
    let form = Form { format: ImageFormat::Jpeg, ..Form::default() };
    let id =
        bench.submit_rows(crate::domain::spec::JobSpec { form, ..spec("c") }, [wide(1, 32)].into_iter(), 32);
    bench.render_in(&id.await, 7.0).await;
    let speeds = bench.store.speeds(MODEL).await.unwrap();
    let of = |format| speeds.iter().find(|speed| speed.pixels == 32 * 64 && speed.format == format).unwrap();
    assert_eq!((of(ImageFormat::Jpeg).seconds, of(ImageFormat::Png).seconds), (7.0, 29.0));
    // What is rendered once more of an older job does not take the place of what newer ones told.
    let change = Change::Requeue(vec![0]);
    bench.store.change_job(&first, &change, &by_bob(), bench.now).await.unwrap();
    bench.render_in(&first, 100.0).await;
    assert_eq!(bench.known().await.iter().filter(|(width, ..)| *width == 32).count(), 2);
    assert!(bench.known().await.iter().all(|(_, seconds, _)| *seconds < 100.0));
}

pub async fn of_every_size_of_a_long_job_something_is_known(bench: Bench) {
    // One size at the beginning and once more, two that alternate, one that is there once, and one at the end.
    let width = |line: u64| match line {
        1001 => 32,
        1..=700 | 1000 => 64,
        701..=1400 if line.is_multiple_of(2) => 96,
        701..=1400 => 128,
        _ => 160,
    };
    let id = bench.submit_rows(spec("a"), (1..=2100).map(|line| wide(line, width(line))), 256).await;
    bench.render_in(&id, 2.0).await;
    let known = bench.known().await;
    assert_eq!(known.iter().map(|(width, ..)| *width).collect::<Vec<_>>(), [32, 64, 96, 128, 160]);
    for (width, seconds, images) in known {
        let counted = if width == 32 { images == 1 } else { (200..=400).contains(&images) };
        assert!(seconds == 2.0 && counted, "{images} images of {width} took {seconds} s");
    }
}

pub async fn what_a_cancelled_job_rendered_is_known(bench: Bench) {
    let id = bench.submit_rows(spec("a"), (1..=600).map(|line| wide(line, 96)), 100).await;
    let session = bench.session("w").await;
    let lease = bench.lease(&session).await.unwrap();
    let results: Vec<_> = lease.images.iter().map(done).collect();
    bench.report(&session, &lease.lease, &results[..20]).await;
    let going_on = bench.known().await;
    bench.change(&id, Change::Cancel).await;
    assert_eq!(bench.known().await, going_on);
    assert_eq!(going_on, [(96, 2.0, 20)]);
    // One that was never begun tells nothing.
    let id = bench.submit_rows(spec("b"), [wide(1, 32)].into_iter(), 32).await;
    bench.change(&id, Change::Cancel).await;
    assert_eq!(bench.known().await, going_on);
}

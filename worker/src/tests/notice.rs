//! Leaving because somebody says so, and because it is time to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sanafarm_proto::v1::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::task::AbortOnDropHandle;

use super::{Farm, shard};
use crate::{Limits, Notices, Options, Spot, Summary};

/// A cloud's metadata server.
struct Cloud {
    endpoint: String,
    /// The machine will be taken away.
    notice: Arc<AtomicBool>,
    _server: AbortOnDropHandle<()>,
}

impl Cloud {
    /// `answer` gives status and body for a request, told by its first line and headers.
    async fn serve(answer: fn(&str, bool) -> (u16, &'static str, String)) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let notice = Arc::new(AtomicBool::new(false));
        let taken = notice.clone();
        let server = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    match stream.read(&mut byte).await {
                        Ok(0) | Err(_) => break,
                        Ok(_) => request.push(byte[0]),
                    }
                }
                let request = String::from_utf8(request).unwrap().to_lowercase();
                let (status, headers, body) = answer(&request, taken.load(Ordering::SeqCst));
                let head = format!("HTTP/1.1 {status} .\r\n{headers}Content-Length: {}\r\n", body.len());
                let whole = format!("{head}Connection: close\r\n\r\n{body}");
                // Whoever waits no longer asks again.
                let _ = stream.write_all(whole.as_bytes()).await;
            }
        });
        Self { endpoint, notice, _server: AbortOnDropHandle::new(server) }
    }

    async fn aws() -> Self {
        Self::serve(|request, taken| {
            let token = request.contains("x-aws-ec2-metadata-token: a-token");
            if request.starts_with("put /latest/api/token ") {
                (200, "", "a-token".into())
            } else if !request.starts_with("get /latest/meta-data/spot/instance-action ") {
                (404, "", String::new())
            } else if !token {
                (401, "", String::new())
            } else if taken {
                let time = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(120);
                (200, "", format!("{{\"action\":\"terminate\",\"time\":\"{time}\"}}"))
            } else {
                (404, "", String::new())
            }
        })
        .await
    }

    async fn gcp() -> Self {
        Self::serve(|request, taken| {
            let asked = request.starts_with("get /computemetadata/v1/instance/preempted");
            if !asked || !request.contains("metadata-flavor: google") {
                return (403, "", String::new());
            }
            let body = if taken { "TRUE" } else { "FALSE" };
            (200, "Metadata-Flavor: Google\r\n", body.into())
        })
        .await
    }
}

/// A worker that listens to a cloud, with an image in hand and others behind it.
async fn farm(cloud: &Cloud, spot: Spot) -> Farm {
    let notices = Notices { spot, spot_endpoint: Some(cloud.endpoint.clone()), ..Notices::default() };
    worker(|options| options.notices = notices).await
}

async fn worker(set: impl FnOnce(&mut Options)) -> Farm {
    let folder = tempfile::tempdir().unwrap();
    let shards = |out: &std::path::Path, model: &std::path::Path| {
        vec![shard("a", 0, &["wait", "x", "y", "z"], out, model)]
    };
    let farm = Farm::start_with(folder, shards, |_| {}, set).await;
    farm.begun(0).await;
    farm
}

/// It says that it leaves while the image is in hand, finishes it, and hands the rest back.
async fn leaves(mut farm: Farm, why: &str) {
    farm.coordinator()
        .until("it says that it leaves", |state| state.leaving.iter().any(|said| said.contains(why)))
        .await;
    assert!(farm.coordinator().state().results.is_empty());
    farm.watch.open();
    assert_eq!(farm.end().await.unwrap(), Summary { done: 1, failed: 0, kept: 0 });
    assert_eq!(farm.watch.started(), ["wait"]);
    let state = farm.coordinator().state();
    assert_eq!((state.releases.len(), state.releases[0].1), (1, ReleaseReason::Drain));
    assert_eq!((state.closed, state.leased.len()), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spot_notice_of_amazon_is_said_at_once_and_obeyed() {
    let cloud = Cloud::aws().await;
    let farm = farm(&cloud, Spot::Auto).await;
    cloud.notice.store(true, Ordering::SeqCst);
    leaves(farm, "spot notice: terminate at ").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spot_notice_of_google_is_said_at_once_and_obeyed() {
    let cloud = Cloud::gcp().await;
    let farm = farm(&cloud, Spot::Auto).await;
    cloud.notice.store(true, Ordering::SeqCst);
    leaves(farm, "spot notice: preempted").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_metadata_server_that_fails_is_no_notice() {
    let cloud = Cloud::serve(|_, _| (500, "", "no".into())).await;
    let mut farm = farm(&cloud, Spot::Gcp).await;
    farm.watch.open();
    assert_eq!(farm.finish(4).await.done, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_file_makes_the_worker_leave() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("drain");
    let farm = worker(|options| options.notices.file = Some(file.clone())).await;
    std::fs::write(&file, "").unwrap();
    leaves(farm, "drain is there").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_command_makes_the_worker_leave_when_it_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("drain");
    let command = format!("test -e '{}'", file.display());
    let farm = worker(|options| options.notices.command = Some(command)).await;
    std::fs::write(&file, "").unwrap();
    leaves(farm, "the drain command says so").await;
}

#[tokio::test]
async fn the_coordinator_may_ask_it_to_leave_with_a_renewal() {
    let farm = worker(|_| {}).await;
    farm.coordinator().change(|state| state.drain = Drain::Soon);
    leaves(farm, "the coordinator asked").await;
}

#[tokio::test]
async fn the_coordinator_may_ask_it_to_leave_at_once() {
    let mut farm = worker(|_| {}).await;
    farm.coordinator().until("it follows", |state| !state.notices.is_empty()).await;
    farm.coordinator().change(|state| {
        for notices in &state.notices {
            notices.send(Ok(Notice { drain: Drain::Now.into(), ..Default::default() })).unwrap();
        }
    });
    // Nobody opens the gate: the image in hand is stopped.
    assert_eq!(farm.end().await.unwrap(), Summary::default());
    let state = farm.coordinator().state();
    assert_eq!((state.releases.len(), state.results.len(), state.closed), (1, 0, 1));
}

/// Amazon takes the machine away three seconds after it says so.
async fn hasty_cloud() -> Cloud {
    Cloud::serve(|request, taken| {
        if request.starts_with("put ") {
            (200, "", "a-token".into())
        } else if taken {
            let time = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(3);
            (200, "", format!("{{\"action\":\"stop\",\"time\":\"{time}\"}}"))
        } else {
            (404, "", String::new())
        }
    })
    .await
}

/// Nobody opens the gate: it leaves because the machine is about to be gone, and hands back what was in hand.
async fn hands_back(mut farm: Farm) {
    assert_eq!(farm.end().await.unwrap(), Summary::default());
    let state = farm.coordinator().state();
    assert_eq!((state.releases.len(), state.releases[0].1), (1, ReleaseReason::Drain));
    assert_eq!((state.results.len(), state.closed), (0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_is_not_finished_before_the_machine_is_gone_is_left_to_others() {
    let cloud = hasty_cloud().await;
    let farm = farm(&cloud, Spot::Aws).await;
    cloud.notice.store(true, Ordering::SeqCst);
    hands_back(farm).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spot_notice_is_obeyed_by_a_worker_that_leaves_already() {
    let cloud = hasty_cloud().await;
    let farm = farm(&cloud, Spot::Aws).await;
    farm.shutdown.soft.cancel();
    farm.coordinator().until("it says that it leaves", |state| !state.leaving.is_empty()).await;
    cloud.notice.store(true, Ordering::SeqCst);
    hands_back(farm).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spot_notice_is_heard_after_a_drain_file() {
    let cloud = hasty_cloud().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("drain");
    let notices = Notices {
        spot: Spot::Aws,
        spot_endpoint: Some(cloud.endpoint.clone()),
        file: Some(file.clone()),
        command: None,
    };
    let farm = worker(|options| options.notices = notices).await;
    std::fs::write(&file, "").unwrap();
    farm.coordinator().until("it says that it leaves", |state| !state.leaving.is_empty()).await;
    cloud.notice.store(true, Ordering::SeqCst);
    hands_back(farm).await;
}

#[test]
fn the_machine_is_gone_at_the_first_of_the_times_that_are_told() {
    let leave = crate::leave::Leave::new(&crate::Shutdown::default());
    let now = tokio::time::Instant::now();
    for (seconds, first) in [(30, 30), (120, 30), (10, 10)] {
        leave.by(now + Duration::from_secs(seconds), "gone");
        // Two seconds are set aside.
        assert_eq!(*leave.ends().borrow(), Some(now + Duration::from_secs(first - 2)));
    }
}

#[test]
fn the_first_reason_to_leave_is_the_one_that_is_told() {
    let leave = crate::leave::Leave::new(&crate::Shutdown::default());
    leave.by(tokio::time::Instant::now(), "gone");
    leave.soon("later");
    assert_eq!(*leave.reasons().borrow(), "gone");
    assert!(leave.soft().is_cancelled() && !leave.hard().is_cancelled());
}

/// A worker with so many jobs of one image each.
async fn with_jobs(jobs: u64, limits: Limits) -> Farm {
    let folder = tempfile::tempdir().unwrap();
    let shards = |out: &std::path::Path, model: &std::path::Path| {
        let job = |index| Lease {
            job_id: format!("job-{index}"),
            ..shard(&format!("s{index}"), index, &["x"], out, model)
        };
        (0..jobs).map(job).collect()
    };
    Farm::start_with(folder, shards, |_| {}, |options| options.limits = limits).await
}

#[tokio::test]
async fn an_idle_worker_leaves_after_its_time() {
    let limits = Limits { max_idle: Some(Duration::from_millis(300)), ..Limits::default() };
    let mut farm = with_jobs(0, limits).await;
    assert_eq!(farm.end().await.unwrap(), Summary::default());
    assert_eq!(farm.coordinator().state().close_reasons, ["idle for long enough"]);
}

#[tokio::test]
async fn an_old_worker_leaves_after_its_time() {
    let limits = Limits { max_lifetime: Some(Duration::from_millis(100)), ..Limits::default() };
    let mut farm = with_jobs(0, limits).await;
    assert_eq!(farm.end().await.unwrap(), Summary::default());
    assert_eq!(farm.coordinator().state().close_reasons, ["its time is over"]);
}

#[tokio::test]
async fn a_worker_takes_no_more_jobs_than_it_is_to() {
    let limits = Limits { max_jobs: Some(2), ..Limits::default() };
    let mut farm = with_jobs(4, limits).await;
    assert_eq!(farm.end().await.unwrap().done, 2);
    let state = farm.coordinator().state();
    assert_eq!((state.releases.len(), state.ready.len(), state.closed), (0, 2, 1));
}

#[tokio::test]
async fn a_worker_finishes_its_jobs_while_others_have_work() {
    let folder = tempfile::tempdir().unwrap();
    let shards = |out: &std::path::Path, model: &std::path::Path| {
        let jobs = ["a", "b", "c", "b", "a", "c", "a"];
        let shards = jobs.iter().zip(0..).map(|(job, index)| Lease {
            job_id: (*job).into(),
            ..shard(&format!("s{index}"), index, &["x"], out, model)
        });
        shards.collect()
    };
    let set = |options: &mut Options| options.limits = Limits { max_jobs: Some(2), ..Limits::default() };
    let mut farm = Farm::start_with(folder, shards, |_| {}, set).await;
    assert_eq!(farm.end().await.unwrap().done, 5);
    let state = farm.coordinator().state();
    let left: Vec<_> = state.ready.iter().map(|lease| lease.job_id.as_str()).collect();
    assert_eq!((left, state.releases.len(), state.closed), (vec!["c", "c"], 0, 1));
}

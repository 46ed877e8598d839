//! What the coordinator does on its own, and over its restarts.

use std::time::Duration;

use sanafarm_coordinator::Coordinator;
use sanafarm_proto::v1;
use sanafarm_proto::v1::cell::Value;
use sanafarm_proto::v1::history_service_client::HistoryServiceClient;
use sanafarm_proto::v1::job_service_client::JobServiceClient;
use sanafarm_proto::v1::worker_service_client::WorkerServiceClient;

use super::support::{Farm, farm, options, reopened, row};

#[tokio::test]
async fn a_restart_gives_the_shard_of_the_own_worker_out_again() {
    let mut farm = farm().await;
    let job = farm.submit("a", vec![row(1), row(2)]).await;
    let session = farm.session().await;
    let lease = farm.lease(&session, Duration::ZERO).await.unwrap();
    let Farm { coordinator, folder, .. } = farm;
    coordinator.close().await;
    let mut farm = reopened(folder).await;
    let session = farm.session().await;
    let again = farm.lease(&session, Duration::ZERO).await.unwrap();
    let attempts = (lease.r#ref.unwrap().attempt, again.r#ref.as_ref().unwrap().attempt);
    assert_eq!(attempts, (1, 2));
    let reported = farm.report(&session, &again, |_| false).await;
    assert_eq!((reported.accepted, reported.known, reported.held), (2, 0, false));
    let seen = farm.watch(&job.job_id).await;
    assert_eq!(seen.last().unwrap().state(), v1::JobState::Succeeded);
}

#[tokio::test]
async fn the_sweep_takes_an_expired_lease_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut short = options(&folder);
    short.lease_duration = Duration::from_secs(2);
    let coordinator = Coordinator::open(short).await.unwrap();
    let channel = coordinator.local_channel().await.unwrap();
    let mut farm = Farm {
        jobs: JobServiceClient::new(channel.clone()),
        workers: WorkerServiceClient::new(channel.clone()),
        history: HistoryServiceClient::new(channel),
        coordinator,
        folder,
    };
    farm.submit("a", vec![row(1)]).await;
    let lost = farm.session().await;
    let first = farm.lease(&lost, Duration::ZERO).await.unwrap();
    assert_eq!(first.r#ref.unwrap().attempt, 1);
    // It says nothing more.
    let next = farm.session().await;
    let second = farm.lease(&next, Duration::from_secs(30)).await.unwrap();
    assert_eq!(second.r#ref.unwrap().attempt, 2);
    let outcomes = farm.sql("select outcome from audit_attempts where attempt = 1").await.unwrap().1;
    assert_eq!(outcomes[0].cells[0].value, Some(Value::Text("lost".to_owned())));
}

#[tokio::test]
async fn an_output_that_cannot_be_written_is_tried_again() {
    let mut farm = farm().await;
    // A file stands where the folder should be.
    std::fs::write(farm.output(), "in the way").unwrap();
    let job = farm.submit("a", vec![row(1)]).await;
    farm.render_all(|_| false).await;
    // Whoever watches is told.
    let request = v1::WatchJobRequest { job_id: job.job_id.clone() };
    let mut watch = farm.jobs.watch_job(request).await.unwrap().into_inner();
    let found = loop {
        let found = watch.message().await.unwrap().unwrap();
        if found.output_error.is_some() {
            break found;
        }
    };
    let error = found.output_error.as_deref().unwrap();
    assert!(error.contains(&job.output), "{error}");
    assert_eq!((found.state(), found.done), (v1::JobState::Running, 1));
    let trouble = "select detail from audit_events where kind = 'output_error'";
    // A job whose output is well does not wait for this one.
    let well = farm.submit_to("b", farm.folder.path().join("well"), vec![row(1)]).await;
    farm.render_all(|_| false).await;
    assert_eq!(farm.watch(&well.job_id).await.last().unwrap().state(), v1::JobState::Succeeded);
    std::fs::remove_file(farm.output()).unwrap();
    let seen = farm.watch(&job.job_id).await;
    let last = seen.last().unwrap();
    assert_eq!((last.state(), last.output_error.as_ref()), (v1::JobState::Succeeded, None));
    assert!(farm.output().join("manifest.parquet").exists());
    assert_eq!(farm.sql(trouble).await.unwrap().1.len(), 1, "recorded once");
}

//! What the coordinator does on its own, and over its restarts.

use std::time::Duration;

use sanafarm_coordinator::Coordinator;
use sanafarm_proto::v1;
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
    short.lease_duration = Duration::from_millis(1);
    let coordinator = Coordinator::open(short).await.unwrap();
    coordinator.close().await;
    let mut farm = reopened(folder).await;
    farm.submit("a", vec![row(1)]).await;
    let Farm { coordinator, folder, .. } = farm;
    let mut short = options(&folder);
    short.lease_duration = Duration::from_millis(1);
    coordinator.close().await;
    let coordinator = Coordinator::open(short).await.unwrap();
    let channel = coordinator.local_channel().await.unwrap();
    let mut workers = WorkerServiceClient::new(channel);
    let mut open = async |worker: &str| {
        let request =
            v1::OpenSessionRequest { worker: worker.to_owned(), ..v1::OpenSessionRequest::default() };
        workers.open_session(request).await.unwrap().into_inner().session_id
    };
    let lost = open("lost").await;
    let next = open("next").await;
    let wait = Some(Duration::from_secs(30).try_into().unwrap());
    let request = |session: &str| v1::LeaseShardRequest {
        session_id: session.to_owned(),
        wait,
        ..v1::LeaseShardRequest::default()
    };
    let first = workers.lease_shard(request(&lost)).await.unwrap().into_inner().lease.unwrap();
    assert_eq!(first.r#ref.unwrap().attempt, 1);
    let second = workers.lease_shard(request(&next)).await.unwrap().into_inner().lease.unwrap();
    assert_eq!(second.r#ref.unwrap().attempt, 2);
}

#[tokio::test]
async fn an_output_that_cannot_be_written_is_tried_again() {
    let mut farm = farm().await;
    // A file stands where the folder should be.
    std::fs::write(farm.output(), "in the way").unwrap();
    let job = farm.submit("a", vec![row(1)]).await;
    farm.render_all(|_| false).await;
    let trouble = "select detail from audit_events where kind = 'output_error'";
    while farm.sql(trouble).await.unwrap().1.is_empty() {
        tokio::task::yield_now().await;
    }
    let request = v1::GetJobRequest { job_id: job.job_id.clone() };
    let found = farm.jobs.get_job(request).await.unwrap().into_inner();
    assert_eq!((found.state(), found.done), (v1::JobState::Running, 1));
    std::fs::remove_file(farm.output()).unwrap();
    let seen = farm.watch(&job.job_id).await;
    assert_eq!(seen.last().unwrap().state(), v1::JobState::Succeeded);
    assert!(farm.output().join("manifest.parquet").exists());
    assert_eq!(farm.sql(trouble).await.unwrap().1.len(), 1, "recorded once");
}

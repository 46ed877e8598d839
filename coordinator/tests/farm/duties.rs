//! What the coordinator does on its own, and over its restarts.

use std::time::Duration;

use sanafarm_coordinator::Coordinator;
use sanafarm_proto::v1;
use sanafarm_proto::v1::cell::Value;
use sanafarm_proto::v1::history_service_client::HistoryServiceClient;
use sanafarm_proto::v1::job_service_client::JobServiceClient;
use sanafarm_proto::v1::submit_job_request::Part;
use sanafarm_proto::v1::worker_service_client::WorkerServiceClient;
use sqlx::{ConnectOptions, Connection};

use super::support::{Farm, farm, options, part, reopened, row};

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
    // It says nothing more, and nobody waits for what it holds.
    let outcome = loop {
        let told = farm.sql("select outcome from audit_attempts where outcome <> 'held'").await.unwrap().1;
        if let Some(row) = told.into_iter().next() {
            break row.cells.into_iter().next().unwrap().value;
        }
    };
    assert_eq!(outcome, Some(Value::Text("lost".to_owned())));
    let next = farm.session().await;
    let second = farm.lease(&next, Duration::from_secs(30)).await.unwrap();
    assert_eq!(second.r#ref.unwrap().attempt, 2);
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

/// A spec and rows as messages.
fn messages(spec: v1::JobSpec, rows: u64) -> impl futures::Stream<Item = v1::SubmitJobRequest> {
    let batch = v1::PromptBatch { rows: (1..=rows).map(row).collect() };
    let parts = [Part::Spec(spec), Part::Batch(batch), Part::Seal(v1::Seal { rows })];
    futures::stream::iter(parts.map(part))
}

#[tokio::test]
async fn a_chain_of_jobs_runs_in_order_and_ends_where_a_link_breaks() {
    let mut farm = farm().await;
    let first = farm.submit("a", vec![row(1)]).await;
    let mut chain = vec![first.job_id.clone()];
    for token in ["b", "c", "d"] {
        let output = farm.folder.path().join(token).display().to_string();
        let after = vec![chain.last().unwrap().clone()];
        let spec = v1::JobSpec { output, after, ..farm.spec(token) };
        let job = farm.jobs.submit_job(messages(spec, 1)).await.unwrap().into_inner().job.unwrap();
        assert_eq!((job.after.len(), job.after[0].holds), (1, true));
        chain.push(job.job_id);
    }
    let session = farm.session().await;
    // The worker waits while the farm moves on.
    for job in &chain[..2] {
        let lease = farm.lease(&session, Duration::from_secs(30)).await.unwrap();
        assert_eq!(&lease.job_id, job);
        farm.report(&session, &lease, |_| false).await;
    }
    let lease = farm.lease(&session, Duration::from_secs(30)).await.unwrap();
    assert_eq!(lease.job_id, chain[2]);
    farm.report(&session, &lease, |_| true).await;
    let seen = farm.watch(&chain[3]).await;
    let last = seen.last().unwrap();
    assert_eq!(last.state(), v1::JobState::Cancelled);
    assert_eq!(last.end_reason.as_deref(), Some(format!("job {} failed", chain[2]).as_str()));
    assert_eq!(farm.lease(&session, Duration::ZERO).await, None);
}

#[tokio::test]
async fn a_deadline_that_passes_while_nobody_serves_is_met_after_the_restart() {
    let mut farm = farm().await;
    let deadline = jiff::Timestamp::now() + Duration::from_secs(3600);
    let told = prost_types::Timestamp { seconds: deadline.as_second(), nanos: deadline.subsec_nanosecond() };
    let spec = v1::JobSpec { deadline: Some(told), ..farm.spec("a") };
    let job = farm.jobs.submit_job(messages(spec, 2)).await.unwrap().into_inner().job.unwrap();
    let Farm { coordinator, folder, .. } = farm;
    coordinator.close().await;
    // The hour passes.
    let file = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.path().join("farm.db"));
    let mut database = file.connect().await.unwrap();
    let passed =
        sqlx::query("UPDATE jobs SET deadline = '2020-01-01T00:00:00.000Z' WHERE deadline IS NOT NULL");
    assert_eq!(passed.execute(&mut database).await.unwrap().rows_affected(), 1);
    database.close().await.unwrap();
    let mut farm = reopened(folder).await;
    let session = farm.session().await;
    assert_eq!(farm.lease(&session, Duration::ZERO).await, None);
    let seen = farm.watch(&job.job_id).await;
    let last = seen.last().unwrap();
    assert_eq!(
        (last.state(), last.end_reason.as_deref()),
        (v1::JobState::Cancelled, Some("deadline passed"))
    );
}

//! Submitting, following and working off jobs.

use std::time::Duration;

use futures::StreamExt;
use sanafarm_coordinator::Coordinator;
use sanafarm_proto::v1;
use sanafarm_proto::v1::job_service_client::JobServiceClient;
use sanafarm_proto::v1::submit_job_request::Part;
use sanafarm_proto::v1::worker_service_client::WorkerServiceClient;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Endpoint;

use super::support::{Farm, farm, part, row};

async fn a_job_runs_to_its_end() {
    let mut farm = farm().await;
    let job = farm.submit("a", (1..=40).map(row).collect()).await;
    assert_eq!((job.state(), job.images), (v1::JobState::Pending, 40));
    farm.render_all(|_| false).await;
    let seen = farm.watch(&job.job_id).await;
    let last = seen.last().unwrap();
    assert_eq!((last.state(), last.done, last.failed), (v1::JobState::Succeeded, 40, 0));
    assert!(last.finished_at.is_some());
    let request = v1::ListImagesRequest { job_id: job.job_id.clone(), limit: 7, ..Default::default() };
    let images: Vec<_> = farm.jobs.list_images(request).await.unwrap().into_inner().collect().await;
    let indices: Vec<_> = images.iter().map(|image| image.as_ref().unwrap().index).collect();
    assert_eq!(indices, [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(images[3].as_ref().unwrap().worker, "w1");
    let listed = farm.jobs.list_jobs(v1::ListJobsRequest::default()).await.unwrap().into_inner().jobs;
    assert_eq!(&listed, &seen[seen.len() - 1..]);
    farm.coordinator.close().await;
}

#[tokio::test]
async fn a_job_runs_to_its_end_on_one_thread() {
    a_job_runs_to_its_end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_runs_to_its_end_on_several_threads() {
    a_job_runs_to_its_end().await;
}

#[tokio::test]
async fn a_stream_without_its_seal_leaves_no_job() {
    let mut farm = farm().await;
    let batch = part(Part::Batch(v1::PromptBatch { rows: vec![row(1)] }));
    let spec = part(Part::Spec(farm.spec("a")));
    let wrong = part(Part::Seal(v1::Seal { rows: 2 }));
    let empty = part(Part::Seal(v1::Seal { rows: 0 }));
    let bad = v1::PromptRow { width: Some(0), ..row(7) };
    let bad = part(Part::Batch(v1::PromptBatch { rows: vec![bad] }));
    for (messages, text) in [
        (vec![spec.clone(), batch.clone()], "ended without its seal"),
        (vec![spec.clone(), batch.clone(), wrong], "the seal says 2"),
        (vec![spec.clone(), empty], "the prompt list is empty"),
        (vec![spec.clone(), bad], "line 7: width 0"),
        (vec![batch], "begins with its spec"),
        (vec![], "begins with its spec"),
    ] {
        let refused = farm.jobs.submit_job(futures::stream::iter(messages)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(text), "{refused}");
    }
    let listed = farm.jobs.list_jobs(v1::ListJobsRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.jobs, []);
    farm.submit("a", vec![row(1)]).await;
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_nothing() {
    let mut farm = farm().await;
    let batch = part(Part::Batch(v1::PromptBatch { rows: (1..=9000).map(row).collect() }));
    let messages = futures::stream::iter([part(Part::Spec(farm.spec("a"))), batch]);
    let mut jobs = farm.jobs.clone();
    let arrived = async {
        while farm.sql("select 1 from images limit 1").await.unwrap().1.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        answer = jobs.submit_job(messages.chain(futures::stream::pending())) => panic!("{answer:?}"),
        () = arrived => {}
    }
    // The sweep deletes what had come in; the tables say so.
    for table in ["jobs", "prompts", "images", "shards"] {
        let rows = format!("select 1 from {table} limit 1");
        while !farm.sql(&rows).await.unwrap().1.is_empty() {
            tokio::task::yield_now().await;
        }
    }
    farm.submit("a", vec![row(1)]).await;
}

#[tokio::test]
async fn a_known_token_answers_without_the_rest_of_the_stream() {
    let mut farm = farm().await;
    let job = farm.submit("a", vec![row(1)]).await;
    // The rest never comes.
    let messages =
        futures::stream::iter([part(Part::Spec(farm.spec("a")))]).chain(futures::stream::pending());
    let answer = farm.jobs.submit_job(messages).await.unwrap().into_inner();
    assert!(answer.existed);
    assert_eq!(answer.job.unwrap().job_id, job.job_id);
}

#[tokio::test]
async fn a_waiting_worker_gets_the_shard_that_comes() {
    let mut farm = farm().await;
    let session = farm.session().await;
    assert_eq!(farm.lease(&session, Duration::ZERO).await, None);
    let mut workers = farm.workers.clone();
    let request = v1::LeaseShardRequest {
        session_id: session,
        wait: Some(Duration::from_secs(30).try_into().unwrap()),
        job_id: String::new(),
    };
    let waiting = tokio::spawn(async move { workers.lease_shard(request).await });
    let job = farm.submit("a", vec![row(1)]).await;
    let lease = waiting.await.unwrap().unwrap().into_inner().lease.unwrap();
    assert_eq!((lease.job_id, lease.images.len()), (job.job_id, 1));
}

#[tokio::test]
async fn a_cancelled_job_ends_its_watch() {
    let mut farm = farm().await;
    let job = farm.submit("a", vec![row(1)]).await;
    let request = v1::WatchJobRequest { job_id: job.job_id.clone() };
    let mut watch = farm.jobs.watch_job(request).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().state(), v1::JobState::Pending);
    let request = cancel(&job.job_id[..13]);
    let cancelled = farm.jobs.change_job(request).await.unwrap().into_inner().job.unwrap();
    assert_eq!(cancelled.state(), v1::JobState::Cancelled);
    assert_eq!(watch.message().await.unwrap(), Some(cancelled));
    assert_eq!(watch.message().await.unwrap(), None);
    let missing = farm.jobs.get_job(v1::GetJobRequest { job_id: "zz".to_owned() }).await.unwrap_err();
    assert_eq!((missing.code(), missing.message()), (Code::NotFound, "no job zz"));
}

fn cancel(job: &str) -> v1::ChangeJobRequest {
    let change = Some(v1::change_job_request::Change::Cancel(v1::Cancel {}));
    v1::ChangeJobRequest { job_id: job.to_owned(), change, by: None }
}

#[tokio::test]
async fn a_reader_beside_the_writer_looks_and_does_not_touch() {
    let mut farm = farm().await;
    let job = farm.submit("a", vec![row(1)]).await;
    let reader = Coordinator::open_read_only(&farm.folder.path().join("farm.db")).await.unwrap();
    let mut jobs = JobServiceClient::new(reader.local_channel().await.unwrap());
    let found = jobs.get_job(v1::GetJobRequest { job_id: job.job_id.clone() }).await.unwrap().into_inner();
    assert_eq!(found, job);
    let refused = jobs.change_job(cancel(&job.job_id)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("--coordinator"), "{refused}");
    reader.close().await;
}

#[tokio::test]
async fn a_listener_serves_until_it_is_told_to_stop() {
    let farm = farm().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn({
        let (coordinator, shutdown) = (farm.coordinator.clone(), shutdown.clone());
        async move { coordinator.serve(listener, shutdown).await }
    });
    let channel = Endpoint::from_shared(address).unwrap().connect().await.unwrap();
    let mut client = JobServiceClient::new(channel.clone());
    client.list_jobs(v1::ListJobsRequest::default()).await.unwrap();
    // A worker that waits for a shard is answered, not waited for.
    let mut worker = WorkerServiceClient::new(channel);
    let open = v1::OpenSessionRequest { worker: "far".to_owned(), ..v1::OpenSessionRequest::default() };
    let session_id = worker.open_session(open).await.unwrap().into_inner().session_id;
    let request = v1::LeaseShardRequest {
        session_id,
        wait: Some(Duration::from_secs(30).try_into().unwrap()),
        job_id: String::new(),
    };
    let waiting = tokio::spawn(async move { worker.lease_shard(request).await });
    shutdown.cancel();
    let code = waiting.await.unwrap().unwrap_err().code();
    assert!(matches!(code, Code::Unavailable | Code::Unknown | Code::Cancelled), "{code:?}");
    serving.await.unwrap().unwrap();
    farm.coordinator.close().await;
}

#[tokio::test]
async fn images_are_listed_from_an_index_on_and_with_their_recipes() {
    let mut farm = farm().await;
    let job = farm.submit("a", (1..=4).map(row).collect()).await;
    farm.render_all(|index| index == 3).await;
    let listed = async |farm: &mut Farm, request: v1::ListImagesRequest| {
        let mut stream = farm.jobs.list_images(request).await.unwrap().into_inner();
        let mut images = Vec::new();
        while let Some(image) = stream.message().await.unwrap() {
            images.push(image);
        }
        images
    };
    let request = v1::ListImagesRequest { job_id: job.job_id.clone(), from: 2, ..Default::default() };
    let plain = listed(&mut farm, request.clone()).await;
    assert_eq!(plain.iter().map(|image| image.index).collect::<Vec<_>>(), [2, 3]);
    assert!(plain.iter().all(|image| image.recipe.is_empty() && !image.shard_id.is_empty()));
    let told = listed(&mut farm, v1::ListImagesRequest { with_recipe: true, ..request }).await;
    assert_eq!(told[0].recipe, r#"{"weights_sha256":"abc","dtype":"f32"}"#);
    assert_eq!(told[1].recipe, "", "it failed");
}

#[tokio::test]
async fn a_lost_picture_is_rendered_again_and_the_job_ends_again() {
    let mut farm = farm().await;
    let job = farm.submit("a", (1..=3).map(row).collect()).await;
    farm.render_all(|_| false).await;
    farm.watch(&job.job_id).await;
    let by = v1::By { actor: "bob".to_owned(), reason: "the object is missing".to_owned() };
    let requeue = v1::change_job_request::Change::Requeue(v1::Requeue { indices: vec![1] });
    let request = v1::ChangeJobRequest { job_id: job.job_id.clone(), change: Some(requeue), by: Some(by) };
    let changed = farm.jobs.change_job(request).await.unwrap().into_inner();
    assert_eq!((changed.retried, changed.job.unwrap().state()), (1, v1::JobState::Running));
    farm.render_all(|_| false).await;
    let seen = farm.watch(&job.job_id).await;
    let last = seen.last().unwrap();
    assert_eq!((last.state(), last.done), (v1::JobState::Succeeded, 3));
}

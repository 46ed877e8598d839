//! That a caller speaks for itself only, and no longer than it may.

use std::time::Duration;

use sanafarm_coordinator::Limits;
use sanafarm_proto::externalscaler::external_scaler_client::ExternalScalerClient;
use sanafarm_proto::externalscaler::{GetMetricsRequest, ScaledObjectRef};
use sanafarm_proto::v1;
use sanafarm_proto::v1::history_service_client::HistoryServiceClient;
use sanafarm_proto::v1::submit_job_request::Part;
use sanafarm_proto::v1::token_service_client::TokenServiceClient;
use sanafarm_proto::v1::worker_service_client::WorkerServiceClient;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::guarded::{Guarded, With};
use crate::support::{part, row};

/// Nothing here takes so long that ends at all.
const SOON: Duration = Duration::from_secs(20);

async fn workers(guarded: &Guarded, token: &str) -> WorkerServiceClient<With> {
    WorkerServiceClient::new(guarded.with(Some(token)).await)
}

async fn session(workers: &mut WorkerServiceClient<With>, worker: &str) -> Result<String, Status> {
    let request = v1::OpenSessionRequest { worker: worker.to_owned(), ..Default::default() };
    Ok(workers.open_session(request).await?.into_inner().session_id)
}

async fn lease(workers: &mut WorkerServiceClient<With>, session: &str) -> Result<Option<v1::Lease>, Status> {
    let request = v1::LeaseShardRequest { session_id: session.to_owned(), ..Default::default() };
    Ok(workers.lease_shard(request).await?.into_inner().lease)
}

async fn revoke(guarded: &Guarded, id: &str) {
    let mut tokens = TokenServiceClient::new(guarded.farm.coordinator.local_channel().await.unwrap());
    tokens.revoke_token(v1::RevokeTokenRequest { token_id: id.to_owned() }).await.unwrap();
}

#[tokio::test]
async fn a_token_for_one_worker_speaks_for_no_other() {
    let guarded = Guarded::start(Limits::default()).await;
    let ann = guarded.token("ann", v1::Role::Submit).await;
    let (_, own) = guarded.token_for("w1's", v1::Role::Worker, "", "w1").await;
    let (_, others) = guarded.token_for("w2's", v1::Role::Worker, "", "w2").await;
    let fleet = guarded.token("fleet", v1::Role::Worker).await;
    guarded.submit(&ann, guarded.spec("a")).await.unwrap();
    let (mut w1, mut w2) = (workers(&guarded, &own).await, workers(&guarded, &others).await);
    assert_eq!(session(&mut w1, "w2").await.unwrap_err().code(), Code::PermissionDenied);
    let (mine, theirs) = (session(&mut w1, "w1").await.unwrap(), session(&mut w2, "w2").await.unwrap());

    assert_eq!(lease(&mut w1, &theirs).await.unwrap_err().code(), Code::PermissionDenied);
    let held = lease(&mut w2, &theirs).await.unwrap().unwrap();
    let (session_id, lease_ref) = (|| theirs.clone(), held.r#ref.clone());
    let refused = [
        w1.renew_leases(v1::RenewLeasesRequest { session_id: session_id(), ..Default::default() })
            .await
            .unwrap_err(),
        w1.report_results(v1::ReportResultsRequest {
            session_id: session_id(),
            lease: lease_ref.clone(),
            ..Default::default()
        })
        .await
        .unwrap_err(),
        w1.release_lease(v1::ReleaseLeaseRequest {
            session_id: session_id(),
            lease: lease_ref.clone(),
            ..Default::default()
        })
        .await
        .unwrap_err(),
        w1.close_session(v1::CloseSessionRequest { session_id: session_id(), ..Default::default() })
            .await
            .unwrap_err(),
    ];
    for refused in refused {
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        assert!(refused.message().contains("for worker \"w1\" only"), "{refused}");
    }
    let says = |session: &str| v1::Progress { session_id: session.to_owned(), ..v1::Progress::default() };
    let follow = tokio_stream::iter([says(&mine), says(&theirs)]);
    let mut followed = w1.follow(follow).await.unwrap().into_inner();
    let refused = timeout(SOON, followed.message()).await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");

    // Its own calls, and those of a token for all workers.
    let mut all = workers(&guarded, &fleet).await;
    lease(&mut w1, &mine).await.unwrap();
    lease(&mut all, &theirs).await.unwrap();
    assert_eq!(lease(&mut w1, "").await.unwrap_err().code(), Code::NotFound);
    let close = |session_id: &str| v1::CloseSessionRequest {
        session_id: session_id.to_owned(),
        ..Default::default()
    };
    w1.close_session(close(&mine)).await.unwrap();
    w2.close_session(close(&theirs)).await.unwrap();
    guarded.end().await;
}

#[tokio::test]
async fn a_revoked_token_finishes_no_submission() {
    let guarded = Guarded::start(Limits::default()).await;
    let (id, ann) = guarded.token_for("ann", v1::Role::Submit, "", "").await;
    let mut jobs = guarded.jobs(&ann).await;
    let (parts, stream) = mpsc::channel(4);
    let rows = vec![row(1)];
    parts.send(part(Part::Spec(guarded.spec("a")))).await.unwrap();
    let submitted = tokio::spawn(async move { jobs.submit_job(ReceiverStream::new(stream)).await });
    // Taken out of the channel, it is under way.
    parts.reserve_many(4).await.unwrap();
    revoke(&guarded, &id).await;
    let refused = timeout(SOON, submitted).await.unwrap().unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    // A client that goes on all the same is not listened to.
    let _ = parts.send(part(Part::Batch(v1::PromptBatch { rows }))).await;
    let _ = parts.send(part(Part::Seal(v1::Seal { rows: 1 }))).await;
    timeout(SOON, parts.closed()).await.expect("the coordinator still takes the submission");
    let admin = guarded.token("root", v1::Role::Admin).await;
    let listed = guarded.jobs(&admin).await.list_jobs(v1::ListJobsRequest::default()).await.unwrap();
    assert!(listed.into_inner().jobs.is_empty());
    guarded.end().await;
}

#[tokio::test]
async fn a_revoked_worker_is_not_listened_to() {
    let guarded = Guarded::start(Limits::default()).await;
    let (id, fleet) = guarded.token_for("fleet", v1::Role::Worker, "", "").await;
    let mut worker = workers(&guarded, &fleet).await;
    let session_id = session(&mut worker, "w1").await.unwrap();
    let (says, stream) = mpsc::channel(4);
    says.send(v1::Progress { session_id, ..v1::Progress::default() }).await.unwrap();
    let mut followed = worker.follow(ReceiverStream::new(stream)).await.unwrap().into_inner();
    revoke(&guarded, &id).await;
    let refused = timeout(SOON, followed.message()).await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    timeout(SOON, says.closed()).await.expect("the coordinator still takes progress");
    guarded.end().await;
}

#[tokio::test]
async fn an_output_is_one_by_whatever_name() {
    let guarded = Guarded::start(Limits::default()).await;
    let ann = guarded.token("ann", v1::Role::Submit).await;
    let bob = guarded.token("bob", v1::Role::Submit).await;
    let to = |token: &str, output: &str| v1::JobSpec { output: output.to_owned(), ..guarded.spec(token) };
    let folder = guarded.spec("shared").output;
    let job = guarded.submit(&bob, to("b", &format!("{folder}/"))).await.unwrap();
    assert_eq!(job.output, folder);
    let (above, name) = folder.rsplit_once('/').unwrap();
    for (number, other) in
        [&folder, &format!("{above}/./{name}/"), &format!("{folder}/x/.."), &format!("file://{folder}")]
            .into_iter()
            .enumerate()
    {
        for append in [false, true] {
            let spec = v1::JobSpec { append, ..to(&format!("a{number}"), other) };
            let refused = guarded.submit(&ann, spec).await.unwrap_err();
            assert_eq!(refused.code(), Code::PermissionDenied, "{other}: {refused}");
        }
        let listed = |token: &str| {
            let (request, token) = (v1::ListObjectsRequest { output: other.clone() }, token.to_owned());
            let guarded = &guarded;
            async move { guarded.jobs(&token).await.list_objects(request).await.map(drop) }
        };
        assert_eq!(listed(&ann).await.unwrap_err().code(), Code::PermissionDenied, "{other}");
        listed(&bob).await.unwrap();
    }
    let refused = guarded.submit(&bob, to("c", "memory://x")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    guarded.end().await;
}

#[tokio::test]
async fn an_owner_and_a_client_token_are_not_those_of_another_pair() {
    let guarded = Guarded::start(Limits::default()).await;
    let (_, short) = guarded.token_for("a", v1::Role::Submit, "a", "").await;
    let (_, long) = guarded.token_for("ab", v1::Role::Submit, "a/b", "").await;
    let first = guarded.submit(&long, v1::JobSpec { client_token: "T".to_owned(), ..guarded.spec("x") });
    let first = first.await.unwrap();
    let second = guarded.submit(&short, v1::JobSpec { client_token: "b/T".to_owned(), ..guarded.spec("y") });
    let second = second.await.unwrap();
    assert_ne!(first.job_id, second.job_id);
    assert_eq!((first.owner.as_str(), second.owner.as_str()), ("a/b", "a"));
    guarded.end().await;
}

#[tokio::test]
async fn nothing_is_told_of_jobs_of_other_owners() {
    let guarded = Guarded::start(Limits::default()).await;
    let ann = guarded.token("ann", v1::Role::Submit).await;
    let bob = guarded.token("bob", v1::Role::Submit).await;
    let (_, reader) = guarded.token_for("reader", v1::Role::Read, "ann", "").await;
    let auditor = guarded.token("auditor", v1::Role::Read).await;
    let foreign = guarded.submit(&bob, guarded.spec("b")).await.unwrap();
    let own = guarded.submit(&ann, guarded.spec("a")).await.unwrap();

    let mut history = HistoryServiceClient::new(guarded.with(Some(&ann)).await);
    let mut story =
        async |subject: String| history.story(v1::StoryRequest { subject, limit: 0 }).await.map(drop);
    // As of a job that never was, to the letter.
    let never = "00000000-0000-7000-8000-000000000000";
    for rest in ["", "/0", "/99999999999"] {
        let id = &foreign.job_id;
        let (refused, unknown) = (
            story(format!("{id}{rest}")).await.unwrap_err(),
            story(format!("{never}{rest}")).await.unwrap_err(),
        );
        assert_eq!(refused.code(), Code::NotFound);
        assert_eq!(refused.message().replace(id.as_str(), never), unknown.message());
    }
    story(own.job_id.clone()).await.unwrap();
    story(format!("{}/0", own.job_id)).await.unwrap();

    let worker = guarded.token("fleet", v1::Role::Worker).await;
    session(&mut workers(&guarded, &worker).await, "w1").await.unwrap();
    for (token, named) in [(&ann, false), (&reader, false), (&auditor, true)] {
        let request = v1::ExplainJobRequest { job_id: own.job_id.clone() };
        let told = guarded.jobs(token).await.explain_job(request).await.unwrap().into_inner();
        let text = &told.parts[0].text;
        assert_eq!(
            (text.contains("behind 1 other job"), text.contains(&foreign.job_id)),
            (true, named),
            "{text}"
        );
        let mut scaler = ExternalScalerClient::new(guarded.with(Some(token)).await);
        let object = || ScaledObjectRef { name: "w".to_owned(), ..ScaledObjectRef::default() };
        let metrics = GetMetricsRequest {
            scaled_object_ref: Some(object()),
            metric_name: "backlog-device-seconds".to_owned(),
        };
        let asked = [
            scaler.is_active(object()).await.err(),
            scaler.stream_is_active(object()).await.err(),
            scaler.get_metrics(metrics).await.err(),
        ];
        for refused in asked {
            let code = refused.map(|refused| refused.code());
            assert_eq!(code, (!named).then_some(Code::PermissionDenied));
        }
    }
    guarded.end().await;
}

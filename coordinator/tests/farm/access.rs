//! Who may call what, over a real connection.

use std::time::Duration;

use sanafarm_coordinator::domain::access::ACCESS;
use sanafarm_coordinator::{AuthFailure, Limits};
use sanafarm_proto::v1;
use sanafarm_proto::v1::history_service_client::HistoryServiceClient;
use sanafarm_proto::v1::token_service_client::TokenServiceClient;
use tonic::{Code, Status};

use crate::guarded::Guarded;

/// Who may call each method: a(dmin), s(ubmit), r(ead), w(orker), or anybody.
const EXPECTED: &[(&str, &str)] = &[
    ("/externalscaler.ExternalScaler/GetMetricSpec", "ar"),
    ("/externalscaler.ExternalScaler/GetMetrics", "ar"),
    ("/externalscaler.ExternalScaler/IsActive", "ar"),
    ("/externalscaler.ExternalScaler/StreamIsActive", "ar"),
    ("/externalscaler.ExternalScaler/StreamMetricSpec", "ar"),
    ("/grpc.health.v1.Health/Check", "anybody"),
    ("/grpc.health.v1.Health/List", "anybody"),
    ("/grpc.health.v1.Health/Watch", "anybody"),
    ("/sanafarm.v1.HistoryService/GetLogs", "asr"),
    ("/sanafarm.v1.HistoryService/Query", "ar"),
    ("/sanafarm.v1.HistoryService/Story", "asr"),
    ("/sanafarm.v1.JobService/ChangeJob", "as"),
    ("/sanafarm.v1.JobService/ChangeOwner", "a"),
    ("/sanafarm.v1.JobService/DrainWorker", "a"),
    ("/sanafarm.v1.JobService/Estimate", "asr"),
    ("/sanafarm.v1.JobService/ExplainJob", "asr"),
    ("/sanafarm.v1.JobService/ExportJob", "asr"),
    ("/sanafarm.v1.JobService/GetJob", "asr"),
    ("/sanafarm.v1.JobService/ListImages", "asr"),
    ("/sanafarm.v1.JobService/ListJobs", "asr"),
    ("/sanafarm.v1.JobService/ListObjects", "asr"),
    ("/sanafarm.v1.JobService/ListWorkers", "asr"),
    ("/sanafarm.v1.JobService/SubmitJob", "as"),
    ("/sanafarm.v1.JobService/WatchJob", "asr"),
    ("/sanafarm.v1.TokenService/CreateToken", "a"),
    ("/sanafarm.v1.TokenService/ListTokens", "a"),
    ("/sanafarm.v1.TokenService/RevokeToken", "a"),
    ("/sanafarm.v1.TokenService/RotateToken", "a"),
    ("/sanafarm.v1.WorkerService/CloseSession", "w"),
    ("/sanafarm.v1.WorkerService/Follow", "w"),
    ("/sanafarm.v1.WorkerService/LeaseShard", "w"),
    ("/sanafarm.v1.WorkerService/OpenSession", "w"),
    ("/sanafarm.v1.WorkerService/ReleaseLease", "w"),
    ("/sanafarm.v1.WorkerService/RenewLeases", "w"),
    ("/sanafarm.v1.WorkerService/ReportResults", "w"),
    ("/sanafarm.v1.WorkerService/SignObjects", "w"),
];

#[tokio::test]
async fn every_method_is_for_the_roles_of_the_table_and_no_other() {
    let guarded = Guarded::start(Limits::default()).await;
    let known: Vec<&str> = EXPECTED.iter().map(|(path, _)| *path).collect();
    // Those of HTTP are told in `tests/access.rs`.
    for (path, _) in ACCESS.iter().filter(|(path, _)| path.contains('.')) {
        assert!(known.contains(path), "{path} is not told here");
    }
    let mut callers = vec![("", guarded.with(None).await)];
    for (letter, role) in
        [("a", v1::Role::Admin), ("s", v1::Role::Submit), ("r", v1::Role::Read), ("w", v1::Role::Worker)]
    {
        let token = guarded.token(letter, role).await;
        callers.push((letter, guarded.with(Some(&token)).await));
    }
    for (path, allowed) in EXPECTED {
        for (letter, service) in &callers {
            let code = guarded.code(service, path).await;
            let told = format!("{path} by {letter:?}: {code:?}");
            match (*allowed == "anybody", letter.is_empty()) {
                (true, _) => {
                    assert!(!matches!(code, Code::Unauthenticated | Code::PermissionDenied), "{told}")
                }
                (false, true) => assert_eq!(code, Code::Unauthenticated, "{told}"),
                // The call itself may refuse an empty message, but not for want of rights. SQL is for readers without owner,
                // which this one is.
                (false, false) if allowed.contains(letter) => {
                    assert!(
                        !matches!(code, Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented),
                        "{told}"
                    );
                }
                (false, false) => assert_eq!(code, Code::PermissionDenied, "{told}"),
            }
        }
    }
    let admin = &callers[1].1;
    for nowhere in
        ["/sanafarm.v1.JobService/DropAll", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"]
    {
        assert_eq!(guarded.code(admin, nowhere).await, Code::Unimplemented, "{nowhere}");
    }
    let failures = guarded.farm.coordinator.auth_failures();
    assert!(failures.count(AuthFailure::Missing) > 0 && failures.count(AuthFailure::Role) > 0);
    guarded.end().await;
}

#[tokio::test]
async fn an_owner_sees_and_steers_own_jobs_only() {
    let guarded = Guarded::start(Limits::default()).await;
    let ann = guarded.token("ann", v1::Role::Submit).await;
    let bob = guarded.token("bob", v1::Role::Submit).await;
    let admin = guarded.token("root", v1::Role::Admin).await;
    let all = guarded.token("auditor", v1::Role::Read).await;
    let (_, anns_reader) = guarded.token_for("reader", v1::Role::Read, "ann", "").await;
    let job = guarded.submit(&ann, guarded.spec("a")).await.unwrap();
    assert_eq!(job.owner, "ann");
    let named = |owner: &str, name: &str| v1::JobSpec { owner: owner.to_owned(), ..guarded.spec(name) };
    let refused = guarded.submit(&bob, named("ann", "b")).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert_eq!(guarded.submit(&admin, named("ann", "c")).await.unwrap().owner, "ann");
    assert_eq!(guarded.submit(&admin, guarded.spec("d")).await.unwrap().owner, "root");

    // The same list of another owner is another job, and may not go where the first one is.
    let elsewhere = v1::JobSpec { output: guarded.spec("e").output, ..guarded.spec("a") };
    let same = guarded.submit(&bob, elsewhere).await.unwrap();
    assert_ne!(same.job_id, job.job_id);
    for append in [false, true] {
        let spec = v1::JobSpec { append, client_token: "t".to_owned(), ..guarded.spec("a") };
        let refused = guarded.submit(&bob, spec).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    }
    let waits = v1::JobSpec { after: vec![job.job_id.clone()], ..guarded.spec("f") };
    assert_eq!(guarded.submit(&bob, waits).await.unwrap_err().code(), Code::NotFound);

    let id = || job.job_id.clone();
    for (token, sees) in [(&ann, true), (&bob, false), (&admin, true), (&all, true), (&anns_reader, true)] {
        let mut jobs = guarded.jobs(token).await;
        let mut history = HistoryServiceClient::new(guarded.with(Some(token)).await);
        let listed = jobs.list_jobs(v1::ListJobsRequest::default()).await.unwrap().into_inner().jobs;
        assert_eq!(listed.iter().any(|listed| listed.job_id == job.job_id), sees);
        let output = job.output.clone();
        let image = format!("{}/0", job.job_id);
        let story = |subject: String| v1::StoryRequest { subject, limit: 0 };
        let outcomes = [
            jobs.get_job(v1::GetJobRequest { job_id: id() }).await.err(),
            // So much of it that it is no beginning of the other jobs, which are as old.
            jobs.get_job(v1::GetJobRequest { job_id: id()[..35].to_owned() }).await.err(),
            jobs.watch_job(v1::WatchJobRequest { job_id: id() }).await.err(),
            jobs.list_images(v1::ListImagesRequest { job_id: id(), ..Default::default() }).await.err(),
            jobs.explain_job(v1::ExplainJobRequest { job_id: id() }).await.err(),
            jobs.export_job(v1::ExportJobRequest { job_id: id(), format: 0 }).await.err(),
            history.get_logs(v1::GetLogsRequest { job_id: id(), index: 0, attempt: None }).await.err(),
            history.story(story(id())).await.err(),
            history.story(story(image)).await.err(),
        ];
        for (call, refused) in outcomes.iter().enumerate() {
            let code = refused.as_ref().map(Status::code);
            assert_eq!(code, (!sees).then_some(Code::NotFound), "call {call} by {token}: {refused:?}");
        }
        let objects = jobs.list_objects(v1::ListObjectsRequest { output }).await;
        assert_eq!(objects.is_ok(), sees);
    }

    // SQL sees everybody's rows, and what a worker did tells of everybody's jobs.
    for (token, sees) in [(&ann, false), (&anns_reader, false), (&all, true), (&admin, true)] {
        let mut history = HistoryServiceClient::new(guarded.with(Some(token)).await);
        let asked = history.query(v1::QueryRequest { sql: "select 1".to_owned() }).await;
        assert_eq!(asked.is_ok(), sees, "{asked:?}");
    }

    let cancel = |id: String| v1::ChangeJobRequest {
        job_id: id,
        change: Some(v1::change_job_request::Change::Cancel(v1::Cancel {})),
        by: Some(v1::By { actor: "somebody else".to_owned(), reason: String::new() }),
    };
    for (token, code) in
        [(&bob, Code::NotFound), (&all, Code::PermissionDenied), (&anns_reader, Code::PermissionDenied)]
    {
        assert_eq!(guarded.jobs(token).await.change_job(cancel(id())).await.unwrap_err().code(), code);
    }
    guarded.jobs(&ann).await.change_job(cancel(id())).await.unwrap();
    let mut story = HistoryServiceClient::new(guarded.with(Some(&ann)).await)
        .story(v1::StoryRequest { subject: id(), limit: 0 })
        .await
        .unwrap()
        .into_inner();
    let mut actors = Vec::new();
    while let Some(message) = story.message().await.unwrap() {
        if let Some(v1::story_response::Part::Events(events)) = message.part {
            actors.extend(events.events.into_iter().map(|event| event.actor));
        }
    }
    assert!(
        actors.contains(&"ann".to_owned()) && !actors.contains(&"somebody else".to_owned()),
        "{actors:?}"
    );
    guarded.end().await;
}

#[tokio::test]
async fn a_revoked_token_ends_the_calls_that_run_with_it() {
    let guarded = Guarded::start(Limits::default()).await;
    let admin = guarded.token("root", v1::Role::Admin).await;
    let (id, ann) = guarded.token_for("ann", v1::Role::Submit, "", "").await;
    let job = guarded.submit(&ann, guarded.spec("a")).await.unwrap();
    let mut jobs = guarded.jobs(&ann).await;
    let mut watch =
        jobs.watch_job(v1::WatchJobRequest { job_id: job.job_id.clone() }).await.unwrap().into_inner();
    watch.message().await.unwrap();
    let mut tokens = TokenServiceClient::new(guarded.with(Some(&admin)).await);
    tokens.revoke_token(v1::RevokeTokenRequest { token_id: id.clone() }).await.unwrap();
    let ended = watch.message().await.unwrap_err();
    assert_eq!(ended.code(), Code::Unauthenticated, "{ended}");
    let refused = jobs.get_job(v1::GetJobRequest { job_id: job.job_id }).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    assert!(!refused.message().contains(&ann), "{refused}");
    let listed = tokens.list_tokens(v1::ListTokensRequest {}).await.unwrap().into_inner().tokens;
    let listed = listed.into_iter().find(|token| token.token_id == id).unwrap();
    assert!(listed.revoked_at.is_some() && listed.last_used_at.is_some(), "{listed:?}");
    guarded.end().await;
}

#[tokio::test]
async fn a_rotated_token_takes_over_from_the_one_before() {
    let guarded = Guarded::start(Limits::default()).await;
    let (id, first) = guarded.token_for("root", v1::Role::Admin, "", "").await;
    let calls =
        async |token: &str| guarded.jobs(token).await.list_jobs(v1::ListJobsRequest::default()).await.is_ok();
    let rotate = async |by: &str, grace_seconds| {
        let mut tokens = TokenServiceClient::new(guarded.with(Some(by)).await);
        let request = v1::RotateTokenRequest { token_id: id.clone(), grace_seconds };
        tokens.rotate_token(request).await.unwrap().into_inner().secret
    };
    let second = rotate(&first, 600).await;
    assert!(calls(&first).await && calls(&second).await);
    let third = rotate(&second, 0).await;
    assert!(calls(&third).await);
    assert!(!calls(&second).await && !calls(&first).await);
    guarded.end().await;
}

#[tokio::test]
async fn guessing_is_stopped_and_disturbs_nobody_who_is_in() {
    let guarded = Guarded::start(Limits::default()).await;
    let admin = guarded.token("root", v1::Role::Admin).await;
    let mut good = guarded.jobs(&admin).await;
    good.list_jobs(v1::ListJobsRequest::default()).await.unwrap();
    let wrong = format!("sf_{}_{}", "0".repeat(12), "0".repeat(64));
    let mut guesser = guarded.jobs(&wrong).await;
    let start = std::time::Instant::now();
    let mut codes = Vec::new();
    for _ in 0..15 {
        codes.push(guesser.list_jobs(v1::ListJobsRequest::default()).await.unwrap_err().code());
    }
    good.list_jobs(v1::ListJobsRequest::default()).await.unwrap();
    // Nor one from the same address that nobody has shown before, while others there go on.
    for wrong in 1..100 {
        let wrong = format!("sf_{}_{wrong:064x}", "0".repeat(12));
        let refused = guarded.jobs(&wrong).await.list_jobs(v1::ListJobsRequest::default()).await;
        codes.push(refused.unwrap_err().code());
    }
    let heard = codes.iter().filter(|code| **code == Code::Unauthenticated).count();
    // Ten, and one in five seconds, however long this takes.
    let most = 10.0 + start.elapsed().as_secs_f64() / 5.0;
    assert!((10.0..=most).contains(&(heard as f64)), "{heard} of {}", codes.len());
    let stopped = codes.iter().filter(|code| **code == Code::ResourceExhausted).count();
    assert!(stopped > 0 && heard + stopped == codes.len(), "{codes:?}");
    let fresh = guarded.token("fresh", v1::Role::Read).await;
    guarded.jobs(&fresh).await.list_jobs(v1::ListJobsRequest::default()).await.unwrap();
    let failures = guarded.farm.coordinator.auth_failures();
    assert!(failures.count(AuthFailure::Invalid) >= 10 && failures.count(AuthFailure::Address) > 0);
    guarded.end().await;
}

#[tokio::test]
async fn a_token_gets_no_more_than_its_share() {
    let guarded = Guarded::start(Limits { calls: 2, ..Limits::default() }).await;
    let ann = guarded.token("ann", v1::Role::Submit).await;
    let bob = guarded.token("bob", v1::Role::Submit).await;
    let job = guarded.submit(&ann, guarded.spec("a")).await.unwrap();
    let mut jobs = guarded.jobs(&ann).await;
    let request = || v1::WatchJobRequest { job_id: job.job_id.clone() };
    let held = (jobs.watch_job(request()).await.unwrap(), jobs.watch_job(request()).await.unwrap());
    let refused = jobs.list_jobs(v1::ListJobsRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    guarded.jobs(&bob).await.list_jobs(v1::ListJobsRequest::default()).await.unwrap();
    drop(held);
    guarded.end().await;
}

#[tokio::test]
async fn a_reader_that_does_not_read_is_cut() {
    let limits = Limits { calls: 1, calls_per_second: 10_000, reader_patience: Duration::from_millis(400) };
    let guarded = Guarded::start(limits).await;
    let ann = guarded.token("ann", v1::Role::Submit).await;
    let job = guarded.submit_rows(&ann, guarded.spec("a"), 12_000).await.unwrap();
    let request = v1::ListImagesRequest { job_id: job.job_id, ..v1::ListImagesRequest::default() };
    let mut slow = guarded.jobs(&ann).await.list_images(request).await.unwrap().into_inner();
    slow.message().await.unwrap();
    // The only call of the token is given back when the connection is cut.
    let mut other = guarded.jobs(&ann).await;
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    while other.list_jobs(v1::ListJobsRequest::default()).await.is_err() {
        looks.tick().await;
    }
    let mut read = Ok(None);
    for _ in 0..=12_000 {
        read = slow.message().await;
        if read.is_err() {
            break;
        }
    }
    assert!(read.is_err(), "cut short, it must not look whole");
    guarded.end().await;
}

#[tokio::test]
async fn a_token_that_makes_no_sense_is_not_made() {
    let guarded = Guarded::start(Limits::default()).await;
    let mut tokens = TokenServiceClient::new(guarded.farm.coordinator.local_channel().await.unwrap());
    let good = v1::CreateTokenRequest {
        name: "n".to_owned(),
        role: v1::Role::Worker.into(),
        ..v1::CreateTokenRequest::default()
    };
    let past = prost_types::Timestamp { seconds: 1, nanos: 0 };
    for wrong in [
        v1::CreateTokenRequest { name: String::new(), ..good.clone() },
        v1::CreateTokenRequest { name: "a\nb".to_owned(), ..good.clone() },
        v1::CreateTokenRequest { role: 0, ..good.clone() },
        v1::CreateTokenRequest { owner: "ann".to_owned(), ..good.clone() },
        v1::CreateTokenRequest { role: v1::Role::Admin.into(), worker: "w".to_owned(), ..good.clone() },
        v1::CreateTokenRequest { expires_at: Some(past), ..good.clone() },
    ] {
        assert_eq!(tokens.create_token(wrong).await.unwrap_err().code(), Code::InvalidArgument);
    }
    tokens.create_token(good).await.unwrap();
    guarded.end().await;
}

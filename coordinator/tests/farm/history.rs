//! Asking the history by SQL, and for stories.

use sanafarm_proto::v1;
use sanafarm_proto::v1::cell::Value;
use sanafarm_proto::v1::story_begin::Subject;
use sanafarm_proto::v1::story_response::Part;
use tonic::{Code, Status};

use super::support::{Farm, farm, row};

const GUIDE: &str = include_str!("../../../docs/sql.md");
const VIEWS: [&str; 8] = [
    "audit_jobs",
    "audit_images",
    "audit_attempts",
    "audit_events",
    "audit_workers",
    "audit_logs",
    "audit_usage",
    "keda_backlog",
];

#[tokio::test]
async fn the_guide_tells_every_column_of_every_view() {
    let mut farm = farm().await;
    for view in VIEWS {
        let (columns, _) = farm.sql(&format!("select * from {view}")).await.unwrap();
        let section = GUIDE.split(&format!("## `{view}`")).nth(1).expect("a section for each view");
        let section = section.split("\n## ").next().unwrap();
        let told: Vec<&str> =
            section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        assert_eq!(told, columns, "{view}");
    }
}

#[tokio::test]
async fn an_answer_has_types_and_may_be_long() {
    let mut farm = farm().await;
    let (columns, rows) = farm
        .sql("with recursive n(i) as (select 1 union all select i + 1 from n where i < 5000) select i, i / 2.0 as half from n")
        .await
        .unwrap();
    assert_eq!(columns, ["i", "half"]);
    assert_eq!(rows.len(), 5000);
    let last: Vec<_> = rows[4999].cells.iter().map(|cell| cell.value.clone().unwrap()).collect();
    assert_eq!(last, [Value::Integer(5000), Value::Real(2500.0)]);
    for sql in ["drop table jobs", "select 1; select 2", "select x from nowhere", ""] {
        let refused = farm.sql(sql).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{sql}: {refused}");
    }
}

/// What a story begins with, its events and its end.
async fn story(
    farm: &mut Farm,
    subject: &str,
    limit: u64,
) -> Result<(v1::StoryBegin, Vec<v1::Event>, v1::StoryEnd), Status> {
    let request = v1::StoryRequest { subject: subject.to_owned(), limit };
    let mut stream = farm.history.story(request).await?.into_inner();
    let (mut begin, mut events, mut end) = (None, Vec::new(), None);
    while let Some(answer) = stream.message().await? {
        match answer.part.unwrap() {
            Part::Begin(first) => {
                assert!(events.is_empty() && begin.replace(first).is_none());
            }
            Part::Events(more) => {
                assert!(begin.is_some() && end.is_none());
                events.extend(more.events);
            }
            Part::End(last) => assert!(end.replace(last).is_none()),
        }
    }
    Ok((begin.unwrap(), events, end.unwrap()))
}

#[tokio::test]
async fn a_story_is_found_by_every_name() {
    let mut farm = farm().await;
    let job = farm.submit("a", (1..=3).map(row).collect()).await;
    farm.render_all(|_| false).await;
    farm.watch(&job.job_id).await;
    let id = job.job_id.as_str();
    for name in [id, &id[..8]] {
        let (begin, events, end) = story(&mut farm, name, 0).await.unwrap();
        assert!(matches!(begin.subject, Some(Subject::Job(told)) if told.job_id == id), "{name}");
        assert_eq!(events.last().unwrap().kind, "job_finished");
        assert_eq!((end.done, end.failed, end.workers, end.kinds["job_finished"]), (3, 0, 1, 1));
        assert_eq!((end.job.unwrap().state(), end.device_seconds), (v1::JobState::Succeeded, 4.5));
    }
    for name in [format!("{id}/2"), format!("{}/2", &id[..8])] {
        let (begin, events, _) = story(&mut farm, &name, 0).await.unwrap();
        let Some(Subject::Image(image)) = begin.subject else { panic!("{name}") };
        assert_eq!((image.job.unwrap().job_id.as_str(), image.image.unwrap().index), (id, 2));
        let kinds: Vec<_> = events.iter().map(|event| event.kind.as_str()).collect();
        assert_eq!(kinds, ["job_submitted", "lease_granted", "image_done", "lease_finished"]);
    }
    let (begin, events, end) = story(&mut farm, "w1", 0).await.unwrap();
    let Some(Subject::Worker(worker)) = begin.subject else { panic!("no worker") };
    assert_eq!((worker.worker.as_str(), worker.session_id.as_str()), ("w1", ""));
    assert_eq!((end.done, end.kinds["session_opened"]), (3, 1));
    let session = events[0].session_id.clone();
    let (begin, same, _) = story(&mut farm, &session, 0).await.unwrap();
    assert!(matches!(begin.subject, Some(Subject::Worker(told)) if told.session_id == session));
    assert_eq!(same, events);
}

#[tokio::test]
async fn what_nobody_is_called_has_no_story() {
    let mut farm = farm().await;
    let job = farm.submit("a", vec![row(1)]).await;
    let other = farm.submit_to("b", farm.folder.path().join("b"), vec![row(1)]).await;
    let common = job.job_id.bytes().zip(other.job_id.bytes()).take_while(|(a, b)| a == b).count();
    let image = format!("{}/1", job.job_id);
    let refusals = [
        ("nobody", Code::NotFound, "no job, image, worker or session nobody".to_owned()),
        ("a/b", Code::NotFound, "no job, image, worker or session a/b".to_owned()),
        ("nobody/7", Code::NotFound, "no job nobody".to_owned()),
        ("", Code::NotFound, "no job, image, worker or session ".to_owned()),
        (
            "'; drop table jobs; --",
            Code::NotFound,
            "no job, image, worker or session '; drop table jobs; --".to_owned(),
        ),
        (&image, Code::NotFound, format!("no image 1 of job {}: its last is 0", job.job_id)),
        (
            &job.job_id[..common],
            Code::InvalidArgument,
            format!("more than one job id begins with {}; give more of it", &job.job_id[..common]),
        ),
    ];
    for (name, code, text) in refusals {
        let refused = story(&mut farm, name, 0).await.unwrap_err();
        assert_eq!((refused.code(), refused.message()), (code, text.as_str()), "{name}");
    }
}

#[tokio::test]
async fn a_worker_called_like_the_beginning_of_a_job_is_that_worker() {
    let mut farm = farm().await;
    let job = farm.submit("a", vec![row(1)]).await;
    let worker = job.job_id[..4].to_owned();
    let request = v1::OpenSessionRequest { worker: worker.clone(), ..v1::OpenSessionRequest::default() };
    farm.workers.open_session(request).await.unwrap();
    let (begin, ..) = story(&mut farm, &worker, 0).await.unwrap();
    assert!(matches!(begin.subject, Some(Subject::Worker(_))), "{begin:?}");
    let (begin, ..) = story(&mut farm, &job.job_id[..5], 0).await.unwrap();
    assert!(matches!(begin.subject, Some(Subject::Job(_))), "{begin:?}");
}

#[tokio::test]
async fn a_long_story_comes_whole_or_its_newest_part() {
    let mut farm = farm().await;
    // Each has a size of its own, and so a shard.
    let rows = (0..600).map(|line| v1::PromptRow {
        width: Some(64 + 32 * (line % 30)),
        height: Some(64 + 32 * (line / 30)),
        ..row(u64::from(line) + 1)
    });
    let job = farm.submit("a", rows.collect()).await;
    farm.render_all(|_| false).await;
    farm.watch(&job.job_id).await;
    let (begin, events, end) = story(&mut farm, &job.job_id, 0).await.unwrap();
    // Submitted, started, finished, and two for each shard.
    assert_eq!((begin.older, events.len()), (0, 3 + 2 * 600));
    assert!(events.is_sorted_by(|a, b| a.seq < b.seq));
    assert_eq!(end.kinds.values().sum::<u64>(), events.len() as u64);
    for limit in [1, 7, 1000, 1202, 1203, 2000] {
        let (begin, newest, same) = story(&mut farm, &job.job_id, limit).await.unwrap();
        let kept = events.len().min(limit as usize);
        assert_eq!((begin.older, newest.len()), ((events.len() - kept) as u64, kept), "{limit}");
        assert_eq!(newest, events[events.len() - kept..]);
        assert_eq!(same, end);
    }
    let (begin, events, _) = story(&mut farm, &format!("{}/599", job.job_id), 1).await.unwrap();
    assert_eq!((begin.older, events[0].kind.as_str()), (3, "lease_finished"));
}

#[tokio::test]
async fn logs_of_an_image_are_told_attempt_by_attempt() {
    let mut farm = farm().await;
    let job = farm.submit("a", vec![row(1), row(2)]).await;
    let session = farm.session().await;
    let lease = farm.lease(&session, std::time::Duration::ZERO).await.unwrap();
    let failed =
        v1::ImageFailed { error_class: v1::ErrorClass::Internal.into(), message: "broke".to_owned() };
    let result = v1::ImageResult {
        index: 1,
        outcome: Some(v1::image_result::Outcome::Failed(failed)),
        device_id: "cpu".to_owned(),
        log: "one\ntwo\n".repeat(10_000),
        ..Default::default()
    };
    let request = v1::ReportResultsRequest {
        session_id: session.clone(),
        lease: lease.r#ref.clone(),
        results: vec![result],
        archive: None,
        job_id: String::new(),
    };
    farm.workers.report_results(request).await.unwrap();
    let request = v1::GetLogsRequest { job_id: job.job_id[..13].to_owned(), index: 1, attempt: None };
    let mut logs = farm.history.get_logs(request.clone()).await.unwrap().into_inner();
    let log = logs.message().await.unwrap().unwrap();
    assert_eq!((log.attempt, log.worker.as_str(), log.session_id), (1, "w1", session));
    assert!(log.log.len() <= 16 << 10 && log.log.len() > 16_000 && log.log.ends_with("one\ntwo\n"));
    assert_eq!(logs.message().await.unwrap(), None);
    for (attempt, told) in [(0, false), (1, true), (2, false)] {
        let request = v1::GetLogsRequest { attempt: Some(attempt), ..request.clone() };
        let mut logs = farm.history.get_logs(request).await.unwrap().into_inner();
        assert_eq!(logs.message().await.unwrap().is_some(), told, "attempt {attempt}");
    }
    let none = v1::GetLogsRequest { index: 2, ..request };
    let refused = farm.history.get_logs(none).await.unwrap_err();
    let text = format!("no image 2 of job {}: its last is 1", job.job_id);
    assert_eq!((refused.code(), refused.message()), (Code::NotFound, text.as_str()));
}

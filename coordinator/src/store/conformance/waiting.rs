//! Jobs that wait for others, and jobs that end at a time.

use std::time::Duration;

use jiff::Timestamp;

use super::Bench;
use super::bench::*;
use crate::domain::blame::ErrorClass;
use crate::domain::id::{JobId, SessionId};
use crate::domain::schedule::Choice;
use crate::domain::spec::JobSpec;
use crate::domain::state::{ImageState, JobState};
use crate::domain::submission::Submission;
use crate::domain::waiting::{CallOff, Wanted};
use crate::store::Error;
use crate::store::records::{Begun, Cell, Change, Claim, Lease};

fn after(job: &JobId, any_end: bool) -> Wanted {
    Wanted { job: job.to_string(), any_end }
}

/// A job of two images in two shards that waits for others.
async fn submit_after(bench: &Bench, token: &str, after: &[Wanted]) -> JobId {
    let wanted = JobSpec { after: after.to_vec(), ..spec(token) };
    bench.submit_rows(wanted, (1..=2).map(row), 1).await
}

async fn submit_until(bench: &Bench, token: &str, deadline: Timestamp) -> JobId {
    let wanted = JobSpec { deadline: Some(deadline), ..spec(token) };
    bench.submit_rows(wanted, (1..=3).map(row), 1).await
}

/// A claim of a coordinator that has looked at the open jobs a moment ago: only the store itself can refuse it.
async fn claim(bench: &Bench, session: &SessionId, job: &JobId) -> Option<Lease> {
    let choices = vec![Choice { job: job.clone(), group: None }];
    let claim = Claim { session: session.clone(), choices };
    only(bench.store.lease_shards(&[claim], LEASE, bench.now).await.unwrap()).unwrap()
}

async fn is_open(bench: &Bench, job: &JobId) -> bool {
    bench.store.open_jobs(bench.now).await.unwrap().iter().any(|open| open.id == *job)
}

async fn state(bench: &Bench, job: &JobId) -> JobState {
    bench.store.job(job.as_str()).await.unwrap().state
}

/// The jobs that are called off now, with the reasons.
async fn called_off(bench: &Bench) -> Vec<(JobId, String)> {
    let jobs = bench.store.call_off(bench.now).await.unwrap();
    jobs.into_iter().map(|called_off| (called_off.job, called_off.why.to_string())).collect()
}

/// Renders a job of two images and ends it.
async fn succeed(bench: &Bench, session: &SessionId, job: &JobId) {
    for _ in 0..2 {
        let lease = claim(bench, session, job).await.unwrap();
        bench.report(session, &lease.lease, &[done(&lease.images[0])]).await;
    }
    assert_eq!(bench.store.finish_job(job, bench.now).await.unwrap().state, JobState::Succeeded);
}

/// The same, but its first image fails.
async fn fail(bench: &Bench, session: &SessionId, job: &JobId) {
    let lease = claim(bench, session, job).await.unwrap();
    bench.report(session, &lease.lease, &[error(&lease.images[0], ErrorClass::Prompt)]).await;
    let lease = claim(bench, session, job).await.unwrap();
    bench.report(session, &lease.lease, &[done(&lease.images[0])]).await;
    assert_eq!(bench.store.finish_job(job, bench.now).await.unwrap().state, JobState::Failed);
}

pub async fn a_job_begins_when_the_one_before_it_has_succeeded(bench: Bench) {
    let (first, other) = (submit_after(&bench, "a", &[]).await, submit_after(&bench, "b", &[]).await);
    let second = submit_after(&bench, "c", &[after(&first, false), after(&other, false)]).await;
    let session = bench.session("w").await;
    let told = bench.store.job(second.as_str()).await.unwrap();
    let held_by: Vec<_> = told.held_by().iter().map(|awaited| awaited.to_string()).collect();
    assert_eq!(
        held_by,
        [format!("job {first} (pending, 0 of 2 images)"), format!("job {other} (pending, 0 of 2 images)")]
    );
    for before in [&first, &other] {
        assert!(!is_open(&bench, &second).await);
        assert_eq!(claim(&bench, &session, &second).await, None);
        succeed(&bench, &session, before).await;
    }
    assert_eq!(called_off(&bench).await, []);
    assert!(is_open(&bench, &second).await);
    assert_eq!(bench.store.job(second.as_str()).await.unwrap().held_by(), Vec::<&_>::new());
    succeed(&bench, &session, &second).await;
    bench.check_invariants().await;
}

pub async fn a_job_that_waits_for_a_lost_one_is_called_off(bench: Bench) {
    let session = bench.session("w").await;
    let cancelled = submit_after(&bench, "a", &[]).await;
    let failed = submit_after(&bench, "b", &[]).await;
    let (one, two) = (
        submit_after(&bench, "c", &[after(&cancelled, false)]).await,
        submit_after(&bench, "d", &[after(&failed, false), after(&failed, true)]).await,
    );
    let third = submit_after(&bench, "e", &[after(&one, false)]).await;
    // Somebody paused it: that changes nothing.
    bench.change(&two, Change::Pause).await;
    assert_eq!(called_off(&bench).await, []);
    bench.change(&cancelled, Change::Cancel).await;
    fail(&bench, &session, &failed).await;
    assert_eq!(claim(&bench, &session, &one).await, None);
    assert_eq!(
        called_off(&bench).await,
        [
            (one.clone(), format!("job {cancelled} was cancelled")),
            (two.clone(), format!("job {failed} failed"))
        ]
    );
    // Round by round: it waited for one that was called off.
    assert_eq!(called_off(&bench).await, [(third.clone(), format!("job {one} was cancelled"))]);
    assert_eq!(called_off(&bench).await, []);
    for job in [&one, &two, &third] {
        let job = bench.store.job(job.as_str()).await.unwrap();
        assert_eq!((job.state, job.finished_at), (JobState::Cancelled, Some(bench.now)));
        assert_eq!(job.held_by(), Vec::<&_>::new());
    }
    let shown = bench.store.job(two.as_str()).await.unwrap().end_reason;
    assert_eq!(shown, Some(format!("job {failed} failed")));
    let told = bench
        .sql("select actor, reason from audit_events where kind = 'job_cancelled' and actor <> 'bob' order by seq")
        .await;
    let reasons = [
        format!("job {cancelled} was cancelled"),
        format!("job {failed} failed"),
        format!("job {one} was cancelled"),
    ];
    let expected = reasons.map(|reason| vec![Cell::Text("coordinator".to_owned()), Cell::Text(reason)]);
    assert_eq!(told, expected);
    bench.check_invariants().await;
}

pub async fn a_job_that_waits_for_any_end_begins_after_one(bench: Bench) {
    let session = bench.session("w").await;
    let first = submit_after(&bench, "a", &[]).await;
    let second = submit_after(&bench, "b", &[after(&first, true)]).await;
    assert_eq!(claim(&bench, &session, &second).await, None);
    fail(&bench, &session, &first).await;
    assert_eq!(called_off(&bench).await, []);
    assert!(is_open(&bench, &second).await);
    succeed(&bench, &session, &second).await;
    let third = submit_after(&bench, "c", &[after(&first, true)]).await;
    assert!(is_open(&bench, &third).await, "it had ended before");
    bench.change(&third, Change::Cancel).await;
    let fourth = submit_after(&bench, "d", &[after(&third, true)]).await;
    assert!(claim(&bench, &session, &fourth).await.is_some());
}

pub async fn a_retry_takes_nothing_back_from_a_job_that_has_started(bench: Bench) {
    let session = bench.session("w").await;
    let first = submit_after(&bench, "a", &[]).await;
    let second = submit_after(&bench, "b", &[after(&first, true)]).await;
    fail(&bench, &session, &first).await;
    let lease = claim(&bench, &session, &second).await.unwrap();
    bench.change(&first, Change::Retry(None)).await;
    assert_eq!(bench.store.job(second.as_str()).await.unwrap().held_by(), Vec::<&_>::new());
    assert!(is_open(&bench, &second).await && claim(&bench, &session, &second).await.is_some());
    assert!(bench.renew(&session, &lease.lease, &[0]).await);
}

pub async fn a_job_that_failed_and_is_tried_again_is_waited_for_again(bench: Bench) {
    let session = bench.session("w").await;
    let first = submit_after(&bench, "a", &[]).await;
    let second = submit_after(&bench, "b", &[after(&first, false)]).await;
    let any = submit_after(&bench, "c", &[after(&first, true)]).await;
    fail(&bench, &session, &first).await;
    // Before anybody noticed.
    bench.change(&first, Change::Retry(None)).await;
    assert_eq!(called_off(&bench).await, []);
    for waits in [&second, &any] {
        assert_eq!(claim(&bench, &session, waits).await, None);
    }
    let lease = claim(&bench, &session, &first).await.unwrap();
    bench.report(&session, &lease.lease, &[done(&lease.images[0])]).await;
    bench.store.finish_job(&first, bench.now).await.unwrap();
    assert!(is_open(&bench, &second).await && is_open(&bench, &any).await);
    // What was called off stays so.
    let third = submit_after(&bench, "d", &[after(&second, false)]).await;
    bench.change(&second, Change::Cancel).await;
    assert_eq!(called_off(&bench).await.len(), 1);
    assert_eq!(state(&bench, &third).await, JobState::Cancelled);
}

pub async fn only_jobs_that_may_still_succeed_are_waited_for(bench: Bench) {
    let first = submit_after(&bench, "a", &[]).await;
    let refuse = async |wanted: Wanted| {
        let wanted = JobSpec { after: vec![wanted], ..spec("b") };
        bench.store.begin_job(&wanted, bench.now).await.unwrap_err()
    };
    let none = Wanted { job: "00000000-0000-0000-0000-000000000000".to_owned(), any_end: true };
    assert!(matches!(refuse(none).await, Error::NotFound { what: "job", .. }));
    let begun = bench.store.begin_job(&spec("unsealed"), bench.now).await.unwrap();
    let Begun::New(unsealed, _) = begun else { panic!("{begun:?}") };
    assert!(matches!(refuse(after(&unsealed, true)).await, Error::NotFound { .. }));
    let second = submit_after(&bench, "c", &[]).await;
    let both = Wanted { job: first.as_str()[..4].to_owned(), any_end: false };
    assert!(second.as_str().starts_with(&both.job), "{second} and {first} begin alike");
    assert!(matches!(refuse(both).await, Error::Ambiguous(_)));
    bench.change(&first, Change::Cancel).await;
    let refused = refuse(after(&first, false)).await;
    let text = format!("job {first} was cancelled: what waits for its success would never start; ");
    assert!(
        matches!(&refused, Error::Invalid(invalid) if invalid.to_string().starts_with(&text)),
        "{refused}"
    );
    // The beginning of an id will do.
    let beginning =
        (1..).map(|length| &second.as_str()[..length]).find(|text| !first.as_str().starts_with(text));
    let wanted = Wanted { job: beginning.unwrap().to_owned(), any_end: false };
    let third = submit_after(&bench, "d", std::slice::from_ref(&wanted)).await;
    assert_eq!(bench.store.job(third.as_str()).await.unwrap().after[0].job, second);
    // A submission that is there is found whatever became of what it waited for.
    bench.change(&second, Change::Cancel).await;
    let again = JobSpec { after: vec![wanted], ..spec("d") };
    let again = bench.store.begin_job(&again, bench.now).await.unwrap();
    assert!(matches!(again, Begun::Existing(job) if job.id == third));
    let many = JobSpec { after: vec![after(&third, true); 1001], ..spec("e") };
    assert!(many.check().is_err());
}

pub async fn a_job_that_was_lost_during_the_submission_calls_it_off(bench: Bench) {
    let first = submit_after(&bench, "a", &[]).await;
    let wanted = JobSpec { after: vec![after(&first, false)], ..spec("b") };
    let Begun::New(second, _) = bench.store.begin_job(&wanted, bench.now).await.unwrap() else { panic!() };
    bench.change(&first, Change::Cancel).await;
    assert_eq!(called_off(&bench).await, [], "it is not there yet");
    let mut submission = Submission::new(wanted.clone(), LEASE, Vec::new()).unwrap();
    submission.push(row(1)).unwrap();
    bench.store.seal_job(&second, &submission.seal(1).unwrap(), bench.now).await.unwrap();
    assert_eq!(called_off(&bench).await, [(second, format!("job {first} was cancelled"))]);
    // What is left of a submission that was given up can go.
    let third = submit_after(&bench, "c", &[]).await;
    let wanted = JobSpec { after: vec![after(&third, false)], ..spec("d") };
    let Begun::New(fourth, _) = bench.store.begin_job(&wanted, bench.now).await.unwrap() else { panic!() };
    bench.store.abandon_job(&fourth).await.unwrap();
    while bench.store.purge().await.unwrap() {}
}

pub async fn nothing_of_a_job_is_leased_at_its_deadline_and_the_rest_is_cancelled(mut bench: Bench) {
    let deadline = bench.now + Duration::from_secs(30);
    let job = submit_until(&bench, "a", deadline).await;
    let waits = submit_until(&bench, "b", deadline).await;
    bench.change(&waits, Change::Pause).await;
    assert_eq!(bench.store.open_jobs(bench.now).await.unwrap()[0].deadline, Some(deadline));
    let session = bench.session("w").await;
    let lease = claim(&bench, &session, &job).await.unwrap();
    bench.report(&session, &lease.lease, &[done(&lease.images[0])]).await;
    let held = claim(&bench, &session, &job).await.unwrap();
    bench.pass(Duration::from_secs(30) - Duration::from_millis(1));
    assert_eq!(called_off(&bench).await, []);
    assert_eq!(bench.store.next_deadline(bench.now).await.unwrap(), Some(deadline));
    assert!(is_open(&bench, &job).await);
    bench.pass(Duration::from_millis(1));
    assert!(!is_open(&bench, &job).await);
    assert_eq!(claim(&bench, &session, &job).await, None);
    let called_off = bench.store.call_off(bench.now).await.unwrap();
    let jobs: Vec<_> = called_off.iter().map(|called_off| &called_off.job).collect();
    assert_eq!(jobs, [&job, &waits]);
    assert!(called_off.iter().all(|called_off| called_off.why == CallOff::DeadlinePassed));
    assert_eq!(bench.store.next_deadline(bench.now - LEASE).await.unwrap(), None, "none that matters");
    let ended = bench.store.job(job.as_str()).await.unwrap();
    assert_eq!((ended.state, ended.done, ended.deadline), (JobState::Cancelled, 1, Some(deadline)));
    assert_eq!(ended.end_reason.as_deref(), Some("deadline passed"));
    // What was being rendered costs nobody anything; a picture that is there all the same is kept.
    assert!(!bench.renew(&session, &held.lease, &[1]).await);
    let outcomes = "select outcome from audit_attempts order by granted_at, attempt, first_index";
    assert_eq!(
        bench.sql(outcomes).await,
        [["finished"], ["revoked"]].map(|[word]| [Cell::Text(word.to_owned())])
    );
    assert_eq!(bench.report(&session, &held.lease, &[done(&held.images[0])]).await.accepted, 1);
    let states: Vec<_> = bench.images(&job).await.iter().map(|image| image.state).collect();
    assert_eq!(states, [ImageState::Done, ImageState::Done, ImageState::Pending]);
    bench.check_invariants().await;
}

pub async fn a_complete_job_outlives_its_deadline(mut bench: Bench) {
    let job = submit_until(&bench, "a", bench.now + Duration::from_secs(30)).await;
    let session = bench.session("w").await;
    bench.render_all(&session).await;
    // Its manifest takes its time.
    bench.pass(Duration::from_secs(60));
    assert_eq!(called_off(&bench).await, []);
    assert_eq!(bench.store.finish_job(&job, bench.now).await.unwrap().state, JobState::Succeeded);
    assert_eq!(called_off(&bench).await, []);
}

pub async fn a_deadline_that_has_passed_is_refused(mut bench: Bench) {
    let wanted = JobSpec { deadline: Some(bench.now), ..spec("a") };
    let refused = bench.store.begin_job(&wanted, bench.now).await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    let job = submit_until(&bench, "a", bench.now + Duration::from_secs(1)).await;
    // The same command later is the same job.
    bench.pass(Duration::from_secs(9));
    let again = bench.store.begin_job(&wanted, bench.now).await.unwrap();
    assert!(matches!(again, Begun::Existing(found) if found.id == job));
}

pub async fn what_a_job_waits_for_is_in_the_view_and_in_the_history(bench: Bench) {
    let first = submit_after(&bench, "a", &[]).await;
    let second = submit_after(&bench, "b", &[]).await;
    let wanted = JobSpec {
        after: vec![after(&second, false), after(&first, false), after(&second, true), after(&first, false)],
        deadline: Some("2026-11-30T08:00:00Z".parse().unwrap()),
        ..spec("c")
    };
    let third = bench.submit_rows(wanted, std::iter::once(row(1)), 1).await;
    let wanted = JobSpec { after: vec![after(&third, true)], ..spec("d") };
    let fourth = bench.submit_rows(wanted, std::iter::once(row(1)), 1).await;
    let json = |cell: &Cell| match cell {
        Cell::Text(text) => serde_json::from_str(text).unwrap_or_else(|_| serde_json::json!(text)),
        other => panic!("{other:?}"),
    };
    let sql = |what: &str, job: &JobId| {
        let sql = format!("select {what} from audit_jobs where job_id = '{job}'");
        let bench = &bench;
        async move { bench.sql(&sql).await.remove(0) }
    };
    let both = serde_json::json!([first.as_str(), second.as_str()]);
    let told = sql("after_jobs, deadline", &third).await;
    assert_eq!(json(&told[0]), both);
    assert_eq!(told[1], Cell::Text("2026-11-30T08:00:00.000Z".to_owned()));
    let told = sql("after_any_jobs, after_jobs, deadline, end_reason", &fourth).await;
    assert_eq!(json(&told[0]), serde_json::json!([third.as_str()]));
    assert_eq!(told[1..], [Cell::Null, Cell::Null, Cell::Null]);
    bench.change(&fourth, Change::Cancel).await;
    assert_eq!(sql("end_reason", &fourth).await, [Cell::Text("because".to_owned())]);
    let submitted =
        format!("select detail from audit_events where kind = 'job_submitted' and job_id = '{third}'");
    let detail = json(&bench.sql(&submitted).await[0][0]);
    assert_eq!((&detail["after"], detail.get("after_any")), (&both, None));
    assert_eq!(detail["deadline"], "2026-11-30T08:00:00.000Z");
}

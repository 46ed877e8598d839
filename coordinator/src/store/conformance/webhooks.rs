//! Webhooks on their way out.

use std::time::Duration;

use serde_json::Value;

use super::Bench;
use super::bench::*;
use crate::domain::id::JobId;
use crate::domain::spec::JobSpec;
use crate::domain::webhook::WebhookState;
use crate::store::records::{Change, Delivery, Tried, Webhook};

const ALONE: Duration = Duration::from_secs(20);

fn with_webhook(token: &str) -> JobSpec {
    JobSpec { webhook: Some(format!("https://hooks.example.org/{token}")), ..spec(token) }
}

async fn submit(bench: &Bench, spec: JobSpec) -> JobId {
    bench.submit_rows(spec, (1..=2).map(row), 2).await
}

async fn begin(bench: &Bench) -> Vec<Delivery> {
    bench.store.begin_webhooks(10, bench.now + ALONE, bench.now).await.unwrap()
}

async fn webhook(bench: &Bench, job: &JobId) -> Webhook {
    bench.store.job(job.as_str()).await.unwrap().webhook.unwrap()
}

pub async fn every_end_of_a_job_calls_its_webhook(mut bench: Bench) {
    let done = submit(&bench, with_webhook("done")).await;
    bench.submit("silent", 1, 1).await;
    assert_eq!(webhook(&bench, &done).await.state, WebhookState::Waiting);
    bench.render_all(&bench.session("w").await).await;
    let cancelled = submit(&bench, with_webhook("cancelled")).await;
    let deadline = Some(bench.now + ALONE);
    let late = submit(&bench, JobSpec { deadline, ..with_webhook("late") }).await;
    assert_eq!((begin(&bench).await, bench.store.next_webhook().await.unwrap()), (vec![], None));

    for job in bench.store.jobs_to_finish().await.unwrap() {
        bench.store.finish_job(&job.id, bench.now).await.unwrap();
        // Again, as after a crash.
        bench.store.finish_job(&job.id, bench.now).await.unwrap();
    }
    let ended = bench.change(&cancelled, Change::Cancel).await;
    assert_eq!(ended.webhook.unwrap().state, WebhookState::Pending);
    bench.pass(ALONE);
    assert_eq!(bench.store.call_off(bench.now).await.unwrap().len(), 1);
    let begun = begin(&bench).await;
    let mut told: Vec<_> = begun
        .iter()
        .map(|delivery| {
            let body: Value = serde_json::from_str(&delivery.body).unwrap();
            assert_eq!(body["data"]["job_id"], delivery.job.as_str());
            assert_eq!(
                delivery.url,
                format!("https://hooks.example.org/{}", &body["data"]["name"].as_str().unwrap()[4..])
            );
            let data = &body["data"];
            let text = |value: &Value| value.as_str().unwrap_or("none").to_owned();
            (delivery.job.clone(), text(&body["type"]), data["done"].as_u64(), text(&data["end_reason"]))
        })
        .collect();
    told.sort();
    let ended = |job: JobId, how: &str, done, why: &str| (job, how.to_owned(), Some(done), why.to_owned());
    let mut expected = vec![
        ended(done, "job.succeeded", 2, "none"),
        ended(cancelled, "job.cancelled", 0, "because"),
        ended(late, "job.cancelled", 0, "deadline passed"),
    ];
    expected.sort();
    assert_eq!(told, expected);
}

pub async fn a_webhook_is_tried_by_one_at_a_time_until_it_is_answered(mut bench: Bench) {
    let job = submit(&bench, with_webhook("a")).await;
    bench.change(&job, Change::Cancel).await;
    let [first] = begin(&bench).await.try_into().unwrap();
    assert_eq!((first.attempt, first.since), (1, bench.now));
    assert_eq!(begin(&bench).await, []);
    assert_eq!(bench.store.next_webhook().await.unwrap(), Some(bench.now + ALONE));
    // Whoever began it is gone: another one takes over, and a late word of the first counts no more.
    bench.pass(ALONE);
    let [second] = begin(&bench).await.try_into().unwrap();
    assert_eq!(second, Delivery { attempt: 2, ..first.clone() });
    bench.store.end_webhook(&first, &Tried::Delivered, bench.now).await.unwrap();
    assert_eq!(webhook(&bench, &job).await.state, WebhookState::Pending);
    let at = bench.now + Duration::from_secs(3);
    let error = "503 Service Unavailable".to_owned();
    bench.store.end_webhook(&second, &Tried::Again { error: error.clone(), at }, bench.now).await.unwrap();
    let waits = webhook(&bench, &job).await;
    assert_eq!(
        (waits.state, waits.attempts, waits.error, waits.at),
        (WebhookState::Pending, 2, Some(error), Some(at))
    );
    assert_eq!(begin(&bench).await, []);
    bench.pass(Duration::from_secs(3));
    let [third] = begin(&bench).await.try_into().unwrap();
    bench.store.end_webhook(&third, &Tried::Delivered, bench.now).await.unwrap();
    let delivered = webhook(&bench, &job).await;
    assert_eq!(
        (delivered.state, delivered.attempts, delivered.error, delivered.at),
        (WebhookState::Delivered, 3, None, Some(bench.now))
    );
    assert_eq!(bench.store.next_webhook().await.unwrap(), None);
    let told = "select kind || ' ' || (detail ->> 'attempts') from audit_events where kind like 'webhook%'";
    assert_eq!(bench.value(told).await, "webhook_delivered 3");
}

pub async fn a_webhook_that_is_given_up_stays_so(bench: Bench) {
    let job = submit(&bench, with_webhook("a")).await;
    bench.change(&job, Change::Cancel).await;
    let [first] = begin(&bench).await.try_into().unwrap();
    let error = "410 Gone".to_owned();
    bench.store.end_webhook(&first, &Tried::GivenUp { error: error.clone() }, bench.now).await.unwrap();
    let failed = webhook(&bench, &job).await;
    assert_eq!((failed.state, failed.error), (WebhookState::Failed, Some(error)));
    assert_eq!(begin(&bench).await, []);
    assert_eq!(
        bench.value("select detail ->> 'error' from audit_events where kind = 'webhook_failed'").await,
        "410 Gone"
    );
}

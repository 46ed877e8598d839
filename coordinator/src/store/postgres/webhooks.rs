//! Webhooks on their way out.

use jiff::Timestamp;
use serde_json::json;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::PostgresStore;
use super::codec::{Time, clean, id, optional_time, small, small_signed, time, uuid};
use super::event::{Event, record};
use crate::domain::event::EventKind;
use crate::domain::webhook::WebhookState;
use crate::store::Result;
use crate::store::records::{Delivery, Job, Tried, body};

/// Has the webhook of a job delivered, in the transaction that ends the job.
pub(super) async fn insert(db: &mut PgConnection, key: i64, job: &mut Job, now: Timestamp) -> Result<()> {
    let Some(webhook) = &job.webhook else { return Ok(()) };
    sqlx::query(
        "INSERT INTO webhooks (id, job, url, body, created_at, next_at) VALUES ($1, $2, $3, $4, $5, $5)",
    )
    .bind(Uuid::now_v7())
    .bind(key)
    .bind(&webhook.url)
    .bind(body(job, now))
    .bind(Time(now))
    .execute(db)
    .await?;
    job.webhook = Some(webhook.due(now));
    Ok(())
}

pub(super) async fn begin_webhooks(
    store: &PostgresStore,
    limit: u32,
    until: Timestamp,
    now: Timestamp,
) -> Result<Vec<Delivery>> {
    let rows = sqlx::query(
        "UPDATE webhooks AS w SET attempts = w.attempts + 1, next_at = $2 FROM \
         (SELECT key FROM webhooks WHERE state = 'pending' AND next_at <= $1 ORDER BY next_at LIMIT $3 \
         FOR UPDATE SKIP LOCKED) AS d WHERE w.key = d.key \
         RETURNING w.id, (SELECT j.id FROM jobs AS j WHERE j.key = w.job) AS job_id, w.url, w.body, w.attempts, \
         w.created_at",
    )
    .bind(Time(now))
    .bind(Time(until))
    .bind(i64::from(limit))
    .fetch_all(&store.pool)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(Delivery {
                id: id(row, "id")?,
                job: id(row, "job_id")?,
                url: row.try_get("url")?,
                body: row.try_get("body")?,
                attempt: small(row, "attempts")?,
                since: time(row, "created_at")?,
            })
        })
        .collect()
}

pub(super) async fn end_webhook(
    store: &PostgresStore,
    delivery: &Delivery,
    tried: &Tried,
    now: Timestamp,
) -> Result<()> {
    let (state, next, error) = match tried {
        Tried::Delivered => (WebhookState::Delivered, None, None),
        Tried::Again { error, at } => (WebhookState::Pending, Some(*at), Some(clean(error))),
        Tried::GivenUp { error } => (WebhookState::Failed, None, Some(clean(error))),
    };
    let mut tx = store.begin(now).await?;
    let row = sqlx::query(
        "UPDATE webhooks SET state = $3, next_at = coalesce($4, next_at), error = $5, ended_at = $6 \
         WHERE id = $1 AND attempts = $2 AND state = 'pending' RETURNING job",
    )
    .bind(uuid(&delivery.id))
    .bind(small_signed(delivery.attempt, "attempt")?)
    .bind(state.word())
    .bind(next.map(Time))
    .bind(error.as_deref())
    .bind(next.is_none().then_some(Time(now)))
    .fetch_optional(&mut *tx)
    .await?;
    if let Some(row) = row
        && let Some(kind) = EventKind::of_webhook(state)
    {
        let detail = json!({ "attempts": delivery.attempt, "error": error });
        let event = Event { job: row.try_get("job")?, detail: Some(detail), ..Event::new(kind) };
        record(&mut tx, event, now).await?;
    }
    Ok(tx.commit().await?)
}

pub(super) async fn next_webhook(store: &PostgresStore) -> Result<Option<Timestamp>> {
    let row = sqlx::query("SELECT min(next_at) AS next_at FROM webhooks WHERE state = 'pending'")
        .fetch_one(&store.pool)
        .await?;
    optional_time(&row, "next_at")
}

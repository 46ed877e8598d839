//! Webhooks on their way out.

use jiff::Timestamp;
use serde_json::json;
use sqlx::{Row, SqliteConnection};
use uuid::Uuid;

use super::SqliteStore;
use super::codec::{small, time, time_text};
use super::event::{Event, record};
use crate::domain::event::EventKind;
use crate::domain::id::JobId;
use crate::domain::webhook::WebhookState;
use crate::store::Result;
use crate::store::records::{Delivery, Job, Tried, body};

/// Has the webhook of a job delivered, in the transaction that ends the job.
pub(super) async fn insert(db: &mut SqliteConnection, key: i64, job: &mut Job, now: Timestamp) -> Result<()> {
    let Some(webhook) = &job.webhook else { return Ok(()) };
    sqlx::query(
        "INSERT INTO webhooks (id, job, url, body, created_at, next_at) VALUES (?1, ?2, ?3, ?4, ?5, ?5)",
    )
    .bind(Uuid::now_v7().to_string())
    .bind(key)
    .bind(&webhook.url)
    .bind(body(job, now))
    .bind(time_text(now))
    .execute(db)
    .await?;
    job.webhook = Some(webhook.due(now));
    Ok(())
}

pub(super) async fn begin_webhooks(
    store: &SqliteStore,
    limit: u32,
    until: Timestamp,
    now: Timestamp,
) -> Result<Vec<Delivery>> {
    let mut tx = store.write().await?;
    let rows = sqlx::query(
        "UPDATE webhooks SET attempts = attempts + 1, next_at = ?2 WHERE key IN \
         (SELECT key FROM webhooks WHERE state = 'pending' AND next_at <= ?1 ORDER BY next_at LIMIT ?3) \
         RETURNING id, (SELECT j.id FROM jobs AS j WHERE j.key = webhooks.job) AS job_id, url, body, attempts, created_at",
    )
    .bind(time_text(now))
    .bind(time_text(until))
    .bind(limit)
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    rows.iter()
        .map(|row| {
            Ok(Delivery {
                id: row.try_get("id")?,
                job: JobId::from(row.try_get::<String, _>("job_id")?),
                url: row.try_get("url")?,
                body: row.try_get("body")?,
                attempt: small(row, "attempts")?,
                since: time(row.try_get("created_at")?)?,
            })
        })
        .collect()
}

pub(super) async fn end_webhook(
    store: &SqliteStore,
    delivery: &Delivery,
    tried: &Tried,
    now: Timestamp,
) -> Result<()> {
    let (state, next, error) = match tried {
        Tried::Delivered => (WebhookState::Delivered, None, None),
        Tried::Again { error, at } => (WebhookState::Pending, Some(*at), Some(error)),
        Tried::GivenUp { error } => (WebhookState::Failed, None, Some(error)),
    };
    let mut tx = store.write().await?;
    let row = sqlx::query(
        "UPDATE webhooks SET state = ?3, next_at = coalesce(?4, next_at), error = ?5, ended_at = ?6 \
         WHERE id = ?1 AND attempts = ?2 AND state = 'pending' RETURNING job",
    )
    .bind(&delivery.id)
    .bind(delivery.attempt)
    .bind(state.word())
    .bind(next.map(time_text))
    .bind(error)
    .bind(next.is_none().then(|| time_text(now)))
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

pub(super) async fn next_webhook(store: &SqliteStore) -> Result<Option<Timestamp>> {
    let row = sqlx::query("SELECT min(next_at) AS next_at FROM webhooks WHERE state = 'pending'")
        .fetch_one(&store.reader)
        .await?;
    row.try_get::<Option<&str>, _>("next_at")?.map(time).transpose()
}

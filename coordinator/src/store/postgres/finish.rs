//! How jobs end.

use jiff::Timestamp;
use serde_json::json;
use sqlx::{PgConnection, Row};

use super::codec::{JOB_COLUMNS, Time, clean, job as read_job, uuid};
use super::event::{Event, record};
use super::{PostgresStore, speeds, webhooks};
use crate::domain::event::EventKind;
use crate::domain::id::JobId;
use crate::domain::state::{JobState, outcome};
use crate::store::records::{By, Job};
use crate::store::{Error, Result};

/// A sealed job with its key, locked for who moves its state.
pub(super) async fn lock(db: &mut PgConnection, job: &JobId) -> Result<(i64, Job)> {
    let row = sqlx::query(sqlx::AssertSqlSafe(format!(
        "SELECT key, {JOB_COLUMNS} FROM jobs WHERE id = $1 AND sealed_at IS NOT NULL FOR UPDATE"
    )))
    .bind(uuid(job.as_str()))
    .fetch_optional(db)
    .await?;
    match row {
        Some(row) => Ok((row.try_get("key")?, read_job(&row)?)),
        None => Err(Error::NotFound { what: "job", id: job.to_string() }),
    }
}

/// Moves a job to its last state.
pub(super) async fn end(
    db: &mut PgConnection,
    key: i64,
    job: &Job,
    to: JobState,
    kind: EventKind,
    by: Option<&By>,
    now: Timestamp,
) -> Result<Job> {
    let state = job.state.become_state(to)?;
    let row = sqlx::query(sqlx::AssertSqlSafe(format!(
        "UPDATE jobs SET state = $2, finished_at = $3, output_error = NULL, end_reason = $4 WHERE key = $1 \
         RETURNING {JOB_COLUMNS}"
    )))
    .bind(key)
    .bind(state.word())
    .bind(Time(now))
    .bind(by.map(|by| clean(&by.reason).into_owned()).filter(|reason| !reason.is_empty()))
    .fetch_one(&mut *db)
    .await?;
    let mut job = read_job(&row)?;
    speeds::keep(&mut *db, key, &job).await?;
    webhooks::insert(&mut *db, key, &mut job, now).await?;
    let detail = json!({ "state": state.word(), "done": job.done, "failed": job.failed });
    record(db, Event { job: Some(key), detail: Some(detail), by, ..Event::new(kind) }, now).await?;
    Ok(job)
}

/// Tars of the output of a row of `jobs` that have no final name yet.
const UNPUBLISHED: &str = "SELECT FROM archives AS a JOIN jobs AS o ON o.key = a.job \
    WHERE a.published_at IS NULL AND o.output = jobs.output";

pub(super) async fn jobs_to_finish(store: &PostgresStore) -> Result<Vec<Job>> {
    let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
        "SELECT {JOB_COLUMNS} FROM jobs WHERE state IN ('running', 'paused') AND sealed_at IS NOT NULL \
         AND done + failed = images AND NOT EXISTS ({UNPUBLISHED}) ORDER BY key"
    )))
    .fetch_all(&store.pool)
    .await?;
    rows.iter().map(read_job).collect()
}

pub(super) async fn finish_job(store: &PostgresStore, job: &JobId, now: Timestamp) -> Result<Job> {
    let mut tx = store.begin(now).await?;
    let (key, found) = lock(&mut tx, job).await?;
    // It may have been cancelled while its manifest was being written.
    if found.state.has_ended() {
        return Ok(found);
    }
    if found.done + found.failed != found.images {
        return Err(Error::Corrupt(format!("job {job} is to be finished but has images without a result")));
    }
    let unpublished: bool = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
        "SELECT EXISTS ({UNPUBLISHED}) FROM jobs WHERE key = $1"
    )))
    .bind(key)
    .fetch_one(&mut *tx)
    .await?;
    if unpublished {
        return Err(Error::Corrupt(format!("job {job} is to be finished but has archives without a name")));
    }
    let ended = end(&mut tx, key, &found, outcome(found.failed), EventKind::JobFinished, None, now).await?;
    tx.commit().await?;
    Ok(ended)
}

pub(super) async fn record_output_error(
    store: &PostgresStore,
    job: &JobId,
    error: &str,
    now: Timestamp,
) -> Result<()> {
    let mut tx = store.begin(now).await?;
    let (key, found) = lock(&mut tx, job).await?;
    if found.state.has_ended() {
        return Ok(());
    }
    let error = clean(error);
    sqlx::query("UPDATE jobs SET output_error = $2 WHERE key = $1")
        .bind(key)
        .bind(&*error)
        .execute(&mut *tx)
        .await?;
    let detail = json!({ "error": error });
    let event = Event { job: Some(key), detail: Some(detail), ..Event::new(EventKind::OutputError) };
    record(&mut tx, event, now).await?;
    Ok(tx.commit().await?)
}

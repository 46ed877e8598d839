//! How jobs end.

use jiff::Timestamp;
use serde_json::json;
use sqlx::{Row, SqliteConnection};

use super::codec::{JOB_COLUMNS, job as read_job, time_text};
use super::event::{Event, record};
use super::report::job_complete;
use super::{SqliteStore, speeds, webhooks};
use crate::domain::event::EventKind;
use crate::domain::id::JobId;
use crate::domain::state::{JobState, outcome};
use crate::store::records::{By, Job};
use crate::store::{Error, Result};

/// A sealed job with its key.
pub(super) async fn find(db: &mut SqliteConnection, job: &JobId) -> Result<(i64, Job)> {
    let row = sqlx::query(sqlx::AssertSqlSafe(format!(
        "SELECT key, {JOB_COLUMNS} FROM jobs WHERE id = ? AND sealed_at IS NOT NULL"
    )))
    .bind(job.as_str())
    .fetch_optional(db)
    .await?;
    match row {
        Some(row) => Ok((row.try_get("key")?, read_job(&row)?)),
        None => Err(Error::NotFound { what: "job", id: job.to_string() }),
    }
}

/// Moves a job to its last state.
pub(super) async fn end(
    db: &mut SqliteConnection,
    key: i64,
    job: &Job,
    to: JobState,
    kind: EventKind,
    by: Option<&By>,
    now: Timestamp,
) -> Result<Job> {
    let state = job.state.become_state(to)?;
    let row = sqlx::query(sqlx::AssertSqlSafe(format!(
        "UPDATE jobs SET state = ?, finished_at = ?, output_error = NULL, end_reason = ? WHERE key = ? \
         RETURNING {JOB_COLUMNS}"
    )))
    .bind(state.word())
    .bind(time_text(now))
    .bind(by.map(|by| &by.reason).filter(|reason| !reason.is_empty()))
    .bind(key)
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
const UNPUBLISHED: &str = "SELECT 1 FROM archives AS a INDEXED BY archives_to_publish JOIN jobs AS o ON o.key = a.job \
    WHERE a.published_at IS NULL AND o.output = jobs.output";

pub(super) async fn jobs_to_finish(store: &SqliteStore) -> Result<Vec<Job>> {
    let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
        "SELECT {JOB_COLUMNS} FROM jobs WHERE state IN ('running', 'paused') AND sealed_at IS NOT NULL \
         AND done + failed = images AND NOT EXISTS ({UNPUBLISHED}) ORDER BY key"
    )))
    .fetch_all(&store.reader)
    .await?;
    rows.iter().map(read_job).collect()
}

pub(super) async fn finish_job(store: &SqliteStore, job: &JobId, now: Timestamp) -> Result<Job> {
    let mut tx = store.write().await?;
    let (key, found) = find(&mut tx, job).await?;
    // It may have been cancelled while its manifest was being written.
    if found.state.has_ended() {
        return Ok(found);
    }
    if !job_complete(&mut tx, key).await? {
        return Err(Error::Corrupt(format!("job {job} is to be finished but has images without a result")));
    }
    let unpublished: bool = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
        "SELECT EXISTS ({UNPUBLISHED}) FROM jobs WHERE key = ?"
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
    store: &SqliteStore,
    job: &JobId,
    error: &str,
    now: Timestamp,
) -> Result<()> {
    let mut tx = store.write().await?;
    let (key, found) = find(&mut tx, job).await?;
    if found.state.has_ended() {
        return Ok(());
    }
    sqlx::query("UPDATE jobs SET output_error = ? WHERE key = ?")
        .bind(error)
        .bind(key)
        .execute(&mut *tx)
        .await?;
    let detail = json!({ "error": error });
    record(
        &mut tx,
        Event { job: Some(key), detail: Some(detail), ..Event::new(EventKind::OutputError) },
        now,
    )
    .await?;
    Ok(tx.commit().await?)
}

//! What waits, and who is there.

use jiff::Timestamp;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::SqliteStore;
use super::codec::{json, small, time, time_text, unsigned, word};
use crate::domain::blame::ErrorClass;
use crate::domain::explain::Backlog;
use crate::domain::id::{JobId, SessionId, ShardId};
use crate::store::records::{LeaseRef, NewSession, Presence, PresentLease};
use crate::store::{Error, Result};

/// Images of a job whose errors are looked at.
const RETRIED_IMAGES: i64 = 1000;

pub(super) async fn backlog(store: &SqliteStore, job: &JobId, now: Timestamp) -> Result<Backlog> {
    let row = sqlx::query(
        "SELECT j.key, j.state, j.output_error, coalesce(o.held, 0) AS held, \
         count(*) FILTER (WHERE s.state = 'ready' AND s.not_before <= ?2) AS ready, \
         count(*) FILTER (WHERE s.state = 'ready' AND s.not_before > ?2) AS delayed, \
         min(s.not_before) FILTER (WHERE s.state = 'ready' AND s.not_before > ?2) AS next_at, \
         count(*) FILTER (WHERE s.state = 'leased') AS leased \
         FROM jobs AS j LEFT JOIN owners AS o ON o.owner = j.owner LEFT JOIN shards AS s ON s.job = j.key \
         WHERE j.id = ?1 AND j.sealed_at IS NOT NULL GROUP BY j.key",
    )
    .bind(job.as_str())
    .bind(time_text(now))
    .fetch_optional(&store.reader)
    .await?;
    let Some(row) = row else { return Err(Error::NotFound { what: "job", id: job.to_string() }) };
    let delayed = unsigned(&row, "delayed")?;
    Ok(Backlog {
        state: word(&row, "state")?,
        owner_held: row.try_get("held")?,
        ready: unsigned(&row, "ready")?,
        delayed,
        next_at: row.try_get::<Option<&str>, _>("next_at")?.map(time).transpose()?,
        leased: unsigned(&row, "leased")?,
        error: if delayed > 0 { frequent_error(store, row.try_get("key")?).await? } else { None },
        output_error: row.try_get("output_error")?,
    })
}

/// The most frequent of the newest errors of images that have no result.
async fn frequent_error(store: &SqliteStore, job: i64) -> Result<Option<(ErrorClass, String)>> {
    let row = sqlx::query(
        "SELECT error_class, error FROM (SELECT e.error_class, e.error FROM image_errors AS e WHERE e.job = ?1 \
         AND NOT EXISTS (SELECT 1 FROM results AS r WHERE r.job = e.job AND r.idx = e.idx) LIMIT ?2) \
         GROUP BY error_class, error ORDER BY count(*) DESC, error LIMIT 1",
    )
    .bind(job)
    .bind(RETRIED_IMAGES)
    .fetch_optional(&store.reader)
    .await?;
    row.map(|row| Ok((word(&row, "error_class")?, row.try_get("error")?))).transpose()
}

pub(super) async fn sessions(store: &SqliteStore) -> Result<Vec<Presence>> {
    let rows = sqlx::query(
        "SELECT w.id AS session_id, w.worker, w.version, w.devices, w.labels, w.embedded, w.opened_at, w.seen_at, \
         t.excluded_until, w.stats, w.leaving, w.drain, \
         s.id AS shard_id, l.attempt, j.id AS job_id, j.model, s.images, l.expires_at \
         FROM sessions AS w LEFT JOIN leases AS l ON l.session = w.key AND l.ended_at IS NULL \
         LEFT JOIN shards AS s ON s.key = l.shard LEFT JOIN jobs AS j ON j.key = l.job \
         LEFT JOIN standings AS t ON t.worker = w.worker \
         WHERE w.closed_at IS NULL ORDER BY w.key, l.granted_at",
    )
    .fetch_all(&store.reader)
    .await?;
    let mut sessions: Vec<Presence> = Vec::new();
    for row in &rows {
        let id = SessionId::from(row.try_get::<String, _>("session_id")?);
        if sessions.last().is_none_or(|last| last.id != id) {
            sessions.push(presence(row, id)?);
        }
        if let (Some(last), Some(lease)) = (sessions.last_mut(), lease(row)?) {
            last.leases.push(lease);
        }
    }
    Ok(sessions)
}

fn presence(row: &SqliteRow, id: SessionId) -> Result<Presence> {
    Ok(Presence {
        id,
        session: NewSession {
            worker: row.try_get("worker")?,
            version: row.try_get("version")?,
            devices: json(row, "devices")?,
            labels: json(row, "labels")?,
            embedded: row.try_get("embedded")?,
        },
        opened_at: time(row.try_get("opened_at")?)?,
        seen_at: time(row.try_get("seen_at")?)?,
        excluded_until: row.try_get::<Option<&str>, _>("excluded_until")?.map(time).transpose()?,
        leases: Vec::new(),
        stats: row.try_get::<Option<&str>, _>("stats")?.map(|_| json(row, "stats")).transpose()?,
        leaving: row.try_get("leaving")?,
        drain: row.try_get::<Option<&str>, _>("drain")?.map(str::parse).transpose()?,
    })
}

fn lease(row: &SqliteRow) -> Result<Option<PresentLease>> {
    let Some(shard) = row.try_get::<Option<String>, _>("shard_id")? else { return Ok(None) };
    Ok(Some(PresentLease {
        lease: LeaseRef { shard: ShardId::from(shard), attempt: small(row, "attempt")? },
        job: JobId::from(row.try_get::<String, _>("job_id")?),
        model: row.try_get("model")?,
        images: unsigned(row, "images")?,
        expires_at: time(row.try_get("expires_at")?)?,
    }))
}

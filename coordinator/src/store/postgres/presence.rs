//! What waits, and who is there.

use jiff::Timestamp;
use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use uuid::Uuid;

use super::PostgresStore;
use super::codec::{Time, id, optional_time, small, time, unsigned, uuid, word};
use crate::domain::blame::ErrorClass;
use crate::domain::explain::Backlog;
use crate::domain::id::{JobId, SessionId};
use crate::store::records::{LeaseRef, NewSession, Presence, PresentLease};
use crate::store::{Error, Result};

/// Images of a job whose errors are looked at.
const RETRIED_IMAGES: i64 = 1000;

pub(super) async fn backlog(store: &PostgresStore, job: &JobId, now: Timestamp) -> Result<Backlog> {
    let row = sqlx::query(
        "SELECT j.key, j.state, j.output_error, coalesce(o.held, false) AS held, r.ready, r.delayed, r.next_at, \
         (SELECT count(*) FROM leases AS l WHERE l.job = j.key AND l.ended_at IS NULL) AS leased \
         FROM jobs AS j LEFT JOIN owners AS o ON o.owner = j.owner \
         CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE s.not_before <= $2) AS ready, \
         count(*) FILTER (WHERE s.not_before > $2) AS delayed, \
         min(s.not_before) FILTER (WHERE s.not_before > $2) AS next_at \
         FROM shards AS s WHERE s.job = j.key AND s.state = 'ready') AS r \
         WHERE j.id = $1 AND j.sealed_at IS NOT NULL",
    )
    .bind(uuid(job.as_str()))
    .bind(Time(now))
    .fetch_optional(&store.pool)
    .await?;
    let Some(row) = row else { return Err(Error::NotFound { what: "job", id: job.to_string() }) };
    let delayed = unsigned(&row, "delayed")?;
    Ok(Backlog {
        state: word(&row, "state")?,
        owner_held: row.try_get("held")?,
        ready: unsigned(&row, "ready")?,
        delayed,
        next_at: optional_time(&row, "next_at")?,
        leased: unsigned(&row, "leased")?,
        error: if delayed > 0 { frequent_error(store, row.try_get("key")?).await? } else { None },
        output_error: row.try_get("output_error")?,
    })
}

/// The most frequent of the errors of some images that have no result.
async fn frequent_error(store: &PostgresStore, job: i64) -> Result<Option<(ErrorClass, String)>> {
    let row = sqlx::query(
        "SELECT error_class, error FROM (SELECT e.error_class, e.error FROM image_errors AS e WHERE e.job = $1 \
         AND NOT EXISTS (SELECT FROM results AS r WHERE r.job = $1 AND r.idx = e.idx OFFSET 0) LIMIT $2) AS e \
         GROUP BY error_class, error ORDER BY count(*) DESC, error LIMIT 1",
    )
    .bind(job)
    .bind(RETRIED_IMAGES)
    .fetch_optional(&store.pool)
    .await?;
    row.map(|row| Ok((word(&row, "error_class")?, row.try_get("error")?))).transpose()
}

pub(super) async fn sessions(store: &PostgresStore) -> Result<Vec<Presence>> {
    let rows = sqlx::query(
        "SELECT w.id AS session_id, w.worker, w.version, w.devices, w.labels, w.embedded, w.opened_at, w.seen_at, \
         t.excluded_until, w.stats, w.leaving, w.drain, \
         s.id AS shard_id, l.attempt, j.id AS job_id, j.model, l.images, l.expires_at \
         FROM sessions AS w LEFT JOIN leases AS l ON l.session = w.key AND l.ended_at IS NULL \
         LEFT JOIN shards AS s ON s.key = l.shard LEFT JOIN jobs AS j ON j.key = l.job \
         LEFT JOIN standings AS t ON t.worker = w.worker \
         WHERE w.closed_at IS NULL ORDER BY w.key, l.granted_at, l.shard",
    )
    .fetch_all(&store.pool)
    .await?;
    let mut sessions: Vec<Presence> = Vec::new();
    for row in &rows {
        let id: SessionId = id(row, "session_id")?;
        if sessions.last().is_none_or(|last| last.id != id) {
            sessions.push(presence(row, id)?);
        }
        if let (Some(last), Some(lease)) = (sessions.last_mut(), lease(row)?) {
            last.leases.push(lease);
        }
    }
    Ok(sessions)
}

fn presence(row: &PgRow, id: SessionId) -> Result<Presence> {
    Ok(Presence {
        id,
        session: NewSession {
            worker: row.try_get("worker")?,
            version: row.try_get("version")?,
            devices: row.try_get::<Json<_>, _>("devices")?.0,
            labels: row.try_get::<Json<_>, _>("labels")?.0,
            embedded: row.try_get("embedded")?,
        },
        opened_at: time(row, "opened_at")?,
        seen_at: time(row, "seen_at")?,
        excluded_until: optional_time(row, "excluded_until")?,
        leases: Vec::new(),
        stats: row.try_get::<Option<Json<_>>, _>("stats")?.map(|stats| stats.0),
        leaving: row.try_get("leaving")?,
        drain: row.try_get::<Option<&str>, _>("drain")?.map(str::parse).transpose()?,
    })
}

fn lease(row: &PgRow) -> Result<Option<PresentLease>> {
    if row.try_get::<Option<Uuid>, _>("shard_id")?.is_none() {
        return Ok(None);
    }
    Ok(Some(PresentLease {
        lease: LeaseRef { shard: id(row, "shard_id")?, attempt: small(row, "attempt")? },
        job: id(row, "job_id")?,
        model: row.try_get("model")?,
        images: u64::from(small(row, "images")?),
        expires_at: time(row, "expires_at")?,
    }))
}

//! Handing out shards.

use std::time::Duration;

use jiff::Timestamp;
use sqlx::{Row, SqliteConnection};

use super::SqliteStore;
use super::codec::{settings, small, time_text, unsigned};
use super::event::{Event, record};
use super::session::open_key;
use super::shard_state::{SHARD_COLUMNS, Shard};
use crate::domain::id::{JobId, SessionId, ShardId};
use crate::domain::state::{JobState, ShardState};
use crate::store::records::{Lease, LeaseRef, LeasedImage};
use crate::store::{Error, Result};

/// The oldest ready shard of the oldest open job, or of one job. CROSS JOIN keeps this order of loops: a few open jobs outside,
/// their ready shards inside, both by index.
const NEXT: &str = "FROM jobs AS j CROSS JOIN shards AS s ON s.job = j.key \
    WHERE j.state IN ('pending', 'running') AND j.sealed_at IS NOT NULL \
    AND s.state = 'ready' AND s.not_before <= ?1 AND (?2 IS NULL OR j.id = ?2) ORDER BY j.key, s.key LIMIT 1";

pub(super) async fn lease_shard(
    store: &SqliteStore,
    session: &SessionId,
    job: Option<&JobId>,
    duration: Duration,
    now: Timestamp,
) -> Result<Option<Lease>> {
    if store.writer.is_none() {
        return Err(Error::ReadOnly);
    }
    // Many idle workers ask often: they look without the write lock first.
    open_key(&mut *store.reader.acquire().await?, session).await?;
    let ready = sqlx::query(sqlx::AssertSqlSafe(format!("SELECT 1 {NEXT}")))
        .bind(time_text(now))
        .bind(job.map(JobId::as_str))
        .fetch_optional(&store.reader)
        .await?;
    if ready.is_none() {
        return Ok(None);
    }
    let mut tx = store.write().await?;
    let session_key = open_key(&mut tx, session).await?;
    let row = sqlx::query(sqlx::AssertSqlSafe(format!(
        "SELECT {SHARD_COLUMNS}, s.id AS shard_id, j.id AS job_id, j.name, j.model, j.output, \
         j.state AS job_state {NEXT}"
    )))
    .bind(time_text(now))
    .bind(job.map(JobId::as_str))
    .fetch_optional(&mut *tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let shard = Shard::read(&row)?;
    shard.state.become_state(ShardState::Leased)?;
    let attempt = grant(&mut tx, &shard, session_key, duration, now).await?;
    let job_state: JobState = super::codec::word(&row, "job_state")?;
    let started_job = job_state == JobState::Pending;
    if started_job {
        start_job(&mut tx, shard.job, job_state, now).await?;
    }
    let group = sqlx::query(
        "SELECT width, height, steps, guidance, bin, decode FROM settings_groups \
         WHERE job = ? AND group_no = ?",
    )
    .bind(shard.job)
    .bind(shard.group)
    .fetch_one(&mut *tx)
    .await?;
    let lease = Lease {
        lease: LeaseRef { shard: ShardId::from(row.try_get::<String, _>("shard_id")?), attempt },
        job: JobId::from(row.try_get::<String, _>("job_id")?),
        job_name: row.try_get("name")?,
        model: row.try_get("model")?,
        output: row.try_get("output")?,
        settings: settings(&group)?,
        images: open_images(&mut tx, &shard).await?,
        started_job,
    };
    tx.commit().await?;
    Ok(Some(lease))
}

/// Gives out the next attempt.
async fn grant(
    db: &mut SqliteConnection,
    shard: &Shard,
    session: i64,
    duration: Duration,
    now: Timestamp,
) -> Result<u32> {
    let row = sqlx::query(
        "UPDATE shards SET state = 'leased', attempt = attempt + 1 WHERE key = ? AND state = 'ready' \
         RETURNING attempt",
    )
    .bind(shard.key)
    .fetch_one(&mut *db)
    .await?;
    let attempt = small(&row, "attempt")?;
    sqlx::query(
        "INSERT INTO leases (shard, attempt, session, granted_at, expires_at) VALUES (?, ?, ?, ?, ?)",
    )
    .bind(shard.key)
    .bind(attempt)
    .bind(session)
    .bind(time_text(now))
    .bind(time_text(expiry(now, duration)?))
    .execute(&mut *db)
    .await?;
    sqlx::query("UPDATE sessions SET seen_at = ? WHERE key = ?")
        .bind(time_text(now))
        .bind(session)
        .execute(&mut *db)
        .await?;
    let event = Event {
        kind: "lease_granted",
        job: Some(shard.job),
        shard: Some(shard.key),
        attempt: Some(i64::from(attempt)),
        session: Some(session),
        ..Event::default()
    };
    record(db, event, now).await?;
    Ok(attempt)
}

async fn start_job(db: &mut SqliteConnection, job: i64, from: JobState, now: Timestamp) -> Result<()> {
    let to = from.become_state(JobState::Running)?;
    sqlx::query("UPDATE jobs SET state = ?, started_at = coalesce(started_at, ?) WHERE key = ?")
        .bind(to.word())
        .bind(time_text(now))
        .bind(job)
        .execute(&mut *db)
        .await?;
    record(db, Event { kind: "job_started", job: Some(job), ..Event::default() }, now).await
}

/// When a lease that is granted or renewed now ends.
pub(super) fn expiry(now: Timestamp, duration: Duration) -> Result<Timestamp> {
    now.saturating_add(duration).map_err(|error| Error::Corrupt(format!("lease duration: {error}")))
}

async fn open_images(db: &mut SqliteConnection, shard: &Shard) -> Result<Vec<LeasedImage>> {
    let rows = sqlx::query(
        "SELECT i.idx, i.seed, i.object, p.prompt, \
         coalesce(p.negative_prompt, j.negative_prompt) AS negative_prompt FROM images AS i INDEXED BY images_by_group \
         JOIN prompts AS p ON p.job = i.job AND p.row_no = i.row_no JOIN jobs AS j ON j.key = i.job \
         WHERE i.job = ?1 AND i.group_no = ?2 AND i.idx BETWEEN ?3 AND ?4 \
         AND NOT EXISTS (SELECT 1 FROM results AS r WHERE r.job = i.job AND r.idx = i.idx) ORDER BY i.idx",
    )
    .bind(shard.job)
    .bind(shard.group)
    .bind(shard.first)
    .bind(shard.last)
    .fetch_all(db)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(LeasedImage {
                index: unsigned(row, "idx")?,
                prompt: row.try_get("prompt")?,
                negative_prompt: row.try_get("negative_prompt")?,
                seed: unsigned(row, "seed")?,
                object: row.try_get("object")?,
            })
        })
        .collect()
}

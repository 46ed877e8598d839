//! Handing out shards.

use std::time::Duration;

use jiff::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use super::SqliteStore;
use super::codec::{expiry, form, json, settings, small, time, time_text, unsigned};
use super::event::{Event, record};
use super::session::{is_leaving, open_key};
use super::shard_state::{SHARD_COLUMNS, Shard};
use super::standing;
use crate::domain::event::EventKind;
use crate::domain::id::{JobId, ShardId};
use crate::domain::schedule::{Choice, OpenGroup, OpenJob};
use crate::domain::state::{JobState, ShardState};
use crate::store::records::{Claim, Lease, LeaseRef, LeasedImage, OPEN_GROUPS};
use crate::store::{Error, Result};

/// Jobs `j` that may have a shard to give at the moment `?1`. What they wait for is asked before their first lease only.
pub(super) const OPEN: &str = "j.state IN ('pending', 'running') AND j.sealed_at IS NOT NULL \
    AND (j.deadline IS NULL OR j.deadline > ?1) AND (j.started_at IS NOT NULL OR NOT EXISTS \
    (SELECT 1 FROM job_dependencies AS d JOIN jobs AS n ON n.key = d.needs_job WHERE d.job = j.key \
    AND n.state <> 'succeeded' AND NOT (d.any_end AND n.state IN ('failed', 'cancelled'))))";
/// Their shards `s` that may be leased at the moment `?1`.
pub(super) const READY: &str = "s.job = j.key AND s.state = 'ready' AND s.not_before <= ?1";

pub(super) async fn open_jobs(store: &SqliteStore, now: Timestamp) -> Result<Vec<OpenJob>> {
    let jobs = sqlx::query(sqlx::AssertSqlSafe(format!(
        "SELECT j.key, j.id, j.owner, coalesce(o.weight, 1.0) AS weight, j.model, j.priority, j.needs, j.sealed_at, \
         j.deadline, j.width, j.height, j.steps, j.guidance, j.bin, j.decode, \
         (SELECT max(l.granted_at) FROM leases AS l WHERE l.job = j.key) AS leased_at, \
         (SELECT coalesce(sum(s.images), 0) FROM leases AS l JOIN shards AS s ON s.key = l.shard \
         WHERE l.job = j.key AND l.ended_at IS NULL) AS leased_images \
         FROM jobs AS j LEFT JOIN owners AS o ON o.owner = j.owner \
         WHERE {OPEN} AND coalesce(o.held, 0) = 0 AND EXISTS \
         (SELECT 1 FROM shards AS s WHERE {READY}) ORDER BY j.key"
    )))
    .bind(time_text(now))
    .fetch_all(&store.reader)
    .await?;
    let mut open = Vec::with_capacity(jobs.len());
    for row in &jobs {
        open.push(OpenJob {
            leased_at: row.try_get::<Option<&str>, _>("leased_at")?.map(time).transpose()?,
            leased_images: unsigned(row, "leased_images")?,
            groups: open_groups(store, row.try_get("key")?, now).await?,
            ..open_job(row)?
        });
    }
    Ok(open)
}

/// What a job says of itself: nothing of its leases and groups.
pub(super) fn open_job(row: &SqliteRow) -> Result<OpenJob> {
    Ok(OpenJob {
        id: JobId::from(row.try_get::<String, _>("id")?),
        owner: row.try_get("owner")?,
        owner_weight: row.try_get("weight")?,
        model: row.try_get("model")?,
        priority: row.try_get("priority")?,
        needs: json(row, "needs")?,
        settings: settings(row)?,
        submitted_at: time(row.try_get("sealed_at")?)?,
        deadline: row.try_get::<Option<&str>, _>("deadline")?.map(time).transpose()?,
        leased_at: None,
        leased_images: 0,
        groups: Vec::new(),
    })
}

/// The groups with a ready shard, in order.
async fn open_groups(store: &SqliteStore, job: i64, now: Timestamp) -> Result<Vec<OpenGroup>> {
    let rows = sqlx::query(
        "SELECT g.group_no, g.width, g.height FROM settings_groups AS g WHERE g.job = ?1 AND EXISTS \
         (SELECT 1 FROM shards AS s WHERE s.job = g.job AND s.group_no = g.group_no AND s.state = 'ready' \
         AND s.not_before <= ?2) ORDER BY g.group_no LIMIT ?3",
    )
    .bind(job)
    .bind(time_text(now))
    .bind(OPEN_GROUPS as i64)
    .fetch_all(&store.reader)
    .await?;
    rows.iter()
        .map(|row| {
            let size = (small(row, "width")?, small(row, "height")?);
            Ok(OpenGroup { number: small(row, "group_no")?, size })
        })
        .collect()
}

pub(super) async fn lease_shards(
    store: &SqliteStore,
    claims: &[Claim],
    duration: Duration,
    now: Timestamp,
) -> Result<Vec<Result<Option<Lease>>>> {
    let mut tx = store.write().await?;
    let mut answers = Vec::with_capacity(claims.len());
    for claim in claims {
        answers.push(match open_key(&mut tx, &claim.session).await {
            Ok(session) if standing::is_excluded(&mut tx, session, now).await? => Ok(None),
            Ok(session) if is_leaving(&mut tx, session).await? => Ok(None),
            Ok(session) => Ok(lease_shard(&mut tx, session, &claim.choices, duration, now).await?),
            Err(error @ (Error::SessionClosed(_) | Error::NotFound { .. })) => Err(error),
            Err(error) => return Err(error),
        });
    }
    tx.commit().await?;
    Ok(answers)
}

async fn lease_shard(
    db: &mut SqliteConnection,
    session: i64,
    choices: &[Choice],
    duration: Duration,
    now: Timestamp,
) -> Result<Option<Lease>> {
    for choice in choices {
        if let Some(shard) = next(db, choice, now).await? {
            return take(db, shard, session, duration, now).await;
        }
    }
    Ok(None)
}

/// The oldest ready shard of a choice.
async fn next(db: &mut SqliteConnection, choice: &Choice, now: Timestamp) -> Result<Option<i64>> {
    let group = if choice.group.is_some() { "AND s.group_no = ?3" } else { "AND ?3 IS NULL" };
    Ok(sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
        "SELECT s.key FROM jobs AS j CROSS JOIN shards AS s ON {READY} \
         WHERE j.id = ?2 AND {OPEN} {group} ORDER BY s.key LIMIT 1"
    )))
    .bind(time_text(now))
    .bind(choice.job.as_str())
    .bind(choice.group)
    .fetch_optional(db)
    .await?)
}

/// Leases a shard that is ready; none when its job gives nothing.
pub(super) async fn take(
    db: &mut SqliteConnection,
    shard: i64,
    session: i64,
    duration: Duration,
    now: Timestamp,
) -> Result<Option<Lease>> {
    let row = sqlx::query(sqlx::AssertSqlSafe(format!(
        "SELECT {SHARD_COLUMNS}, s.id AS shard_id, j.id AS job_id, j.name, j.model, j.output, j.state AS job_state, \
         j.format, j.quality, j.layout, j.thumbnails \
         FROM shards AS s JOIN jobs AS j ON j.key = s.job WHERE s.key = ?2 AND {OPEN}"
    )))
    .bind(time_text(now))
    .bind(shard)
    .fetch_optional(&mut *db)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let shard = Shard::read(&row)?;
    shard.state.become_state(ShardState::Leased)?;
    let attempt = grant(db, &shard, session, duration, now).await?;
    let job_state: JobState = super::codec::word(&row, "job_state")?;
    let started_job = job_state == JobState::Pending;
    if started_job {
        start_job(db, shard.job, job_state, now).await?;
    }
    let group = sqlx::query(
        "SELECT width, height, steps, guidance, bin, decode FROM settings_groups \
         WHERE job = ? AND group_no = ?",
    )
    .bind(shard.job)
    .bind(shard.group)
    .fetch_one(&mut *db)
    .await?;
    Ok(Some(Lease {
        lease: LeaseRef { shard: ShardId::from(row.try_get::<String, _>("shard_id")?), attempt },
        job: JobId::from(row.try_get::<String, _>("job_id")?),
        job_name: row.try_get("name")?,
        model: row.try_get("model")?,
        output: row.try_get("output")?,
        settings: settings(&group)?,
        images: open_images(db, &shard).await?,
        started_job,
        form: form(&row)?,
    }))
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
        "INSERT INTO leases (shard, attempt, session, job, granted_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)",
    )
    .bind(shard.key)
    .bind(attempt)
    .bind(session)
    .bind(shard.job)
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
        job: Some(shard.job),
        shard: Some(shard.key),
        attempt: Some(i64::from(attempt)),
        session: Some(session),
        ..Event::new(EventKind::LeaseGranted)
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
    record(db, Event { job: Some(job), ..Event::new(EventKind::JobStarted) }, now).await
}

async fn open_images(db: &mut SqliteConnection, shard: &Shard) -> Result<Vec<LeasedImage>> {
    let rows = sqlx::query(
        "SELECT i.idx, i.seed, i.object, p.prompt, p.id AS prompt_id, p.extra, \
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
                id: row.try_get("prompt_id")?,
                extra: row.try_get("extra")?,
            })
        })
        .collect()
}

//! What people change about jobs and owners.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use sqlx::SqliteConnection;

use super::codec::{JOB_COLUMNS, job as read_job, json_text, signed, time_text};
use super::event::{Event, record};
use super::finish::{end, find};
use super::shard_state::{Ending, HeldBy, SHARD_COLUMNS, Shard};
use super::{SqliteStore, archives};
use crate::domain::Invalid;
use crate::domain::blame::ErrorClass;
use crate::domain::event::EventKind;
use crate::domain::id::JobId;
use crate::domain::spec::check_priority;
use crate::domain::state::{JobState, LeaseEnd, ShardState};
use crate::store::Result;
use crate::store::records::{By, Change, Changed, Job};

pub(super) async fn change_job(
    store: &SqliteStore,
    job: &JobId,
    change: &Change,
    by: &By,
    now: Timestamp,
) -> Result<Changed> {
    let mut tx = store.write().await?;
    let (key, found) = find(&mut tx, job).await?;
    let mut retried = 0;
    let job = match change {
        Change::Pause if found.state == JobState::Paused => found,
        Change::Pause => {
            become_state(&mut tx, key, &found, JobState::Paused, EventKind::JobPaused, by, now).await?
        }
        Change::Resume if found.state != JobState::Paused => found,
        Change::Resume => {
            let to = if found.started_at.is_some() { JobState::Running } else { JobState::Pending };
            become_state(&mut tx, key, &found, to, EventKind::JobResumed, by, now).await?
        }
        Change::Priority(priority) => prioritise(&mut tx, key, &found, *priority, by, now).await?,
        Change::Cancel if found.state.has_ended() => found,
        Change::Cancel => cancel(&mut tx, key, &found, by, now).await?,
        Change::Retry(class) => {
            let failed = Taken::Failed(class.map(ErrorClass::word));
            retried = take_back(&mut tx, key, &failed, now).await?;
            if retried > 0 {
                run_again(&mut tx, key, &found, &failed, retried, by, now).await?
            } else {
                found
            }
        }
        // Nothing is taken back: all that is left to do is what is written at the end.
        Change::Requeue(indices) if indices.is_empty() => match found.state {
            JobState::Succeeded | JobState::Failed => {
                let none = Taken::Done(json_text(&indices)?);
                run_again(&mut tx, key, &found, &none, 0, by, now).await?
            }
            JobState::Pending | JobState::Running | JobState::Paused | JobState::Cancelled => found,
        },
        Change::Requeue(indices) => {
            let indices = archives::withdraw(&mut tx, key, indices).await?;
            let done = Taken::Done(json_text(&indices)?);
            retried = take_back(&mut tx, key, &done, now).await?;
            if retried > 0 { run_again(&mut tx, key, &found, &done, retried, by, now).await? } else { found }
        }
    };
    tx.commit().await?;
    Ok(Changed { job, retried })
}

/// Moves a job that goes on.
async fn become_state(
    db: &mut SqliteConnection,
    key: i64,
    job: &Job,
    to: JobState,
    kind: EventKind,
    by: &By,
    now: Timestamp,
) -> Result<Job> {
    let state = job.state.become_state(to)?;
    let row = sqlx::query(sqlx::AssertSqlSafe(format!(
        "UPDATE jobs SET state = ?, finished_at = NULL WHERE key = ? RETURNING {JOB_COLUMNS}"
    )))
    .bind(state.word())
    .bind(key)
    .fetch_one(&mut *db)
    .await?;
    record(db, Event { job: Some(key), by: Some(by), ..Event::new(kind) }, now).await?;
    read_job(&row)
}

async fn prioritise(
    db: &mut SqliteConnection,
    key: i64,
    job: &Job,
    priority: i32,
    by: &By,
    now: Timestamp,
) -> Result<Job> {
    check_priority(priority)?;
    let row = sqlx::query(sqlx::AssertSqlSafe(format!(
        "UPDATE jobs SET priority = ? WHERE key = ? RETURNING {JOB_COLUMNS}"
    )))
    .bind(priority)
    .bind(key)
    .fetch_one(&mut *db)
    .await?;
    let detail = json!({ "from": job.priority, "to": priority });
    let event =
        Event { job: Some(key), detail: Some(detail), by: Some(by), ..Event::new(EventKind::JobPrioritised) };
    record(db, event, now).await?;
    read_job(&row)
}

/// Ends a job and its leases, at no cost.
pub(super) async fn cancel(
    db: &mut SqliteConnection,
    key: i64,
    job: &Job,
    by: &By,
    now: Timestamp,
) -> Result<Job> {
    revoke_leases(db, key, by, now).await?;
    end(db, key, job, JobState::Cancelled, EventKind::JobCancelled, Some(by), now).await
}

async fn revoke_leases(db: &mut SqliteConnection, job: i64, by: &By, now: Timestamp) -> Result<()> {
    let leased = sqlx::query(sqlx::AssertSqlSafe(format!(
        "SELECT {SHARD_COLUMNS} FROM leases AS l JOIN shards AS s ON s.key = l.shard \
         WHERE l.job = ? AND l.ended_at IS NULL ORDER BY s.key"
    )))
    .bind(job)
    .fetch_all(&mut *db)
    .await?;
    for row in &leased {
        let mut shard = Shard::read(row)?;
        if let Some(held) = HeldBy::find(db, shard.key).await? {
            let end = Ending { by: Some(by), ..Ending::new(LeaseEnd::Revoked) };
            shard.give_back(db, &held, end, Duration::ZERO, now).await?;
        }
    }
    Ok(())
}

/// Results that are taken back.
enum Taken {
    /// Failures, of one class or of all.
    Failed(Option<&'static str>),
    /// Pictures of these images, a JSON array, whose objects are lost or damaged.
    Done(String),
}

impl Taken {
    /// Which results they are; `?2` says more.
    fn which(&self) -> &'static str {
        match self {
            Self::Failed(_) => "state = 'failed' AND (?2 IS NULL OR error_class = ?2)",
            Self::Done(_) => "state = 'done' AND idx IN (SELECT value FROM json_each(?2))",
        }
    }

    /// Where they are written down, when they were taken back there, and what of each besides.
    fn table(&self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Failed(_) => ("retried_results", "retried_at", "error_class, error"),
            Self::Done(_) => ("requeued_results", "requeued_at", "bytes, sha256, recipe, decode_seconds"),
        }
    }
}

/// Takes results back: their images have none again, and nothing is counted against them. Their shards are ready with
/// the attempts that they had, so that an old attempt stays old. How many there were.
async fn take_back(db: &mut SqliteConnection, job: i64, taken: &Taken, now: Timestamp) -> Result<u64> {
    const BOTH: &str = "job, idx, shard, attempt, session, device, render_seconds, finished_at";
    let ((table, at, more), which) = (taken.table(), taken.which());
    let of = match taken {
        Taken::Failed(class) => *class,
        Taken::Done(indices) => Some(indices.as_str()),
    };
    let moved = sqlx::query(sqlx::AssertSqlSafe(format!(
        "INSERT INTO {table} ({BOTH}, {more}, {at}) SELECT {BOTH}, {more}, ?3 FROM results WHERE job = ?1 AND {which}"
    )))
    .bind(job)
    .bind(of)
    .bind(time_text(now))
    .execute(&mut *db)
    .await?
    .rows_affected();
    if moved == 0 {
        return Ok(0);
    }
    // What was taken back before is in both tables only if it has a result again, with another attempt.
    let moved_rows = format!(
        "job = ?1 AND {which} AND EXISTS (SELECT 1 FROM {table} AS t WHERE t.job = results.job \
         AND t.idx = results.idx AND t.attempt = results.attempt)"
    );
    sqlx::query(sqlx::AssertSqlSafe(format!(
        "UPDATE images SET errors = 0, losses = 0 WHERE job = ?1 AND idx IN (SELECT idx FROM results WHERE {moved_rows})"
    )))
    .bind(job)
    .bind(of)
    .execute(&mut *db)
    .await?;
    let shards = sqlx::query(sqlx::AssertSqlSafe(format!(
        "SELECT {SHARD_COLUMNS} FROM shards AS s WHERE s.job = ?1 AND s.state = 'done' AND s.key IN \
         (SELECT coalesce((SELECT c.key FROM shards AS o JOIN shards AS c ON c.cut_from = o.cut_from \
         WHERE o.key = results.shard AND results.idx BETWEEN c.first_index AND c.last_index), results.shard) \
         FROM results WHERE {moved_rows})"
    )))
    .bind(job)
    .bind(of)
    .fetch_all(&mut *db)
    .await?;
    sqlx::query(sqlx::AssertSqlSafe(format!("DELETE FROM results WHERE {moved_rows}")))
        .bind(job)
        .bind(of)
        .execute(&mut *db)
        .await?;
    for row in &shards {
        Shard::read(row)?.become_state(db, ShardState::Ready, now).await?;
    }
    Ok(moved)
}

/// After that: the counters, the state and the history. A deadline that a job met with its pictures does not end it now.
async fn run_again(
    db: &mut SqliteConnection,
    key: i64,
    job: &Job,
    taken: &Taken,
    images: u64,
    by: &By,
    now: Timestamp,
) -> Result<Job> {
    let state = match job.state {
        JobState::Running | JobState::Paused => job.state,
        JobState::Pending | JobState::Succeeded | JobState::Failed | JobState::Cancelled => {
            job.state.become_state(JobState::Running)?
        }
    };
    let images = signed(images, "images")?;
    let (failed, done, kind, detail) = match taken {
        Taken::Failed(class) => {
            (images, 0, EventKind::JobRetried, json!({ "images": images, "error_class": class }))
        }
        Taken::Done(_) => (0, images, EventKind::JobRequeued, json!({ "images": images })),
    };
    let row = sqlx::query(sqlx::AssertSqlSafe(format!(
        "UPDATE jobs SET failed = failed - ?2, done = done - ?3, state = ?4, finished_at = NULL, \
         deadline = CASE WHEN ?3 > 0 AND deadline <= ?5 THEN NULL ELSE deadline END WHERE key = ?1 \
         RETURNING {JOB_COLUMNS}"
    )))
    .bind(key)
    .bind(failed)
    .bind(done)
    .bind(state.word())
    .bind(time_text(now))
    .fetch_one(&mut *db)
    .await?;
    let event = Event { job: Some(key), detail: Some(detail), by: Some(by), ..Event::new(kind) };
    record(db, event, now).await?;
    read_job(&row)
}

pub(super) async fn hold_owner(
    store: &SqliteStore,
    owner: &str,
    held: bool,
    by: &By,
    now: Timestamp,
) -> Result<()> {
    let mut tx = store.write().await?;
    sqlx::query(
        "INSERT INTO owners (owner, held) VALUES (?1, ?2) ON CONFLICT (owner) DO UPDATE SET held = ?2",
    )
    .bind(owner)
    .bind(held)
    .execute(&mut *tx)
    .await?;
    let kind = if held { EventKind::OwnerHeld } else { EventKind::OwnerLetGo };
    let detail = json!({ "owner": owner });
    record(&mut tx, Event { detail: Some(detail), by: Some(by), ..Event::new(kind) }, now).await?;
    Ok(tx.commit().await?)
}

pub(super) async fn weigh_owner(
    store: &SqliteStore,
    owner: &str,
    weight: f64,
    by: &By,
    now: Timestamp,
) -> Result<()> {
    if !(weight.is_finite() && weight > 0.0) {
        return Err(Invalid::job(format!("weight {weight} is not above 0")).into());
    }
    let mut tx = store.write().await?;
    sqlx::query(
        "INSERT INTO owners (owner, weight) VALUES (?1, ?2) ON CONFLICT (owner) DO UPDATE SET weight = ?2",
    )
    .bind(owner)
    .bind(weight)
    .execute(&mut *tx)
    .await?;
    let detail = json!({ "owner": owner, "weight": weight });
    let event = Event { detail: Some(detail), by: Some(by), ..Event::new(EventKind::OwnerWeighed) };
    record(&mut tx, event, now).await?;
    Ok(tx.commit().await?)
}

//! What people change about jobs and owners.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use sqlx::PgConnection;

use super::PostgresStore;
use super::codec::{JOB_COLUMNS, Time, clean, job as read_job, signed};
use super::event::{Event, record};
use super::finish::{end, lock};
use super::shard_state::{Ending, give_back, lock_shards};
use crate::domain::Invalid;
use crate::domain::blame::ErrorClass;
use crate::domain::event::EventKind;
use crate::domain::id::JobId;
use crate::domain::spec::check_priority;
use crate::domain::state::{JobState, LeaseEnd};
use crate::store::Result;
use crate::store::records::{By, Change, Changed, Job};

pub(super) async fn change_job(
    store: &PostgresStore,
    job: &JobId,
    change: &Change,
    by: &By,
    now: Timestamp,
) -> Result<Changed> {
    let mut tx = store.begin(now).await?;
    let (key, found) = lock(&mut tx, job).await?;
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
            retried = retry(&mut tx, key, *class, now).await?;
            if retried > 0 { run_again(&mut tx, key, &found, retried, *class, by, now).await? } else { found }
        }
    };
    tx.commit().await?;
    Ok(Changed { job, retried })
}

/// Moves a job that goes on.
async fn become_state(
    db: &mut PgConnection,
    key: i64,
    job: &Job,
    to: JobState,
    kind: EventKind,
    by: &By,
    now: Timestamp,
) -> Result<Job> {
    let state = job.state.become_state(to)?;
    let row = sqlx::query(sqlx::AssertSqlSafe(format!(
        "UPDATE jobs SET state = $2, finished_at = NULL WHERE key = $1 RETURNING {JOB_COLUMNS}"
    )))
    .bind(key)
    .bind(state.word())
    .fetch_one(&mut *db)
    .await?;
    record(db, Event { job: Some(key), by: Some(by), ..Event::new(kind) }, now).await?;
    read_job(&row)
}

async fn prioritise(
    db: &mut PgConnection,
    key: i64,
    job: &Job,
    priority: i32,
    by: &By,
    now: Timestamp,
) -> Result<Job> {
    check_priority(priority)?;
    let row = sqlx::query(sqlx::AssertSqlSafe(format!(
        "UPDATE jobs SET priority = $2 WHERE key = $1 RETURNING {JOB_COLUMNS}"
    )))
    .bind(key)
    .bind(priority)
    .fetch_one(&mut *db)
    .await?;
    let detail = json!({ "from": job.priority, "to": priority });
    let event =
        Event { job: Some(key), detail: Some(detail), by: Some(by), ..Event::new(EventKind::JobPrioritised) };
    record(db, event, now).await?;
    read_job(&row)
}

/// Ends a job, which the transaction has locked, and its leases, at no cost.
pub(super) async fn cancel(
    db: &mut PgConnection,
    key: i64,
    job: &Job,
    by: &By,
    now: Timestamp,
) -> Result<Job> {
    revoke_leases(db, key, by, now).await?;
    end(db, key, job, JobState::Cancelled, EventKind::JobCancelled, Some(by), now).await
}

async fn revoke_leases(db: &mut PgConnection, job: i64, by: &By, now: Timestamp) -> Result<()> {
    let held: Vec<i64> = sqlx::query_scalar("SELECT shard FROM leases WHERE job = $1 AND ended_at IS NULL")
        .bind(job)
        .fetch_all(&mut *db)
        .await?;
    lock_shards(db, &held).await?;
    let end = Ending { by: Some(by), ..Ending::new(LeaseEnd::Revoked) };
    give_back(db, &held, end, Duration::ZERO, now).await?;
    Ok(())
}

/// Takes failures back: their images have no result again, and nothing is counted against them. Their shards are
/// ready with the attempts that they had, so that an old attempt stays old. How many there were.
async fn retry(db: &mut PgConnection, job: i64, class: Option<ErrorClass>, now: Timestamp) -> Result<u64> {
    let class = class.map(ErrorClass::word);
    let shards: Vec<i64> = sqlx::query_scalar(
        "SELECT DISTINCT holding_shard(shard, idx) FROM results WHERE job = $1 AND state = 'failed' \
         AND ($2::text IS NULL OR error_class = $2)",
    )
    .bind(job)
    .bind(class)
    .fetch_all(&mut *db)
    .await?;
    if shards.is_empty() {
        return Ok(0);
    }
    lock_shards(db, &shards).await?;
    sqlx::query(
        "INSERT INTO retried_results (job, idx, shard, attempt, session, device, render_seconds, error_class, \
         error, finished_at, retried_at) \
         SELECT job, idx, shard, attempt, session, device, render_seconds, error_class, error, finished_at, $3 \
         FROM results WHERE job = $1 AND state = 'failed' AND ($2::text IS NULL OR error_class = $2) \
         ON CONFLICT DO NOTHING",
    )
    .bind(job)
    .bind(class)
    .bind(Time(now))
    .execute(&mut *db)
    .await?;
    let retried = sqlx::query(
        "WITH taken AS (DELETE FROM results WHERE job = $1 AND state = 'failed' \
         AND ($2::text IS NULL OR error_class = $2) RETURNING job, idx, shard), \
         forgiven AS (UPDATE image_faults AS o SET errors = 0, losses = 0 FROM taken AS t \
         WHERE o.job = t.job AND o.idx = t.idx), \
         opened AS (UPDATE shards AS s SET remaining = s.remaining + t.images, \
         not_before = CASE WHEN s.state = 'done' THEN $3 ELSE s.not_before END, \
         state = CASE WHEN s.state = 'done' THEN 'ready' ELSE s.state END \
         FROM (SELECT holding_shard(shard, idx) AS shard, count(*)::integer AS images FROM taken GROUP BY 1) AS t WHERE s.key = t.shard) \
         SELECT count(*) AS retried FROM taken",
    )
    .bind(job)
    .bind(class)
    .bind(Time(now))
    .fetch_one(&mut *db)
    .await?;
    super::codec::unsigned(&retried, "retried")
}

/// After a retry: the counters, the state and the history.
async fn run_again(
    db: &mut PgConnection,
    key: i64,
    job: &Job,
    retried: u64,
    class: Option<ErrorClass>,
    by: &By,
    now: Timestamp,
) -> Result<Job> {
    let state = match job.state {
        JobState::Running | JobState::Paused => job.state,
        JobState::Pending | JobState::Succeeded | JobState::Failed | JobState::Cancelled => {
            job.state.become_state(JobState::Running)?
        }
    };
    let row = sqlx::query(sqlx::AssertSqlSafe(format!(
        "UPDATE jobs SET failed = failed - $2, state = $3, finished_at = NULL WHERE key = $1 \
         RETURNING {JOB_COLUMNS}"
    )))
    .bind(key)
    .bind(signed(retried, "images")?)
    .bind(state.word())
    .fetch_one(&mut *db)
    .await?;
    let detail = json!({ "images": retried, "error_class": class.map(ErrorClass::word) });
    let event =
        Event { job: Some(key), detail: Some(detail), by: Some(by), ..Event::new(EventKind::JobRetried) };
    record(db, event, now).await?;
    read_job(&row)
}

pub(super) async fn hold_owner(
    store: &PostgresStore,
    owner: &str,
    held: bool,
    by: &By,
    now: Timestamp,
) -> Result<()> {
    let mut tx = store.begin(now).await?;
    let owner = known_owner(&mut tx, owner).await?;
    sqlx::query("UPDATE owners SET held = $2 WHERE owner = $1")
        .bind(&owner)
        .bind(held)
        .execute(&mut *tx)
        .await?;
    let kind = if held { EventKind::OwnerHeld } else { EventKind::OwnerLetGo };
    let detail = json!({ "owner": owner });
    record(&mut tx, Event { detail: Some(detail), by: Some(by), ..Event::new(kind) }, now).await?;
    Ok(tx.commit().await?)
}

pub(super) async fn weigh_owner(
    store: &PostgresStore,
    owner: &str,
    weight: f64,
    by: &By,
    now: Timestamp,
) -> Result<()> {
    if !(weight.is_finite() && weight > 0.0) {
        return Err(Invalid::job(format!("weight {weight} is not above 0")).into());
    }
    let mut tx = store.begin(now).await?;
    let owner = known_owner(&mut tx, owner).await?;
    sqlx::query("UPDATE owners SET weight = $2 WHERE owner = $1")
        .bind(&owner)
        .bind(weight)
        .execute(&mut *tx)
        .await?;
    let detail = json!({ "owner": owner, "weight": weight });
    let event = Event { detail: Some(detail), by: Some(by), ..Event::new(EventKind::OwnerWeighed) };
    record(&mut tx, event, now).await?;
    Ok(tx.commit().await?)
}

/// Makes sure that the owner has a row.
async fn known_owner(db: &mut PgConnection, owner: &str) -> Result<String> {
    let owner = clean(owner).into_owned();
    sqlx::query("INSERT INTO owners (owner) VALUES ($1) ON CONFLICT DO NOTHING")
        .bind(&owner)
        .execute(db)
        .await?;
    Ok(owner)
}

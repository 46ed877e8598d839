//! What people change about jobs and owners.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{PgConnection, Postgres, Row};

use super::codec::{JOB_COLUMNS, Time, clean, job as read_job, signed};
use super::event::{Event, record};
use super::finish::{end, lock};
use super::shard_state::{Ending, give_back, lock_shards};
use super::{PostgresStore, archives};
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
                let none = Taken::Done(Vec::new());
                run_again(&mut tx, key, &found, &none, 0, by, now).await?
            }
            JobState::Pending | JobState::Running | JobState::Paused | JobState::Cancelled => found,
        },
        Change::Requeue(indices) => {
            let indices = indices.iter().filter_map(|index| i64::try_from(*index).ok()).collect();
            let done = Taken::Done(archives::withdraw(&mut tx, key, indices).await?);
            retried = take_back(&mut tx, key, &done, now).await?;
            if retried > 0 { run_again(&mut tx, key, &found, &done, retried, by, now).await? } else { found }
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

/// Results that are taken back.
enum Taken {
    /// Failures, of one class or of all.
    Failed(Option<&'static str>),
    /// Pictures of these images, whose objects are lost or damaged.
    Done(Vec<i64>),
}

impl Taken {
    /// Which results they are; `$2` says more.
    fn which(&self) -> &'static str {
        match self {
            Self::Failed(_) => "state = 'failed' AND ($2::text IS NULL OR error_class = $2)",
            Self::Done(_) => "state = 'done' AND idx = ANY ($2::bigint[])",
        }
    }

    /// A statement about them.
    fn query(&self, sql: impl FnOnce(&str) -> String, job: i64) -> Query<'_, Postgres, PgArguments> {
        let query = sqlx::query(sqlx::AssertSqlSafe(sql(self.which()))).bind(job);
        match self {
            Self::Failed(class) => query.bind(*class),
            Self::Done(indices) => query.bind(indices),
        }
    }

    /// Writes them down.
    fn written_down(&self, which: &str) -> String {
        const BOTH: &str = "job, idx, shard, attempt, session, device, render_seconds, finished_at";
        let (table, at, more) = match self {
            Self::Failed(_) => ("retried_results", "retried_at", "error_class, error"),
            Self::Done(_) => ("requeued_results", "requeued_at", "bytes, sha256, recipe, decode_seconds"),
        };
        format!(
            "INSERT INTO {table} ({BOTH}, {more}, {at}) SELECT {BOTH}, {more}, $3 FROM results \
             WHERE job = $1 AND {which} ON CONFLICT DO NOTHING"
        )
    }
}

/// Takes results back: their images have none again, and nothing is counted against them. Their shards are ready with
/// the attempts that they had, so that an old attempt stays old. How many there were.
async fn take_back(db: &mut PgConnection, job: i64, taken: &Taken, now: Timestamp) -> Result<u64> {
    let shards = taken
        .query(
            |which| {
                format!(
                    "SELECT DISTINCT holding_shard(shard, idx) AS shard FROM results WHERE job = $1 AND {which}"
                )
            },
            job,
        )
        .fetch_all(&mut *db)
        .await?;
    if shards.is_empty() {
        return Ok(0);
    }
    let shards = shards.iter().map(|row| Ok(row.try_get("shard")?)).collect::<Result<Vec<i64>>>()?;
    lock_shards(db, &shards).await?;
    taken.query(|which| taken.written_down(which), job).bind(Time(now)).execute(&mut *db).await?;
    let retried = taken
        .query(
            |which| {
                format!(
                    "WITH taken AS (DELETE FROM results WHERE job = $1 AND {which} \
                     RETURNING job, idx, shard, attempt, state), \
                     forgiven AS (UPDATE image_faults AS o SET errors = 0, losses = 0 FROM taken AS t \
                     WHERE o.job = t.job AND o.idx = t.idx), \
                     less AS (UPDATE leases AS l SET done = l.done - t.images FROM (SELECT shard, attempt, \
                     count(*)::integer AS images FROM taken WHERE state = 'done' GROUP BY 1, 2) AS t \
                     WHERE l.shard = t.shard AND l.attempt = t.attempt), \
                     opened AS (UPDATE shards AS s SET remaining = s.remaining + t.images, \
                     not_before = CASE WHEN s.state = 'done' THEN $3 ELSE s.not_before END, \
                     state = CASE WHEN s.state = 'done' THEN 'ready' ELSE s.state END \
                     FROM (SELECT holding_shard(shard, idx) AS shard, count(*)::integer AS images FROM taken \
                     GROUP BY 1) AS t WHERE s.key = t.shard) \
                     SELECT count(*) AS retried FROM taken"
                )
            },
            job,
        )
        .bind(Time(now))
        .fetch_one(&mut *db)
        .await?;
    super::codec::unsigned(&retried, "retried")
}

/// After that: the counters, the state and the history. A deadline that a job met with its pictures does not end it now.
async fn run_again(
    db: &mut PgConnection,
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
        "UPDATE jobs SET failed = failed - $2, done = done - $3, state = $4, finished_at = NULL, \
         deadline = CASE WHEN $3 > 0 AND deadline <= $5 THEN NULL ELSE deadline END WHERE key = $1 \
         RETURNING {JOB_COLUMNS}"
    )))
    .bind(key)
    .bind(failed)
    .bind(done)
    .bind(state.word())
    .bind(Time(now))
    .fetch_one(&mut *db)
    .await?;
    let event = Event { job: Some(key), detail: Some(detail), by: Some(by), ..Event::new(kind) };
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

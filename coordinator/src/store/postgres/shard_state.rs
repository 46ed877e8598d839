//! Moves of a shard and its lease that several duties share.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgConnection, Row};

use super::codec::{Time, clean, small, uuid};
use super::event::{Event, record};
use crate::domain::blame::{self, ErrorClass};
use crate::domain::event::EventKind;
use crate::domain::id::ShardId;
use crate::domain::state::LeaseEnd;
use crate::store::records::By;
use crate::store::{Error, Result};

/// How and why a lease ends.
#[derive(Clone, Debug)]
pub(super) struct Ending<'a> {
    pub end: LeaseEnd,
    pub detail: Option<Value>,
    /// Who wanted it; none for what the worker did.
    pub by: Option<&'a By>,
    /// Why, as the worker said.
    pub reason: &'a str,
}

impl Ending<'_> {
    /// With nothing else told.
    pub fn new(end: LeaseEnd) -> Self {
        Self { end, detail: None, by: None, reason: "" }
    }
}

/// A shard as the transaction sees it.
#[derive(Clone, Debug)]
pub(super) struct Shard {
    pub key: i64,
    pub job: i64,
    pub group: i32,
    pub first: i64,
    pub last: i64,
    pub attempt: i32,
    /// The oldest of the shards that were one once, if it was cut.
    pub cut_from: Option<i64>,
}

/// Columns that [`Shard::read`] wants of a table `s`.
pub(super) const SHARD_COLUMNS: &str = "s.key AS shard_key, s.job AS job_key, s.group_no, s.first_index, s.last_index, s.attempt AS newest_attempt, s.cut_from";

impl Shard {
    pub fn read(row: &PgRow) -> Result<Self> {
        Ok(Self {
            key: row.try_get("shard_key")?,
            job: row.try_get("job_key")?,
            group: row.try_get("group_no")?,
            first: row.try_get("first_index")?,
            last: row.try_get("last_index")?,
            attempt: row.try_get("newest_attempt")?,
            cut_from: row.try_get("cut_from")?,
        })
    }

    /// Locks the shard with this id.
    pub async fn lock(db: &mut PgConnection, id: &ShardId) -> Result<Self> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "SELECT {SHARD_COLUMNS} FROM shards AS s WHERE s.id = $1 FOR NO KEY UPDATE"
        )))
        .bind(uuid(id.as_str()))
        .fetch_optional(db)
        .await?;
        match row {
            Some(row) => Self::read(&row),
            None => Err(Error::NotFound { what: "shard", id: id.to_string() }),
        }
    }

    /// The same for who commits results: they are counted at the job, which is locked first.
    pub async fn lock_with_job(db: &mut PgConnection, id: &ShardId) -> Result<Self> {
        sqlx::query("SELECT FROM jobs WHERE key = (SELECT job FROM shards WHERE id = $1) FOR NO KEY UPDATE")
            .bind(uuid(id.as_str()))
            .execute(&mut *db)
            .await?;
        Self::lock(db, id).await
    }

    /// The shard that has an image now which was one of this shard's, locked. The transaction has locked the job.
    pub async fn holding(&self, db: &mut PgConnection, index: i64) -> Result<Self> {
        if self.cut_from.is_none() || (self.first..=self.last).contains(&index) {
            return Ok(self.clone());
        }
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "SELECT {SHARD_COLUMNS} FROM shards AS s WHERE s.key = holding_shard($1, $2) FOR NO KEY UPDATE"
        )))
        .bind(self.key)
        .bind(index)
        .fetch_one(db)
        .await?;
        Self::read(&row)
    }

    /// How long it waits after errors: by the most that one of its open images has. Never zero, so that a worker
    /// that reports nothing cannot spin.
    pub async fn retry_delay(&self, db: &mut PgConnection) -> Result<Duration> {
        let row = sqlx::query(
            "SELECT coalesce(max(o.errors), 0) AS errors FROM image_faults AS o \
             WHERE o.job = $1 AND o.idx BETWEEN $3 AND $4 \
             AND EXISTS (SELECT FROM images AS i WHERE i.job = $1 AND i.idx = o.idx AND i.group_no = $2 OFFSET 0) \
             AND NOT EXISTS (SELECT FROM results AS r WHERE r.job = $1 AND r.idx = o.idx OFFSET 0)",
        )
        .bind(self.job)
        .bind(self.group)
        .bind(self.first)
        .bind(self.last)
        .fetch_one(db)
        .await?;
        Ok(blame::retry_delay(small(&row, "errors")?.max(1)))
    }
}

/// Locks shards by their keys, and then the leases that are held on them, in order.
pub(super) async fn lock_shards(db: &mut PgConnection, shards: &[i64]) -> Result<()> {
    sqlx::query("SELECT FROM shards WHERE key = ANY ($1) ORDER BY key FOR NO KEY UPDATE")
        .bind(shards)
        .execute(&mut *db)
        .await?;
    sqlx::query(
        "SELECT FROM leases WHERE shard = ANY ($1) AND ended_at IS NULL ORDER BY shard FOR NO KEY UPDATE",
    )
    .bind(shards)
    .execute(db)
    .await?;
    Ok(())
}

/// Ends the leases on these shards, which the transaction has locked, and makes those ready again that have images
/// without a result. `delay` is how long they wait before they may be leased again. The number of leases.
pub(super) async fn give_back(
    db: &mut PgConnection,
    shards: &[i64],
    end: Ending<'_>,
    delay: Duration,
    now: Timestamp,
) -> Result<u64> {
    let not_before = now.saturating_add(delay).map_err(|error| Error::Corrupt(error.to_string()))?;
    let told = sqlx::query(
        "WITH ended AS (UPDATE leases SET ended_at = $3, outcome = $2 WHERE shard = ANY ($1) AND ended_at IS NULL \
         RETURNING job, shard, attempt, session), \
         freed AS (UPDATE shards AS s SET state = 'ready', not_before = $4 FROM ended AS e \
         WHERE s.key = e.shard AND s.state = 'leased') \
         INSERT INTO events (at, kind, job, shard, attempt, session, detail, actor, reason) \
         SELECT $3, 'lease_' || $2, job, shard, attempt, session, $5, $6, $7 FROM ended ORDER BY shard",
    )
    .bind(shards)
    .bind(end.end.word())
    .bind(Time(now))
    .bind(Time(not_before))
    .bind(Json(end.detail.unwrap_or_else(|| json!({}))))
    .bind(end.by.map(|by| clean(by.named())))
    .bind(Some(clean(end.by.map_or(end.reason, |by| &by.reason))).filter(|reason| !reason.is_empty()))
    .execute(db)
    .await?;
    Ok(told.rows_affected())
}

/// Ends the lease on a shard whose images all have their result, whoever holds it: there is nothing left to do under
/// it.
pub(super) async fn settle(db: &mut PgConnection, shard: i64, now: Timestamp) -> Result<()> {
    let done = sqlx::query("SELECT FROM shards WHERE key = $1 AND state = 'done'")
        .bind(shard)
        .fetch_optional(&mut *db)
        .await?
        .is_some();
    if done {
        give_back(db, &[shard], Ending::new(LeaseEnd::Finished), Duration::ZERO, now).await?;
    }
    Ok(())
}

/// An image that is given up.
#[derive(Debug)]
pub(super) struct Failure<'a> {
    pub index: i64,
    /// The shard that it was leased with.
    pub shard: i64,
    pub attempt: i32,
    pub session: Option<i64>,
    pub device: &'a str,
    pub class: ErrorClass,
    pub error: &'a str,
    pub render_seconds: Option<f64>,
    /// Who gives it up; none for the worker that reports it.
    pub by: Option<&'a By>,
}

/// Commits the failure as the result of an image that `shard` has now. The transaction has locked the job and the shard,
/// and seen that there is none.
pub(super) async fn fail_image(
    db: &mut PgConnection,
    shard: &Shard,
    failure: &Failure<'_>,
    now: Timestamp,
) -> Result<()> {
    let error = clean(failure.error);
    sqlx::query(
        "WITH failed AS (INSERT INTO results (job, idx, state, shard, attempt, session, device, render_seconds, \
         error_class, error, finished_at) VALUES ($1, $2, 'failed', $3, $4, $5, $6, $7, $8, $9, $10)), \
         counted AS (UPDATE jobs SET failed = failed + 1 WHERE key = $1) \
         UPDATE shards SET remaining = remaining - 1, state = CASE WHEN remaining = 1 THEN 'done' ELSE state END \
         WHERE key = $11",
    )
    .bind(shard.job)
    .bind(failure.index)
    .bind(failure.shard)
    .bind(failure.attempt)
    .bind(failure.session)
    .bind(&*clean(failure.device))
    .bind(failure.render_seconds)
    .bind(failure.class.word())
    .bind(&*error)
    .bind(Time(now))
    .bind(shard.key)
    .execute(&mut *db)
    .await?;
    let event = Event {
        job: Some(shard.job),
        shard: Some(failure.shard),
        index: Some(failure.index),
        attempt: Some(failure.attempt),
        session: failure.session,
        detail: Some(json!({ "error_class": failure.class.word(), "error": error })),
        by: failure.by,
        ..Event::new(EventKind::ImageFailed)
    };
    record(db, event, now).await
}

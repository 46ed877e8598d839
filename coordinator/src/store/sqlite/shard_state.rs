//! Moves of a shard and its lease that several duties share.

use jiff::Timestamp;
use serde_json::Value;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use super::codec::{small, time_text, word};
use super::event::{Event, record};
use crate::domain::blame::{self, ErrorClass};
use crate::domain::event::EventKind;
use crate::domain::id::ShardId;
use crate::domain::state::{LeaseEnd, ShardState};
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
    pub group: i64,
    pub first: i64,
    pub last: i64,
    pub state: ShardState,
    pub attempt: u32,
    /// The oldest of the shards that were one once, if it was cut.
    pub cut_from: Option<i64>,
}

/// Columns that [`Shard::read`] wants of a table `s`.
pub(super) const SHARD_COLUMNS: &str = "s.key AS shard_key, s.job AS job_key, s.group_no, s.first_index, s.last_index, s.state AS shard_state, \
     s.attempt, s.cut_from";

impl Shard {
    pub fn read(row: &SqliteRow) -> Result<Self> {
        Ok(Self {
            key: row.try_get("shard_key")?,
            job: row.try_get("job_key")?,
            group: row.try_get("group_no")?,
            first: row.try_get("first_index")?,
            last: row.try_get("last_index")?,
            state: word(row, "shard_state")?,
            attempt: small(row, "attempt")?,
            cut_from: row.try_get("cut_from")?,
        })
    }

    /// The shard with this id.
    pub async fn find(db: &mut SqliteConnection, id: &ShardId) -> Result<Self> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "SELECT {SHARD_COLUMNS} FROM shards AS s WHERE s.id = ?"
        )))
        .bind(id.as_str())
        .fetch_optional(db)
        .await?;
        match row {
            Some(row) => Self::read(&row),
            None => Err(Error::NotFound { what: "shard", id: id.to_string() }),
        }
    }

    /// The shard that has an image now which was one of this shard's, if that is another.
    pub async fn cut_off(&self, db: &mut SqliteConnection, index: i64) -> Result<Option<Self>> {
        if self.cut_from.is_none() || (self.first..=self.last).contains(&index) {
            return Ok(None);
        }
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "SELECT {SHARD_COLUMNS} FROM shards AS s WHERE s.cut_from = ?1 AND ?2 BETWEEN s.first_index AND s.last_index"
        )))
        .bind(self.cut_from)
        .bind(index)
        .fetch_optional(db)
        .await?;
        row.map(|row| Self::read(&row)).transpose()
    }

    /// An image of it has no result yet.
    pub async fn has_work(&self, db: &mut SqliteConnection) -> Result<bool> {
        let row = sqlx::query(
            "SELECT EXISTS (SELECT 1 FROM images AS i INDEXED BY images_by_group WHERE i.job = ?1 AND i.group_no = ?2 \
             AND i.idx BETWEEN ?3 AND ?4 \
             AND NOT EXISTS (SELECT 1 FROM results AS r WHERE r.job = i.job AND r.idx = i.idx)) AS work",
        )
        .bind(self.job)
        .bind(self.group)
        .bind(self.first)
        .bind(self.last)
        .fetch_one(db)
        .await?;
        Ok(row.try_get("work")?)
    }

    /// Moves it; `not_before` is when it may be leased again.
    pub async fn become_state(
        &mut self,
        db: &mut SqliteConnection,
        to: ShardState,
        not_before: Timestamp,
    ) -> Result<()> {
        self.state = self.state.become_state(to)?;
        sqlx::query("UPDATE shards SET state = ?, not_before = ? WHERE key = ?")
            .bind(self.state.word())
            .bind(time_text(not_before))
            .bind(self.key)
            .execute(db)
            .await?;
        Ok(())
    }

    /// Marks it done when every image of it has a result, and ends the lease on it, whoever holds it: there is
    /// nothing left to do under it. Whether it is done.
    pub async fn settle(&mut self, db: &mut SqliteConnection, now: Timestamp) -> Result<bool> {
        if self.state == ShardState::Done {
            return Ok(true);
        }
        if self.has_work(db).await? {
            return Ok(false);
        }
        if let Some(held) = HeldBy::find(db, self.key).await? {
            held.end(db, self, Ending::new(LeaseEnd::Finished), now).await?;
        }
        self.become_state(db, ShardState::Done, now).await?;
        Ok(true)
    }

    /// Ends the lease on it and makes it ready again, or done when all its images have their result.
    /// `delay` is how long it waits before it may be leased again.
    pub async fn give_back(
        &mut self,
        db: &mut SqliteConnection,
        held: &HeldBy,
        end: Ending<'_>,
        delay: std::time::Duration,
        now: Timestamp,
    ) -> Result<()> {
        held.end(db, self, end, now).await?;
        let to = if self.has_work(db).await? { ShardState::Ready } else { ShardState::Done };
        let not_before = now.saturating_add(delay).map_err(|error| Error::Corrupt(error.to_string()))?;
        self.become_state(db, to, not_before).await
    }

    /// How long it waits after errors: by the most that one of its open images has. Never zero, so that a worker
    /// that reports nothing cannot spin.
    pub async fn retry_delay(&self, db: &mut SqliteConnection) -> Result<std::time::Duration> {
        let row = sqlx::query(
            "SELECT coalesce(max(i.errors), 0) AS errors FROM images AS i INDEXED BY images_by_group WHERE i.job = ?1 AND i.group_no = ?2 \
             AND i.idx BETWEEN ?3 AND ?4 \
             AND NOT EXISTS (SELECT 1 FROM results AS r WHERE r.job = i.job AND r.idx = i.idx)",
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

/// The lease that is held on a shard now.
#[derive(Clone, Debug)]
pub(super) struct HeldBy {
    pub attempt: u32,
    pub session: i64,
    /// Indices that were being rendered at the last renewal.
    pub rendering: Vec<i64>,
}

impl HeldBy {
    /// Who holds the shard.
    pub async fn find(db: &mut SqliteConnection, shard: i64) -> Result<Option<Self>> {
        let row = sqlx::query(
            "SELECT attempt, session, rendering FROM leases WHERE shard = ? AND ended_at IS NULL",
        )
        .bind(shard)
        .fetch_optional(db)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let attempt = small(&row, "attempt")?;
        let rendering: &str = row.try_get("rendering")?;
        let rendering = serde_json::from_str(rendering).unwrap_or_else(|error| {
            // A lease must end whatever stands here: nothing is charged for it, and the others go on.
            tracing::error!(shard, attempt, rendering, %error, "unreadable indices in a lease");
            Vec::new()
        });
        Ok(Some(Self { attempt, session: row.try_get("session")?, rendering }))
    }

    async fn end(
        &self,
        db: &mut SqliteConnection,
        shard: &Shard,
        end: Ending<'_>,
        now: Timestamp,
    ) -> Result<()> {
        sqlx::query("UPDATE leases SET ended_at = ?, outcome = ? WHERE shard = ? AND attempt = ?")
            .bind(time_text(now))
            .bind(end.end.word())
            .bind(shard.key)
            .bind(self.attempt)
            .execute(&mut *db)
            .await?;
        let event = Event {
            job: Some(shard.job),
            shard: Some(shard.key),
            attempt: Some(i64::from(self.attempt)),
            session: Some(self.session),
            detail: end.detail,
            by: end.by,
            reason: end.reason,
            ..Event::new(end.end.into())
        };
        record(db, event, now).await
    }
}

/// An image that is given up.
#[derive(Debug)]
pub(super) struct Failure<'a> {
    pub index: i64,
    pub attempt: u32,
    pub session: Option<i64>,
    pub device: &'a str,
    pub class: ErrorClass,
    pub error: &'a str,
    pub render_seconds: Option<f64>,
    /// Who gives it up; none for the worker that reports it.
    pub by: Option<&'a By>,
}

/// Commits the failure as the image's result.
pub(super) async fn fail_image(
    db: &mut SqliteConnection,
    shard: &Shard,
    failure: &Failure<'_>,
    now: Timestamp,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO results (job, idx, state, shard, attempt, session, device, render_seconds, error_class, \
         error, finished_at) VALUES (?, ?, 'failed', ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(shard.job)
    .bind(failure.index)
    .bind(shard.key)
    .bind(failure.attempt)
    .bind(failure.session)
    .bind(failure.device)
    .bind(failure.render_seconds)
    .bind(failure.class.word())
    .bind(failure.error)
    .bind(time_text(now))
    .execute(&mut *db)
    .await?;
    sqlx::query("UPDATE jobs SET failed = failed + 1 WHERE key = ?")
        .bind(shard.job)
        .execute(&mut *db)
        .await?;
    let event = Event {
        job: Some(shard.job),
        shard: Some(shard.key),
        index: Some(failure.index),
        attempt: Some(i64::from(failure.attempt)),
        session: failure.session,
        detail: Some(serde_json::json!({ "error_class": failure.class.word(), "error": failure.error })),
        by: failure.by,
        ..Event::new(EventKind::ImageFailed)
    };
    record(db, event, now).await
}

//! The end of a job: shards that are cut, and images that two workers render.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use sqlx::{Row, SqliteConnection};
use uuid::Uuid;

use super::SqliteStore;
use super::codec::{small, time, time_text, unsigned};
use super::event::{Event, record};
use super::lease::{OPEN, READY, open_job, take};
use super::session::{is_leaving, open_key, seen};
use super::shard_state::{Ending, HeldBy, Shard};
use super::standing;
use crate::domain::event::EventKind;
use crate::domain::id::{SessionId, ShardId};
use crate::domain::state::{LeaseEnd, ShardState};
use crate::domain::tail::{Held, Part, Share, TAKEN_OVER};
use crate::store::Result;
use crate::store::records::{By, Lease, Tail};

/// An image `i` of a shard `s` that has no result.
const OPEN_IMAGE: &str = "i.job = s.job AND i.group_no = s.group_no AND i.idx >= s.first_index \
    AND i.idx <= s.last_index AND NOT EXISTS (SELECT 1 FROM results AS r WHERE r.job = i.job AND r.idx = i.idx)";

/// A row for each lease of a job that has nothing to give. What its images took is told by the last hundred of them.
pub(super) async fn tails(store: &SqliteStore, now: Timestamp) -> Result<Vec<Tail>> {
    let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
        "SELECT j.id, j.owner, coalesce(o.weight, 1.0) AS weight, j.model, j.priority, j.needs, j.sealed_at, j.deadline, \
         j.width, j.height, j.steps, j.guidance, j.bin, j.decode, \
         (SELECT avg(r.render_seconds) FROM (SELECT r.render_seconds FROM results AS r \
         WHERE r.job = j.key AND r.state = 'done' ORDER BY r.idx DESC LIMIT 100) AS r) AS pace, \
         s.id AS shard, s.images AS leased_images, l.attempt, l.granted_at, \
         (SELECT count(*) FROM images AS i INDEXED BY images_by_group WHERE {OPEN_IMAGE}) AS remaining, \
         (SELECT count(*) FROM images AS i INDEXED BY images_by_group JOIN results AS r ON r.job = i.job \
         AND r.idx = i.idx WHERE i.job = s.job AND i.group_no = s.group_no AND i.idx >= s.first_index \
         AND i.idx <= s.last_index AND r.shard = s.key AND r.attempt = l.attempt) AS done, \
         (SELECT count(*) FROM json_each(l.rendering) AS i WHERE NOT EXISTS \
         (SELECT 1 FROM results AS r WHERE r.job = j.key AND r.idx = i.value)) AS rendering, \
         EXISTS (SELECT 1 FROM leases AS p WHERE p.shard = l.shard AND p.attempt = l.attempt - 1 \
         AND p.outcome = 'revoked') AS is_second \
         FROM jobs AS j LEFT JOIN owners AS o ON o.owner = j.owner \
         JOIN leases AS l ON l.job = j.key AND l.ended_at IS NULL JOIN shards AS s ON s.key = l.shard \
         WHERE {OPEN} AND coalesce(o.held, 0) = 0 AND NOT EXISTS (SELECT 1 FROM shards AS s WHERE {READY}) \
         ORDER BY j.key, s.key"
    )))
    .bind(time_text(now))
    .fetch_all(&store.reader)
    .await?;
    let mut tails: Vec<Tail> = Vec::new();
    for row in &rows {
        let job: &str = row.try_get("id")?;
        if tails.last().is_none_or(|tail| tail.job.id.as_str() != job) {
            tails.push(Tail { job: open_job(row)?, pace: row.try_get("pace")?, held: Vec::new() });
        }
        if let Some(tail) = tails.last_mut() {
            let granted_at = time(row.try_get("granted_at")?)?;
            tail.job.leased_at = tail.job.leased_at.max(Some(granted_at));
            tail.job.leased_images += unsigned(row, "leased_images")?;
            tail.held.push(Held {
                shard: ShardId::from(row.try_get::<String, _>("shard")?),
                attempt: small(row, "attempt")?,
                // None, when the clock was set back.
                held_for: Duration::try_from(now.duration_since(granted_at)).unwrap_or_default(),
                done: unsigned(row, "done")?,
                remaining: unsigned(row, "remaining")?,
                rendering: unsigned(row, "rendering")?,
                is_second: row.try_get("is_second")?,
            });
        }
    }
    Ok(tails)
}

pub(super) async fn idle(store: &SqliteStore, sessions: &[SessionId]) -> Result<Vec<SessionId>> {
    let ids: Vec<&str> = sessions.iter().map(SessionId::as_str).collect();
    let rows = sqlx::query(
        "SELECT w.id FROM json_each(?) AS n CROSS JOIN sessions AS w ON w.id = n.value WHERE w.closed_at IS NULL \
         AND w.drain IS NULL AND w.leaving IS NULL \
         AND NOT EXISTS (SELECT 1 FROM leases AS l WHERE l.session = w.key AND l.ended_at IS NULL)",
    )
    .bind(json!(ids).to_string())
    .fetch_all(&store.reader)
    .await?;
    rows.iter().map(|row| Ok(SessionId::from(row.try_get::<String, _>("id")?))).collect()
}

pub(super) async fn take_over(
    store: &SqliteStore,
    session: &SessionId,
    share: &Share,
    duration: Duration,
    now: Timestamp,
) -> Result<Option<Lease>> {
    let mut tx = store.write().await?;
    let key = open_key(&mut tx, session).await?;
    seen(&mut tx, key, now).await?;
    if standing::is_excluded(&mut tx, key, now).await? || is_leaving(&mut tx, key).await? {
        return Ok(None);
    }
    let mut shard = Shard::find(&mut tx, &share.shard).await?;
    let held = HeldBy::find(&mut tx, shard.key).await?;
    let Some(held) = held.filter(|held| held.attempt == share.attempt && held.session != key) else {
        return Ok(None);
    };
    let taken = match share.part {
        Part::Last(images) => cut(&mut tx, &shard, &held, images, now).await?,
        Part::Whole => {
            // What that worker has in hand it may finish: its results count if they come first.
            let by = By::farm(TAKEN_OVER);
            let end = Ending { by: Some(&by), ..Ending::new(LeaseEnd::Revoked) };
            shard.give_back(&mut tx, &held, end, Duration::ZERO, now).await?;
            (shard.state == ShardState::Ready).then_some(shard.key)
        }
    };
    let Some(taken) = taken else { return Ok(None) };
    let lease = take(&mut tx, taken, key, duration, now).await?;
    if lease.is_some() {
        tx.commit().await?;
    }
    Ok(lease)
}

/// Cuts a shard that is held in two: the last images that have no result and are not being rendered, as many as
/// `images`, are a shard of their own then. Its key; none when there are none any more.
async fn cut(
    db: &mut SqliteConnection,
    shard: &Shard,
    held: &HeldBy,
    images: u64,
    now: Timestamp,
) -> Result<Option<i64>> {
    // Who holds it keeps its first image that has no result, and those in hand.
    let open: Vec<i64> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
        "SELECT i.idx FROM shards AS s CROSS JOIN images AS i INDEXED BY images_by_group \
         WHERE s.key = ? AND {OPEN_IMAGE} ORDER BY i.idx LIMIT -1 OFFSET 1"
    )))
    .bind(shard.key)
    .fetch_all(&mut *db)
    .await?;
    let in_hand = held.rendering.iter().filter(|index| **index <= shard.last).max().copied().unwrap_or(-1);
    let taken = open.into_iter().rev().take(images as usize).take_while(|index| *index > in_hand);
    let Some(first) = taken.last() else { return Ok(None) };
    let size: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM images AS i INDEXED BY images_by_group WHERE i.job = ?1 AND i.group_no = ?2 \
         AND i.idx BETWEEN ?3 AND ?4",
    )
    .bind(shard.job)
    .bind(shard.group)
    .bind(first)
    .bind(shard.last)
    .fetch_one(&mut *db)
    .await?;
    let root = shard.cut_from.unwrap_or(shard.key);
    sqlx::query("UPDATE shards SET last_index = ?2 - 1, images = images - ?3, cut_from = ?4 WHERE key = ?1")
        .bind(shard.key)
        .bind(first)
        .bind(size)
        .bind(root)
        .execute(&mut *db)
        .await?;
    let part = Uuid::now_v7().to_string();
    let key: i64 = sqlx::query_scalar(
        "INSERT INTO shards (id, job, group_no, first_index, last_index, images, attempt, not_before, cut_from, cut_off) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING key",
    )
    .bind(&part)
    .bind(shard.job)
    .bind(shard.group)
    .bind(first)
    .bind(shard.last)
    .bind(size)
    .bind(shard.attempt)
    .bind(time_text(now))
    .bind(root)
    .bind(shard.key)
    .fetch_one(&mut *db)
    .await?;
    let event = Event {
        job: Some(shard.job),
        shard: Some(shard.key),
        attempt: Some(i64::from(held.attempt)),
        session: Some(held.session),
        detail: Some(json!({ "first_index": first, "images": size, "shard": part })),
        by: Some(&By::farm("")),
        ..Event::new(EventKind::ShardCut)
    };
    record(db, event, now).await?;
    Ok(Some(key))
}

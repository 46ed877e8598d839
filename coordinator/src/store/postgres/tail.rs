//! The end of a job: shards that are cut, and images that two workers render.

use std::time::Duration;

use jiff::Timestamp;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::PostgresStore;
use super::codec::{Time, expiry, id, small, time, unsigned, uuid};
use super::event::{Event, record};
use super::lease::{Given, open_job, read_given, read_images};
use super::session::{attempt, find, not_found};
use super::shard_state::{Ending, Shard, give_back, lock_shards};
use super::trouble::retried;
use crate::domain::event::EventKind;
use crate::domain::id::SessionId;
use crate::domain::state::LeaseEnd;
use crate::domain::tail::{Held, Part, Share, TAKEN_OVER};
use crate::store::records::{By, Lease, Tail};
use crate::store::{Error, Result};

/// A row for each lease of a job that has nothing to give. What its images took is told by some of its shard and of those
/// before it: a range of indices is found by its key, whatever the planner believes of a job that came in lately.
pub(super) const TAILS: &str = "\
    WITH tails AS MATERIALIZED (SELECT j.*, coalesce(o.weight, 1.0) AS weight \
        FROM jobs AS j LEFT JOIN owners AS o ON o.owner = j.owner \
        WHERE j.state = 'running' AND j.sealed_at IS NOT NULL AND (j.deadline IS NULL OR j.deadline > $1) \
            AND NOT coalesce(o.held, false) \
            AND NOT EXISTS (SELECT FROM shards AS w \
                WHERE w.job = j.key AND w.state = 'ready' AND w.not_before <= $1 OFFSET 0)), \
    held AS MATERIALIZED (SELECT l.* FROM tails AS j JOIN leases AS l ON l.job = j.key AND l.ended_at IS NULL) \
    SELECT j.id, j.owner, j.weight, j.model, j.priority, j.needs, j.sealed_at, j.deadline, \
        j.width, j.height, j.steps, j.guidance, j.bin, j.decode, \
        s.id AS shard, s.remaining, l.attempt, l.granted_at, l.done::bigint AS done, l.images::bigint AS leased_images, \
        (SELECT avg(r.render_seconds) FROM (SELECT r.render_seconds FROM results AS r \
            WHERE r.job = l.job AND r.idx BETWEEN s.first_index - 64 AND s.last_index AND r.state = 'done' \
            LIMIT 8) AS r) AS pace, \
        (SELECT count(*) FROM unnest(l.rendering) AS i (idx) WHERE NOT EXISTS \
            (SELECT FROM results AS r WHERE r.job = l.job AND r.idx = i.idx OFFSET 0)) AS rendering, \
        EXISTS (SELECT FROM leases AS p WHERE p.shard = l.shard AND p.attempt = l.attempt - 1 \
            AND p.outcome = 'revoked' OFFSET 0) AS is_second \
    FROM tails AS j JOIN held AS l ON l.job = j.key \
    CROSS JOIN LATERAL (SELECT s.key, s.id, s.first_index, s.last_index, s.remaining::bigint AS remaining \
        FROM shards AS s WHERE s.key = l.shard OFFSET 0) AS s \
    ORDER BY j.key, s.key";

pub(super) async fn tails(store: &PostgresStore, now: Timestamp) -> Result<Vec<Tail>> {
    // Planned anew each time, by the size that the tables have now.
    let rows = sqlx::query(TAILS).bind(Time(now)).persistent(false).fetch_all(&store.pool).await?;
    let mut paces: Vec<f64> = Vec::new();
    let mut tails: Vec<Tail> = Vec::new();
    for row in &rows {
        let job = id(row, "id")?;
        if tails.last().is_none_or(|tail| tail.job.id != job) {
            tails.push(Tail { job: open_job(row)?, pace: None, held: Vec::new() });
            paces.clear();
        }
        if let Some(tail) = tails.last_mut() {
            let held = held(row, now)?;
            paces.extend(row.try_get::<Option<f64>, _>("pace")?);
            if !paces.is_empty() {
                tail.pace = Some(paces.iter().sum::<f64>() / paces.len() as f64);
            }
            tail.job.leased_at = tail.job.leased_at.max(Some(time(row, "granted_at")?));
            tail.job.leased_images += unsigned(row, "leased_images")?;
            tail.held.push(held);
        }
    }
    Ok(tails)
}

fn held(row: &PgRow, now: Timestamp) -> Result<Held> {
    Ok(Held {
        shard: id(row, "shard")?,
        attempt: small(row, "attempt")?,
        // None, when another coordinator's clock is ahead.
        held_for: Duration::try_from(now.duration_since(time(row, "granted_at")?)).unwrap_or_default(),
        done: unsigned(row, "done")?,
        remaining: unsigned(row, "remaining")?,
        rendering: unsigned(row, "rendering")?,
        is_second: row.try_get("is_second")?,
    })
}

pub(super) async fn idle(store: &PostgresStore, sessions: &[SessionId]) -> Result<Vec<SessionId>> {
    let ids: Vec<Option<Uuid>> = sessions.iter().map(|session| uuid(session.as_str())).collect();
    let rows = sqlx::query(
        "SELECT w.id FROM sessions AS w WHERE w.id = ANY ($1) AND w.closed_at IS NULL \
         AND w.drain IS NULL AND w.leaving IS NULL \
         AND NOT EXISTS (SELECT FROM leases AS l WHERE l.session = w.key AND l.ended_at IS NULL)",
    )
    .bind(ids)
    .fetch_all(&store.pool)
    .await?;
    rows.iter().map(|row| id(row, "id")).collect()
}

pub(super) async fn take_over(
    store: &PostgresStore,
    session: &SessionId,
    share: &Share,
    duration: Duration,
    now: Timestamp,
) -> Result<Option<Lease>> {
    let given = retried!(commit(store, session, share, duration, now))?;
    let Some(mut given) = given.map(|given| [given]) else { return Ok(None) };
    // As with any other lease: what was given out and is not told for an error here expires, at no image's cost.
    read_images(store, &mut given).await?;
    let [given] = given;
    Ok(Some(given.lease))
}

async fn commit(
    store: &PostgresStore,
    session: &SessionId,
    share: &Share,
    duration: Duration,
    now: Timestamp,
) -> Result<Option<Given>> {
    let mut tx = store.begin(now).await?;
    let key = match find(&mut tx, session, now).await? {
        Some((key, true)) => key,
        Some((_, false)) => return Err(Error::SessionClosed(session.clone())),
        None => return Err(not_found(session)),
    };
    let allowed = sqlx::query(
        "SELECT FROM jobs AS j WHERE j.key = (SELECT job FROM shards WHERE id = $1) AND j.state = 'running' \
         AND (j.deadline IS NULL OR j.deadline > $3) \
         AND NOT EXISTS (SELECT FROM sessions AS w JOIN standings AS t ON t.worker = w.worker \
         WHERE w.key = $2 AND t.excluded_until > $3) \
         AND NOT EXISTS (SELECT FROM sessions AS w WHERE w.key = $2 AND (w.drain IS NOT NULL OR w.leaving IS NOT NULL)) \
         FOR NO KEY UPDATE OF j",
    )
    .bind(uuid(share.shard.as_str()))
    .bind(key)
    .bind(Time(now))
    .fetch_optional(&mut *tx)
    .await?;
    if allowed.is_none() {
        return Ok(None);
    }
    let shard = Shard::lock(&mut tx, &share.shard).await?;
    lock_shards(&mut tx, &[shard.key]).await?;
    let held = sqlx::query(
        "SELECT session, rendering FROM leases WHERE shard = $1 AND attempt = $2 AND ended_at IS NULL",
    )
    .bind(shard.key)
    .bind(attempt(share.attempt))
    .fetch_optional(&mut *tx)
    .await?;
    let Some(held) = held else { return Ok(None) };
    let from: i64 = held.try_get("session")?;
    if from == key {
        return Ok(None);
    }
    let taken = match share.part {
        Part::Last(images) => cut(&mut tx, &shard, from, &held, images, now).await?,
        Part::Whole => Some(pass_on(&mut tx, &shard, now).await?),
    };
    let Some(taken) = taken else { return Ok(None) };
    let given = grant(&mut tx, taken, key, duration, now).await?;
    tx.commit().await?;
    Ok(Some(given))
}

/// Cuts a shard that is held in two: the last images that have no result and are not being rendered, as many as
/// `images`, are a shard of their own then. Its key; none when there are none any more.
async fn cut(
    db: &mut PgConnection,
    shard: &Shard,
    session: i64,
    held: &PgRow,
    images: u64,
    now: Timestamp,
) -> Result<Option<i64>> {
    let rendering: Vec<i64> = held.try_get("rendering")?;
    // Who holds it keeps its first image that has no result, and those in hand.
    let open: Vec<i64> = sqlx::query_scalar(
        "SELECT i.idx FROM images AS i WHERE i.job = $1 AND i.group_no = $2 AND i.idx BETWEEN $3 AND $4 \
         AND NOT EXISTS (SELECT FROM results AS r WHERE r.job = i.job AND r.idx = i.idx OFFSET 0) \
         ORDER BY i.idx OFFSET 1",
    )
    .bind(shard.job)
    .bind(shard.group)
    .bind(shard.first)
    .bind(shard.last)
    .fetch_all(&mut *db)
    .await?;
    let in_hand = rendering.into_iter().filter(|index| *index <= shard.last).max().unwrap_or(-1);
    let taken: Vec<i64> =
        open.into_iter().rev().take(images as usize).take_while(|index| *index > in_hand).collect();
    let Some(first) = taken.last() else { return Ok(None) };
    let part = Uuid::now_v7();
    let key: i64 = sqlx::query_scalar(
        "WITH size AS (SELECT count(*)::integer AS images FROM images AS i \
            WHERE i.job = $2 AND i.group_no = $3 AND i.idx BETWEEN $4 AND $5), \
         shortened AS (UPDATE shards AS s SET last_index = $4 - 1, images = s.images - z.images, \
            remaining = s.remaining - $6, cut_from = coalesce(s.cut_from, s.key) FROM size AS z WHERE s.key = $1), \
         lightened AS (UPDATE leases AS l SET images = l.images - z.images FROM size AS z \
            WHERE l.shard = $1 AND l.ended_at IS NULL), \
         told AS (INSERT INTO events (at, kind, job, shard, attempt, session, actor, detail) \
            SELECT $8, $12, $2, $1, $9, $10, $13, jsonb_build_object('first_index', $4::bigint, \
                'images', z.images, 'shard', $7::uuid) FROM size AS z) \
         INSERT INTO shards (id, job, group_no, first_index, last_index, images, remaining, attempt, not_before, \
            cut_from, cut_off) \
         SELECT $7, $2, $3, $4, $5, z.images, $6, $9, $8, coalesce($11, $1), $1 FROM size AS z RETURNING key",
    )
    .bind(shard.key)
    .bind(shard.job)
    .bind(shard.group)
    .bind(first)
    .bind(shard.last)
    .bind(taken.len() as i32)
    .bind(part)
    .bind(Time(now))
    .bind(shard.attempt)
    .bind(session)
    .bind(shard.cut_from)
    .bind(EventKind::ShardCut.word())
    .bind(By::FARM)
    .fetch_one(db)
    .await?;
    Ok(Some(key))
}

/// Takes all that is left from who has it. What that worker has in hand it may finish: its results count if they come
/// first.
async fn pass_on(db: &mut PgConnection, shard: &Shard, now: Timestamp) -> Result<i64> {
    let by = By::farm(TAKEN_OVER);
    let end = Ending { by: Some(&by), ..Ending::new(LeaseEnd::Revoked) };
    give_back(db, &[shard.key], end, Duration::ZERO, now).await?;
    Ok(shard.key)
}

/// Leases a shard that is ready, and which the transaction has locked.
async fn grant(
    db: &mut PgConnection,
    shard: i64,
    session: i64,
    duration: Duration,
    now: Timestamp,
) -> Result<Given> {
    let row = sqlx::query(
        "WITH taken AS (UPDATE shards SET state = 'leased', attempt = attempt + 1 WHERE key = $1 AND state = 'ready' \
            RETURNING *), \
         leased AS (INSERT INTO leases (shard, attempt, session, job, images, granted_at, expires_at) \
            SELECT t.key, t.attempt, $2, t.job, t.images, $3, $4 FROM taken AS t) \
         SELECT t.id AS shard, t.attempt, t.remaining = t.images AS whole, false AS started_job, \
            t.job AS job_key, t.group_no, t.first_index, t.last_index, j.mixed_from, \
            j.id AS job, j.name, j.model, j.output, j.negative_prompt, \
            g.width, g.height, g.steps, g.guidance, g.bin, g.decode, j.format, j.quality, j.layout, j.thumbnails \
         FROM taken AS t JOIN jobs AS j ON j.key = t.job \
         JOIN settings_groups AS g ON g.job = t.job AND g.group_no = t.group_no",
    )
    .bind(shard)
    .bind(session)
    .bind(Time(now))
    .bind(Time(expiry(now, duration)?))
    .fetch_one(&mut *db)
    .await?;
    let event = Event {
        job: Some(row.try_get("job_key")?),
        shard: Some(shard),
        attempt: Some(row.try_get("attempt")?),
        session: Some(session),
        ..Event::new(EventKind::LeaseGranted)
    };
    record(db, event, now).await?;
    read_given(&row, 0)
}

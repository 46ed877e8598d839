//! What happened to a job, an image or a worker. Nothing here takes the write lock.

use std::collections::BTreeMap;

use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row};

use super::SqliteStore;
use super::codec::{json, signed, small, time, unsigned, word};
use super::read;
use crate::domain::id::{JobId, SessionId, ShardId};
use crate::store::Result;
use crate::store::records::{AttemptLog, EventRecord, ImageStory, Newest, OfWorker, Range, Subject, Yield};
use crate::store::story::{ImageError, Picture, Retried, Told};

/// What [`event`] reads of events `e`.
const EVENTS: &str = "SELECT e.seq, e.at, e.kind, j.id AS job_id, s.id AS shard_id, s.first_index, s.last_index, \
    s.images, e.idx, e.attempt, w.id AS session_id, coalesce(w.worker, '') AS worker, \
    CASE WHEN e.kind = 'session_opened' THEN w.devices ELSE '[]' END AS devices, e.detail, \
    coalesce(e.actor, w.worker, 'coordinator') AS actor, coalesce(e.reason, '') AS reason \
    FROM events AS e LEFT JOIN jobs AS j ON j.key = e.job LEFT JOIN shards AS s ON s.key = e.shard \
    LEFT JOIN sessions AS w ON w.key = e.session";

/// Of all sessions of a worker, some events of each are read and put in order, not all that are left. None of the next
/// ?3 lies behind the ?3rd of any session.
const NEAR: &str = "AND e.seq <= coalesce((SELECT min((SELECT n.seq FROM events AS n WHERE n.session = w.key \
    AND n.seq > ?2 ORDER BY n.seq LIMIT 1 OFFSET ?3 - 1)) FROM sessions AS w WHERE w.worker = ?1), \
    9223372036854775807) ";

/// Which events `e` are somebody's, whose name is ?1.
fn whose(of: &Subject) -> (&'static str, &str) {
    match of {
        Subject::Job(job) => {
            ("e.job = (SELECT key FROM jobs WHERE id = ?1 AND sealed_at IS NOT NULL)", job.as_str())
        }
        Subject::Worker(OfWorker { worker, session: None }) => {
            ("e.session IN (SELECT key FROM sessions WHERE worker = ?1)", worker)
        }
        Subject::Worker(OfWorker { session: Some(session), .. }) => {
            ("e.session = (SELECT key FROM sessions WHERE id = ?1)", session.as_str())
        }
    }
}

pub(super) async fn worker(store: &SqliteStore, name: &str) -> Result<Option<OfWorker>> {
    let known = sqlx::query("SELECT 1 FROM sessions WHERE worker = ? LIMIT 1")
        .bind(name)
        .fetch_optional(&store.reader)
        .await?;
    if known.is_some() {
        return Ok(Some(OfWorker { worker: name.to_owned(), session: None }));
    }
    let session = sqlx::query("SELECT worker FROM sessions WHERE id = ?")
        .bind(name)
        .fetch_optional(&store.reader)
        .await?;
    let session = session.map(|row| -> Result<_> {
        Ok(OfWorker { worker: row.try_get("worker")?, session: Some(SessionId::from(name.to_owned())) })
    });
    session.transpose()
}

/// Events of somebody, whose name is ?1, after place ?2, ?3 at most.
pub(super) fn events_sql(of: &Subject) -> String {
    let (whose, _) = whose(of);
    let near = match of {
        Subject::Worker(OfWorker { session: None, .. }) => NEAR,
        Subject::Worker(_) | Subject::Job(_) => "",
    };
    format!("{EVENTS} WHERE {whose} AND e.seq > ?2 {near}ORDER BY e.seq LIMIT ?3")
}

pub(super) async fn events(
    store: &SqliteStore,
    of: &Subject,
    after: u64,
    limit: u32,
) -> Result<Vec<EventRecord>> {
    let (_, name) = whose(of);
    let rows = sqlx::query(AssertSqlSafe(events_sql(of)))
        .bind(name)
        .bind(signed(after, "place")?)
        .bind(limit)
        .fetch_all(&store.reader)
        .await?;
    rows.iter().map(event).collect()
}

fn event(row: &SqliteRow) -> Result<EventRecord> {
    let shard: Option<String> = row.try_get("shard_id")?;
    let range = match &shard {
        None => None,
        Some(_) => Some(Range {
            first: unsigned(row, "first_index")?,
            last: unsigned(row, "last_index")?,
            images: unsigned(row, "images")?,
        }),
    };
    let optional = |column: &str| -> Result<Option<i64>> { Ok(row.try_get(column)?) };
    Ok(EventRecord {
        seq: unsigned(row, "seq")?,
        at: time(row.try_get("at")?)?,
        kind: row.try_get("kind")?,
        job: row.try_get::<Option<String>, _>("job_id")?.map(JobId::from),
        shard: shard.map(ShardId::from),
        range,
        index: optional("idx")?.map(|_| unsigned(row, "idx")).transpose()?,
        attempt: optional("attempt")?.map(|_| small(row, "attempt")).transpose()?,
        session: row.try_get::<Option<String>, _>("session_id")?.map(SessionId::from),
        worker: row.try_get("worker")?,
        devices: json(row, "devices")?,
        detail: row.try_get("detail")?,
        actor: row.try_get("actor")?,
        reason: row.try_get("reason")?,
    })
}

pub(super) async fn newest(store: &SqliteStore, of: &Subject, count: u64) -> Result<Newest> {
    let (whose, name) = whose(of);
    let before = signed(count.saturating_sub(1), "limit")?;
    let first = sqlx::query(AssertSqlSafe(format!(
        "SELECT e.seq FROM events AS e WHERE {whose} ORDER BY e.seq DESC LIMIT 1 OFFSET ?2"
    )))
    .bind(name)
    .bind(before)
    .fetch_optional(&store.reader)
    .await?;
    // There are not so many.
    let Some(first) = first else { return Ok(Newest::default()) };
    let from: i64 = first.try_get("seq")?;
    let older = sqlx::query(AssertSqlSafe(format!(
        "SELECT count(*) AS older FROM events AS e WHERE {whose} AND e.seq < ?2"
    )))
    .bind(name)
    .bind(from)
    .fetch_one(&store.reader)
    .await?;
    Ok(Newest { from: unsigned(&first, "seq")?, older: unsigned(&older, "older")? })
}

pub(super) async fn counts(store: &SqliteStore, of: &Subject) -> Result<BTreeMap<String, u64>> {
    let (whose, name) = whose(of);
    let rows = sqlx::query(AssertSqlSafe(format!(
        "SELECT e.kind, count(*) AS events FROM events AS e WHERE {whose} GROUP BY e.kind"
    )))
    .bind(name)
    .fetch_all(&store.reader)
    .await?;
    rows.iter().map(|row| Ok((row.try_get("kind")?, unsigned(row, "events")?))).collect()
}

/// What somebody, whose name is ?1, has made.
pub(super) fn yield_sql(of: &Subject) -> String {
    const SUMS: &str = "count(*) FILTER (WHERE r.state = 'done') AS done, \
        count(*) FILTER (WHERE r.state = 'failed') AS failed, total(r.render_seconds) AS device_seconds";
    let (whose, _) = whose(of);
    match of {
        Subject::Job(_) => format!(
            "SELECT {SUMS}, (SELECT count(DISTINCT w.worker) FROM leases AS l \
             JOIN sessions AS w ON w.key = l.session WHERE l.job = j.key) AS workers \
             FROM jobs AS j LEFT JOIN results AS r ON r.job = j.key WHERE j.id = ?1"
        ),
        // From its leases to their images: nothing leads from a session to its results.
        Subject::Worker(_) => format!(
            "SELECT {SUMS}, 1 AS workers FROM events AS e CROSS JOIN shards AS s ON s.key = e.shard \
             CROSS JOIN images AS i INDEXED BY images_by_group ON i.job = s.job AND i.group_no = s.group_no \
             AND i.idx >= s.first_index AND i.idx <= coalesce((SELECT max(c.last_index) FROM shards AS c \
             WHERE c.cut_from = s.cut_from), s.last_index) \
             CROSS JOIN results AS r ON r.job = i.job AND r.idx = i.idx \
             WHERE {whose} AND e.kind = 'lease_granted' AND r.shard = s.key AND r.attempt = e.attempt \
             AND r.session = e.session"
        ),
    }
}

pub(super) async fn yielded(store: &SqliteStore, of: &Subject) -> Result<Yield> {
    let (_, name) = whose(of);
    let row = sqlx::query(AssertSqlSafe(yield_sql(of))).bind(name).fetch_one(&store.reader).await?;
    Ok(Yield {
        done: unsigned(&row, "done")?,
        failed: unsigned(&row, "failed")?,
        device_seconds: row.try_get("device_seconds")?,
        workers: unsigned(&row, "workers")?,
    })
}

pub(super) async fn image_story(store: &SqliteStore, job: &JobId, index: u64) -> Result<Option<ImageStory>> {
    let Some(image) = read::images(store, job, &[], index, 1).await?.into_iter().find(|i| i.index == index)
    else {
        return Ok(None);
    };
    let key = read::key(store, job).await?;
    let idx = signed(index, "index")?;
    let session = sqlx::query(
        "SELECT w.id FROM results AS r JOIN sessions AS w ON w.key = r.session WHERE r.job = ? AND r.idx = ?",
    )
    .bind(key)
    .bind(idx)
    .fetch_optional(&store.reader)
    .await?;
    let session = session.map(|row| row.try_get::<String, _>("id").map(SessionId::from)).transpose()?;
    let rows = sqlx::query(AssertSqlSafe(format!(
        // A shard that was cut off another was part of that in the attempts before.
        "WITH RECURSIVE had (shard, below) AS (SELECT s.key, NULL FROM shards AS s JOIN images AS i ON i.job = s.job \
         AND i.group_no = s.group_no WHERE s.job = ?1 AND i.idx = ?2 AND s.first_index <= ?2 AND s.last_index >= ?2 \
         UNION ALL SELECT s.cut_off, (SELECT min(l.attempt) FROM leases AS l WHERE l.shard = s.key) \
         FROM had AS h JOIN shards AS s ON s.key = h.shard WHERE s.cut_off IS NOT NULL) \
         {EVENTS} WHERE e.job = ?1 AND (e.idx = ?2 \
         OR e.kind IN ('job_submitted', 'job_paused', 'job_resumed', 'job_cancelled', 'job_retried', 'job_requeued') \
         OR e.idx IS NULL AND EXISTS (SELECT 1 FROM had AS h WHERE h.shard = e.shard \
         AND (h.below IS NULL OR e.attempt < h.below))) ORDER BY e.seq"
    )))
    .bind(key)
    .bind(idx)
    .fetch_all(&store.reader)
    .await?;
    let events = rows.iter().map(event).collect::<Result<_>>()?;
    let (errors, retried) = (errors(store, key, idx).await?, retried(store, key, idx).await?);
    let told = Told { job: job.clone(), image, session, events, errors, retried };
    Ok(Some(told.story()))
}

async fn errors(store: &SqliteStore, job: i64, index: i64) -> Result<Vec<ImageError>> {
    let rows = sqlx::query(
        "SELECT e.at, e.attempt, w.id, coalesce(w.worker, '') AS worker, e.device, e.error_class, e.error \
         FROM image_errors AS e LEFT JOIN sessions AS w ON w.key = e.session \
         WHERE e.job = ? AND e.idx = ? ORDER BY e.attempt",
    )
    .bind(job)
    .bind(index)
    .fetch_all(&store.reader)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(ImageError {
                at: time(row.try_get("at")?)?,
                attempt: small(row, "attempt")?,
                session: row.try_get::<Option<String>, _>("id")?.map(SessionId::from),
                worker: row.try_get("worker")?,
                device: row.try_get("device")?,
                class: word(row, "error_class")?,
                error: row.try_get("error")?,
            })
        })
        .collect()
}

async fn retried(store: &SqliteStore, job: i64, index: i64) -> Result<Vec<Retried>> {
    let rows = sqlx::query(
        "SELECT t.attempt, t.finished_at, t.retried_at, t.picture, w.id, coalesce(w.worker, '') AS worker, t.device, \
         t.bytes, t.sha256, t.render_seconds, t.decode_seconds \
         FROM (SELECT attempt, finished_at, retried_at, 0 AS picture, session, device, NULL AS bytes, \
         NULL AS sha256, render_seconds, NULL AS decode_seconds \
         FROM retried_results WHERE job = ?1 AND idx = ?2 \
         UNION ALL SELECT attempt, finished_at, requeued_at, 1, session, device, bytes, sha256, render_seconds, \
         decode_seconds FROM requeued_results WHERE job = ?1 AND idx = ?2) AS t \
         LEFT JOIN sessions AS w ON w.key = t.session ORDER BY t.attempt, t.retried_at",
    )
    .bind(job)
    .bind(index)
    .fetch_all(&store.reader)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(Retried {
                attempt: small(row, "attempt")?,
                finished_at: time(row.try_get("finished_at")?)?,
                retried_at: time(row.try_get("retried_at")?)?,
                picture: if row.try_get("picture")? { Some(picture(row)?) } else { None },
            })
        })
        .collect()
}

fn picture(row: &SqliteRow) -> Result<Picture> {
    Ok(Picture {
        session: row.try_get::<Option<String>, _>("id")?.map(SessionId::from),
        worker: row.try_get("worker")?,
        device: row.try_get("device")?,
        bytes: Some(unsigned(row, "bytes")?),
        sha256: row.try_get("sha256")?,
        render_seconds: row.try_get::<Option<f64>, _>("render_seconds")?.unwrap_or_default(),
        decode_seconds: row.try_get::<Option<f64>, _>("decode_seconds")?.unwrap_or_default(),
    })
}

pub(super) async fn logs(
    store: &SqliteStore,
    job: &JobId,
    index: u64,
    after: u32,
    limit: u32,
) -> Result<Vec<AttemptLog>> {
    let rows = sqlx::query(
        "SELECT l.attempt, w.id, coalesce(w.worker, '') AS worker, l.device, l.at, l.log FROM image_logs AS l \
         LEFT JOIN sessions AS w ON w.key = l.session \
         WHERE l.job = ? AND l.idx = ? AND l.attempt > ? ORDER BY l.attempt LIMIT ?",
    )
    .bind(read::key(store, job).await?)
    .bind(signed(index, "index")?)
    .bind(after)
    .bind(limit)
    .fetch_all(&store.reader)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(AttemptLog {
                attempt: small(row, "attempt")?,
                session: row.try_get::<Option<String>, _>("id")?.map(SessionId::from),
                worker: row.try_get("worker")?,
                device: row.try_get("device")?,
                at: time(row.try_get("at")?)?,
                log: row.try_get("log")?,
            })
        })
        .collect()
}

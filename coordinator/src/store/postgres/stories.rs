//! What happened to a job, an image or a worker. Nothing here locks anything.

use std::collections::BTreeMap;

use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, Row};
use uuid::Uuid;

use super::PostgresStore;
use super::codec::{id, signed, small, time, unsigned, uuid, word};
use super::read;
use crate::domain::id::{JobId, SessionId};
use crate::store::Result;
use crate::store::records::{AttemptLog, EventRecord, ImageStory, Newest, OfWorker, Range, Subject, Yield};
use crate::store::story::{ImageError, Picture, Retried, Told};

/// What [`event`] reads of events `e`.
const EVENTS: &str = "SELECT e.seq, e.at, e.kind, j.id AS job_id, s.id AS shard_id, s.first_index, s.last_index, \
    s.images::bigint AS images, e.idx, e.attempt, w.id AS session_id, coalesce(w.worker, '') AS worker, \
    CASE WHEN e.kind = 'session_opened' THEN w.devices ELSE '[]' END AS devices, e.detail::text AS detail, \
    coalesce(e.actor, w.worker, 'coordinator') AS actor, coalesce(e.reason, '') AS reason \
    FROM events AS e LEFT JOIN jobs AS j ON j.key = e.job LEFT JOIN shards AS s ON s.key = e.shard \
    LEFT JOIN sessions AS w ON w.key = e.session";

/// Of all sessions of a worker, some events of each are read and put in order, not all that are left. None of the next
/// $3 lies behind the $3rd of any session.
const NEAR: &str = "AND e.seq <= coalesce((SELECT min((SELECT n.seq FROM events AS n WHERE n.session = w.key \
    AND n.seq > $2 ORDER BY n.seq LIMIT 1 OFFSET $3 - 1)) FROM sessions AS w WHERE w.worker = $1::text), \
    9223372036854775807) ";

/// Which events `e` are somebody's, whose name is $1.
fn whose(of: &Subject) -> (&'static str, &str) {
    match of {
        Subject::Job(job) => (
            "e.job = (SELECT key FROM jobs WHERE id = $1::text::uuid AND sealed_at IS NOT NULL)",
            job.as_str(),
        ),
        Subject::Worker(OfWorker { worker, session: None }) => {
            ("e.session = ANY (ARRAY(SELECT key FROM sessions WHERE worker = $1::text))", worker)
        }
        Subject::Worker(OfWorker { session: Some(session), .. }) => {
            ("e.session = (SELECT key FROM sessions WHERE id = $1::text::uuid)", session.as_str())
        }
    }
}

pub(super) async fn worker(store: &PostgresStore, name: &str) -> Result<Option<OfWorker>> {
    if name.contains('\0') {
        return Ok(None);
    }
    let known = sqlx::query("SELECT FROM sessions WHERE worker = $1 LIMIT 1")
        .bind(name)
        .fetch_optional(&store.pool)
        .await?;
    if known.is_some() {
        return Ok(Some(OfWorker { worker: name.to_owned(), session: None }));
    }
    let session = sqlx::query("SELECT id, worker FROM sessions WHERE id = $1")
        .bind(uuid(name))
        .fetch_optional(&store.pool)
        .await?;
    let session = session.map(|row| -> Result<_> {
        Ok(OfWorker { worker: row.try_get("worker")?, session: Some(id(&row, "id")?) })
    });
    session.transpose()
}

pub(super) async fn events(
    store: &PostgresStore,
    of: &Subject,
    after: u64,
    limit: u32,
) -> Result<Vec<EventRecord>> {
    let (whose, name) = whose(of);
    let near = match of {
        Subject::Worker(OfWorker { session: None, .. }) => NEAR,
        Subject::Worker(_) | Subject::Job(_) => "",
    };
    let rows = sqlx::query(AssertSqlSafe(format!(
        "{EVENTS} WHERE {whose} AND e.seq > $2 {near}ORDER BY e.seq LIMIT $3"
    )))
    .bind(name)
    .bind(signed(after, "place")?)
    .bind(i64::from(limit))
    .fetch_all(&store.pool)
    .await?;
    rows.iter().map(event).collect()
}

fn event(row: &PgRow) -> Result<EventRecord> {
    let shard = row.try_get::<Option<Uuid>, _>("shard_id")?;
    let range = match shard {
        None => None,
        Some(_) => Some(Range {
            first: unsigned(row, "first_index")?,
            last: unsigned(row, "last_index")?,
            images: unsigned(row, "images")?,
        }),
    };
    let named = |column: &str| -> Result<Option<String>> {
        Ok(row.try_get::<Option<Uuid>, _>(column)?.map(|id| id.to_string()))
    };
    let index: Option<i64> = row.try_get("idx")?;
    let attempt: Option<i32> = row.try_get("attempt")?;
    Ok(EventRecord {
        seq: unsigned(row, "seq")?,
        at: time(row, "at")?,
        kind: row.try_get("kind")?,
        job: named("job_id")?.map(JobId::from),
        shard: shard.map(|id| id.to_string().into()),
        range,
        index: index.map(|_| unsigned(row, "idx")).transpose()?,
        attempt: attempt.map(|_| small(row, "attempt")).transpose()?,
        session: named("session_id")?.map(SessionId::from),
        worker: row.try_get("worker")?,
        devices: row.try_get::<Json<_>, _>("devices")?.0,
        detail: row.try_get("detail")?,
        actor: row.try_get("actor")?,
        reason: row.try_get("reason")?,
    })
}

pub(super) async fn newest(store: &PostgresStore, of: &Subject, count: u64) -> Result<Newest> {
    let (whose, name) = whose(of);
    let first = sqlx::query(AssertSqlSafe(format!(
        "SELECT e.seq FROM events AS e WHERE {whose} ORDER BY e.seq DESC LIMIT 1 OFFSET $2"
    )))
    .bind(name)
    .bind(signed(count.saturating_sub(1), "limit")?)
    .fetch_optional(&store.pool)
    .await?;
    // There are not so many.
    let Some(first) = first else { return Ok(Newest::default()) };
    let older = sqlx::query(AssertSqlSafe(format!(
        "SELECT count(*) AS older FROM events AS e WHERE {whose} AND e.seq < $2"
    )))
    .bind(name)
    .bind(first.try_get::<i64, _>("seq")?)
    .fetch_one(&store.pool)
    .await?;
    Ok(Newest { from: unsigned(&first, "seq")?, older: unsigned(&older, "older")? })
}

pub(super) async fn counts(store: &PostgresStore, of: &Subject) -> Result<BTreeMap<String, u64>> {
    let (whose, name) = whose(of);
    let rows = sqlx::query(AssertSqlSafe(format!(
        "SELECT e.kind, count(*) AS events FROM events AS e WHERE {whose} GROUP BY e.kind"
    )))
    .bind(name)
    .fetch_all(&store.pool)
    .await?;
    rows.iter().map(|row| Ok((row.try_get("kind")?, unsigned(row, "events")?))).collect()
}

/// What somebody, whose name is $1, has made.
fn yield_sql(of: &Subject) -> String {
    const SUMS: &str = "count(*) FILTER (WHERE r.state = 'done') AS done, \
        count(*) FILTER (WHERE r.state = 'failed') AS failed, coalesce(sum(r.render_seconds), 0) AS device_seconds";
    let (whose, _) = whose(of);
    match of {
        Subject::Job(_) => format!(
            "SELECT r.done, r.failed, r.device_seconds, (SELECT count(DISTINCT w.worker) FROM leases AS l \
             JOIN sessions AS w ON w.key = l.session WHERE l.job = j.key) AS workers \
             FROM jobs AS j CROSS JOIN LATERAL (SELECT {SUMS} FROM results AS r WHERE r.job = j.key) AS r \
             WHERE j.id = $1::text::uuid"
        ),
        // From its leases to their images: nothing leads from a session to its results. LIMIT and OFFSET have each
        // looked up by its key.
        Subject::Worker(_) => format!(
            "SELECT {SUMS}, 1::bigint AS workers FROM events AS e \
             CROSS JOIN LATERAL (SELECT s.key, s.job, s.group_no, s.first_index, coalesce((SELECT max(c.last_index) \
             FROM shards AS c WHERE c.cut_from = s.cut_from), s.last_index) AS last_index, \
             coalesce(j.mixed_from, {MOST}) AS mixed_from FROM shards AS s \
             JOIN jobs AS j ON j.key = s.job WHERE s.key = e.shard LIMIT 1) AS s \
             CROSS JOIN LATERAL (SELECT i.job, i.idx FROM images AS i WHERE i.job = s.job \
             AND i.idx BETWEEN s.first_index AND least(s.last_index, s.mixed_from - 1) \
             UNION ALL SELECT i.job, i.idx FROM images AS i WHERE i.mixed AND i.job = s.job \
             AND i.group_no = s.group_no AND i.idx BETWEEN greatest(s.first_index, s.mixed_from) AND s.last_index \
             OFFSET 0) AS i \
             CROSS JOIN LATERAL (SELECT r.state, r.render_seconds, r.shard, r.attempt, r.session FROM results AS r \
             WHERE r.job = i.job AND r.idx = i.idx LIMIT 1) AS r \
             WHERE {whose} AND e.kind = 'lease_granted' AND r.shard = s.key AND r.attempt = e.attempt \
             AND r.session = e.session",
            MOST = i64::MAX
        ),
    }
}

pub(super) async fn yielded(store: &PostgresStore, of: &Subject) -> Result<Yield> {
    let (_, name) = whose(of);
    let row = sqlx::query(AssertSqlSafe(yield_sql(of))).bind(name).fetch_one(&store.pool).await?;
    Ok(Yield {
        done: unsigned(&row, "done")?,
        failed: unsigned(&row, "failed")?,
        device_seconds: row.try_get("device_seconds")?,
        workers: unsigned(&row, "workers")?,
    })
}

pub(super) async fn image_story(
    store: &PostgresStore,
    job: &JobId,
    index: u64,
) -> Result<Option<ImageStory>> {
    let Some(image) = read::images(store, job, &[], index, 1).await?.into_iter().find(|i| i.index == index)
    else {
        return Ok(None);
    };
    let key = read::key(store, job).await?;
    let idx = signed(index, "index")?;
    let session: Option<Uuid> = sqlx::query_scalar(
        "SELECT w.id FROM results AS r JOIN sessions AS w ON w.key = r.session WHERE r.job = $1 AND r.idx = $2",
    )
    .bind(key)
    .bind(idx)
    .fetch_optional(&store.pool)
    .await?;
    // From the leases of the job: there is no index of its shards that were leased.
    // One that was cut off another was part of that in the attempts before.
    let shards = sqlx::query(
        "WITH RECURSIVE had (shard, below) AS (SELECT * FROM (SELECT s.key, NULL::integer \
         FROM images AS i JOIN leases AS l ON l.job = i.job JOIN shards AS s ON s.key = l.shard \
         WHERE i.job = $1 AND i.idx = $2 AND s.group_no = i.group_no AND s.first_index <= $2 AND s.last_index >= $2 \
         LIMIT 1) AS s UNION ALL SELECT s.cut_off, (SELECT min(l.attempt) FROM leases AS l WHERE l.shard = s.key) \
         FROM had AS h JOIN shards AS s ON s.key = h.shard WHERE s.cut_off IS NOT NULL) \
         SELECT array_agg(shard) AS shards, array_agg(below) AS below FROM had",
    )
    .bind(key)
    .bind(idx)
    .fetch_one(&store.pool)
    .await?;
    let rows = sqlx::query(AssertSqlSafe(format!(
        "{EVENTS} WHERE e.job = $1 AND (e.idx = $2 \
         OR e.kind IN ('job_submitted', 'job_paused', 'job_resumed', 'job_cancelled', 'job_retried', 'job_requeued') \
         OR e.idx IS NULL AND EXISTS (SELECT FROM unnest($3::bigint[], $4::integer[]) AS h (shard, below) \
         WHERE h.shard = e.shard AND (h.below IS NULL OR e.attempt < h.below))) ORDER BY e.seq"
    )))
    .bind(key)
    .bind(idx)
    .bind(shards.try_get::<Option<Vec<i64>>, _>("shards")?)
    .bind(shards.try_get::<Option<Vec<Option<i32>>>, _>("below")?)
    .fetch_all(&store.pool)
    .await?;
    let events = rows.iter().map(event).collect::<Result<_>>()?;
    let (errors, retried) = (errors(store, key, idx).await?, retried(store, key, idx).await?);
    let session = session.map(|id| SessionId::from(id.to_string()));
    let told = Told { job: job.clone(), image, session, events, errors, retried };
    Ok(Some(told.story()))
}

async fn errors(store: &PostgresStore, job: i64, index: i64) -> Result<Vec<ImageError>> {
    let rows = sqlx::query(
        "SELECT e.at, e.attempt, w.id, coalesce(w.worker, '') AS worker, e.device, e.error_class, e.error \
         FROM image_errors AS e LEFT JOIN sessions AS w ON w.key = e.session \
         WHERE e.job = $1 AND e.idx = $2 ORDER BY e.attempt",
    )
    .bind(job)
    .bind(index)
    .fetch_all(&store.pool)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(ImageError {
                at: time(row, "at")?,
                attempt: small(row, "attempt")?,
                session: session_id(row)?,
                worker: row.try_get("worker")?,
                device: row.try_get("device")?,
                class: word(row, "error_class")?,
                error: row.try_get("error")?,
            })
        })
        .collect()
}

async fn retried(store: &PostgresStore, job: i64, index: i64) -> Result<Vec<Retried>> {
    let rows = sqlx::query(
        "SELECT t.attempt, t.finished_at, t.retried_at, t.picture, w.id, coalesce(w.worker, '') AS worker, t.device, \
         t.bytes, encode(t.sha256, 'hex') AS sha256, t.render_seconds, t.decode_seconds \
         FROM (SELECT attempt, finished_at, retried_at, false AS picture, session, device, NULL::bigint AS bytes, \
         NULL::bytea AS sha256, render_seconds, NULL::double precision AS decode_seconds \
         FROM retried_results WHERE job = $1 AND idx = $2 \
         UNION ALL SELECT attempt, finished_at, requeued_at, true, session, device, bytes, sha256, render_seconds, \
         decode_seconds FROM requeued_results WHERE job = $1 AND idx = $2) AS t \
         LEFT JOIN sessions AS w ON w.key = t.session ORDER BY t.attempt, t.retried_at",
    )
    .bind(job)
    .bind(index)
    .fetch_all(&store.pool)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(Retried {
                attempt: small(row, "attempt")?,
                finished_at: time(row, "finished_at")?,
                retried_at: time(row, "retried_at")?,
                picture: if row.try_get("picture")? { Some(picture(row)?) } else { None },
            })
        })
        .collect()
}

fn picture(row: &PgRow) -> Result<Picture> {
    Ok(Picture {
        session: session_id(row)?,
        worker: row.try_get("worker")?,
        device: row.try_get("device")?,
        bytes: Some(unsigned(row, "bytes")?),
        sha256: row.try_get("sha256")?,
        render_seconds: row.try_get::<Option<f64>, _>("render_seconds")?.unwrap_or_default(),
        decode_seconds: row.try_get::<Option<f64>, _>("decode_seconds")?.unwrap_or_default(),
    })
}

/// The session `id` of a row, if it is known.
fn session_id(row: &PgRow) -> Result<Option<SessionId>> {
    Ok(row.try_get::<Option<Uuid>, _>("id")?.map(|id| SessionId::from(id.to_string())))
}

pub(super) async fn logs(
    store: &PostgresStore,
    job: &JobId,
    index: u64,
    after: u32,
    limit: u32,
) -> Result<Vec<AttemptLog>> {
    let rows = sqlx::query(
        "SELECT l.attempt, w.id, coalesce(w.worker, '') AS worker, l.device, l.at, l.log FROM image_logs AS l \
         LEFT JOIN sessions AS w ON w.key = l.session \
         WHERE l.job = $1 AND l.idx = $2 AND l.attempt > $3 ORDER BY l.attempt LIMIT $4",
    )
    .bind(read::key(store, job).await?)
    .bind(signed(index, "index")?)
    .bind(i64::from(after))
    .bind(i64::from(limit))
    .fetch_all(&store.pool)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(AttemptLog {
                attempt: small(row, "attempt")?,
                session: session_id(row)?,
                worker: row.try_get("worker")?,
                device: row.try_get("device")?,
                at: time(row, "at")?,
                log: row.try_get("log")?,
            })
        })
        .collect()
}

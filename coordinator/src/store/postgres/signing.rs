//! What a worker without keys of its own may reach.

use sqlx::Row;

use super::PostgresStore;
use super::codec::{form, uuid};
use super::session::{attempt, not_found};
use crate::domain::id::SessionId;
use crate::domain::signing::Named;
use crate::store::records::{AttemptObjects, LeaseRef};
use crate::store::{Error, Result};

pub(super) async fn attempt_objects(
    store: &PostgresStore,
    session: &SessionId,
    lease: &LeaseRef,
) -> Result<AttemptObjects> {
    let row = sqlx::query("SELECT worker, closed_at IS NULL AS open FROM sessions WHERE id = $1")
        .bind(uuid(session.as_str()))
        .fetch_optional(&store.pool)
        .await?;
    let Some(row) = row else { return Err(not_found(session)) };
    if !row.try_get::<bool, _>("open")? {
        return Err(Error::SessionClosed(session.clone()));
    }
    let worker: String = row.try_get("worker")?;
    let row = sqlx::query(
        "SELECT s.job, s.group_no, s.first_index, coalesce((SELECT max(c.last_index) FROM shards AS c \
         WHERE c.cut_from = s.cut_from), s.last_index) AS last_index, j.output, j.format, j.quality, j.layout, j.thumbnails, \
         coalesce(j.mixed_from, 9223372036854775807) AS mixed_from \
         FROM shards AS s JOIN leases AS l ON l.shard = s.key JOIN sessions AS w ON w.key = l.session \
         JOIN jobs AS j ON j.key = s.job WHERE s.id = $1 AND l.attempt = $2 AND w.worker = $3",
    )
    .bind(uuid(lease.shard.as_str()))
    .bind(attempt(lease.attempt))
    .bind(worker)
    .fetch_optional(&store.pool)
    .await?;
    let Some(shard) = row else { return Err(Error::NotYours(lease.clone())) };
    // As in the statement that reads the images of a lease.
    let rows = sqlx::query(
        "SELECT i.object, NOT EXISTS (SELECT FROM results AS r WHERE r.job = i.job AND r.idx = i.idx OFFSET 0) AS open \
         FROM (SELECT i.job, i.idx, i.object FROM images AS i WHERE i.job = $1 \
         AND i.idx BETWEEN $3 AND least($4, $5 - 1) \
         UNION ALL SELECT i.job, i.idx, i.object FROM images AS i WHERE i.mixed AND i.job = $1 AND i.group_no = $2 \
         AND i.idx BETWEEN greatest($3, $5) AND $4 OFFSET 0) AS i",
    )
    .bind(shard.try_get::<i64, _>("job")?)
    .bind(shard.try_get::<i32, _>("group_no")?)
    .bind(shard.try_get::<i64, _>("first_index")?)
    .bind(shard.try_get::<i64, _>("last_index")?)
    .bind(shard.try_get::<i64, _>("mixed_from")?)
    .fetch_all(&store.pool)
    .await?;
    let images =
        rows.iter().map(|row| Ok(Named { object: row.try_get("object")?, open: row.try_get("open")? }));
    let images = images.collect::<Result<_>>()?;
    Ok(AttemptObjects { output: shard.try_get("output")?, form: form(&shard)?, images })
}

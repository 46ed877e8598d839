//! What a worker without keys of its own may reach.

use sqlx::Row;

use super::SqliteStore;
use super::codec::form;
use crate::domain::id::SessionId;
use crate::domain::signing::Named;
use crate::store::records::{AttemptObjects, LeaseRef};
use crate::store::{Error, Result, Store};

pub(super) async fn attempt_objects(
    store: &SqliteStore,
    session: &SessionId,
    lease: &LeaseRef,
) -> Result<AttemptObjects> {
    let worker = store.session(session).await?.worker;
    let row = sqlx::query(
        "SELECT s.job, s.group_no, s.first_index, coalesce((SELECT max(c.last_index) FROM shards AS c \
         WHERE c.cut_from = s.cut_from), s.last_index) AS last_index, j.output, j.format, j.quality, j.layout, j.thumbnails \
         FROM shards AS s JOIN leases AS l ON l.shard = s.key JOIN sessions AS w ON w.key = l.session \
         JOIN jobs AS j ON j.key = s.job WHERE s.id = ? AND l.attempt = ? AND w.worker = ?",
    )
    .bind(lease.shard.as_str())
    .bind(lease.attempt)
    .bind(worker)
    .fetch_optional(&store.reader)
    .await?;
    let Some(shard) = row else { return Err(Error::NotYours(lease.clone())) };
    let rows = sqlx::query(
        "SELECT i.object, NOT EXISTS (SELECT 1 FROM results AS r WHERE r.job = i.job AND r.idx = i.idx) AS open \
         FROM images AS i INDEXED BY images_by_group \
         WHERE i.job = ? AND i.group_no = ? AND i.idx >= ? AND i.idx <= ?",
    )
    .bind(shard.try_get::<i64, _>("job")?)
    .bind(shard.try_get::<i64, _>("group_no")?)
    .bind(shard.try_get::<i64, _>("first_index")?)
    .bind(shard.try_get::<i64, _>("last_index")?)
    .fetch_all(&store.reader)
    .await?;
    let images =
        rows.iter().map(|row| Ok(Named { object: row.try_get("object")?, open: row.try_get("open")? }));
    let images = images.collect::<Result<_>>()?;
    Ok(AttemptObjects { output: shard.try_get("output")?, form: form(&shard)?, images })
}

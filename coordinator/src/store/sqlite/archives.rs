//! Tars in the layout webdataset.

use std::collections::BTreeSet;

use jiff::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use super::SqliteStore;
use super::codec::{json_text, signed, small, time_text, unsigned};
use super::report::check_sha256;
use super::shard_state::Shard;
use crate::domain::archive::free_numbers;
use crate::domain::id::{JobId, ShardId};
use crate::store::Result;
use crate::store::records::{Archive, LeaseRef, NewArchive, Report};

/// How the tar of a report stands.
pub(super) enum Standing {
    /// It can be committed.
    New,
    /// It was.
    Known,
    /// These images have a result from elsewhere, or what this attempt rendered of them was taken back.
    Taken(Vec<u64>),
}

/// Looks whether the tar of a report can be committed.
pub(super) async fn standing(
    db: &mut SqliteConnection,
    shard: &Shard,
    report: &Report,
    archive: &NewArchive,
) -> Result<Standing> {
    check_sha256("the archive", &archive.sha256)?;
    let there: Option<String> =
        sqlx::query_scalar("SELECT object FROM archives WHERE shard = ? AND attempt = ?")
            .bind(shard.key)
            .bind(report.lease.attempt)
            .fetch_optional(&mut *db)
            .await?;
    if there.as_ref() == Some(&archive.object) {
        return Ok(Standing::Known);
    }
    let indices: Vec<u64> = report.results.iter().map(|result| result.index).collect();
    let taken = sqlx::query(
        "SELECT r.idx FROM json_each(?2) AS n CROSS JOIN results AS r ON r.job = ?1 AND r.idx = n.value \
         UNION SELECT q.idx FROM json_each(?2) AS n CROSS JOIN requeued_results AS q \
         ON q.job = ?1 AND q.idx = n.value AND q.attempt >= ?3 ORDER BY 1",
    )
    .bind(shard.job)
    .bind(serde_json::json!(indices).to_string())
    .bind(report.lease.attempt)
    .fetch_all(db)
    .await?;
    let taken = taken.iter().map(|row| unsigned(row, "idx")).collect::<Result<Vec<_>>>()?;
    match there {
        _ if !taken.is_empty() => Ok(Standing::Taken(taken)),
        Some(_) => Err(report.second_archive().into()),
        None => Ok(Standing::New),
    }
}

/// Writes down the tar of a report whose pictures were committed.
pub(super) async fn insert(
    db: &mut SqliteConnection,
    shard: &Shard,
    report: &Report,
    archive: &NewArchive,
    now: Timestamp,
) -> Result<()> {
    let indices = || report.results.iter().map(|result| result.index);
    sqlx::query(
        "INSERT INTO archives (shard, attempt, job, object, bytes, sha256, images, first_index, last_index, \
         committed_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(shard.key)
    .bind(report.lease.attempt)
    .bind(shard.job)
    .bind(&archive.object)
    .bind(signed(archive.bytes, "bytes")?)
    .bind(archive.sha256.to_ascii_lowercase())
    .bind(signed(report.results.len() as u64, "images")?)
    .bind(signed(indices().min().unwrap_or_default(), "index")?)
    .bind(signed(indices().max().unwrap_or_default(), "index")?)
    .bind(time_text(now))
    .execute(db)
    .await?;
    Ok(())
}

pub(super) async fn outputs_to_publish(store: &SqliteStore) -> Result<Vec<String>> {
    let outputs = sqlx::query_scalar(
        "SELECT DISTINCT j.output FROM archives AS a INDEXED BY archives_to_publish JOIN jobs AS j ON j.key = a.job \
         WHERE a.published_at IS NULL ORDER BY j.output",
    );
    Ok(outputs.fetch_all(&store.reader).await?)
}

/// Columns that [`read`] wants of tables `a` of archives, `j` of their jobs and `s` of their shards.
const COLUMNS: &str =
    "j.id AS job_id, s.id AS shard_id, a.attempt, a.object, a.bytes, a.sha256, a.images, a.number";

fn read(row: &SqliteRow) -> Result<Archive> {
    let shard = ShardId::from(row.try_get::<String, _>("shard_id")?);
    Ok(Archive {
        job: JobId::from(row.try_get::<String, _>("job_id")?),
        lease: LeaseRef { shard, attempt: small(row, "attempt")? },
        object: row.try_get("object")?,
        bytes: unsigned(row, "bytes")?,
        sha256: row.try_get("sha256")?,
        images: unsigned(row, "images")?,
        number: unsigned(row, "number")?,
    })
}

/// Gives numbers to the tars of an output that have none.
async fn number(db: &mut SqliteConnection, output: &str) -> Result<()> {
    let fresh: Vec<(i64, i64)> = sqlx::query_as(
        "SELECT a.shard, a.attempt FROM jobs AS j CROSS JOIN archives AS a INDEXED BY archives_of_job ON a.job = j.key \
         WHERE j.output = ? AND a.number IS NULL ORDER BY a.committed_at, a.shard, a.attempt",
    )
    .bind(output)
    .fetch_all(&mut *db)
    .await?;
    if fresh.is_empty() {
        return Ok(());
    }
    let (next, count): (i64, i64) = sqlx::query_as(
        "SELECT coalesce(max(a.number), -1) + 1, count(a.number) FROM jobs AS j CROSS JOIN archives AS a ON a.job = j.key \
         WHERE j.output = ?",
    )
    .bind(output)
    .fetch_one(&mut *db)
    .await?;
    let numbers = if next == count {
        (next..).take(fresh.len()).collect()
    } else {
        let used = sqlx::query(
            "SELECT a.number FROM jobs AS j CROSS JOIN archives AS a ON a.job = j.key \
             WHERE j.output = ? AND a.number IS NOT NULL ORDER BY a.number",
        )
        .bind(output)
        .fetch_all(&mut *db)
        .await?;
        let used = used.iter().map(|row| unsigned(row, "number")).collect::<Result<Vec<_>>>()?;
        let free = free_numbers(&used, fresh.len());
        free.into_iter().map(|number| signed(number, "number")).collect::<Result<Vec<_>>>()?
    };
    for ((shard, attempt), number) in fresh.into_iter().zip(numbers) {
        sqlx::query("UPDATE archives SET number = ? WHERE shard = ? AND attempt = ?")
            .bind(number)
            .bind(shard)
            .bind(attempt)
            .execute(&mut *db)
            .await?;
    }
    Ok(())
}

/// Withdraws the tars of pictures that are to be rendered again: all pictures of a tar share its fate. Their indices, and
/// those that were asked for.
pub(super) async fn withdraw(db: &mut SqliteConnection, job: i64, indices: &[u64]) -> Result<Vec<u64>> {
    let tars: Vec<(i64, i64)> = sqlx::query_as(
        "SELECT DISTINCT a.shard, a.attempt FROM json_each(?2) AS n CROSS JOIN results AS r ON r.job = ?1 \
         AND r.idx = n.value AND r.state = 'done' CROSS JOIN archives AS a ON a.shard = r.shard AND a.attempt = r.attempt",
    )
    .bind(job)
    .bind(json_text(&indices)?)
    .fetch_all(&mut *db)
    .await?;
    let mut all: BTreeSet<u64> = indices.iter().copied().collect();
    for (shard, attempt) in tars {
        let rows = sqlx::query(
            "DELETE FROM archives WHERE shard = ?1 AND attempt = ?2 RETURNING first_index, last_index",
        )
        .bind(shard)
        .bind(attempt)
        .fetch_one(&mut *db)
        .await?;
        let pictures = sqlx::query(
            "SELECT idx FROM results WHERE job = ?1 AND idx BETWEEN ?2 AND ?3 AND shard = ?4 AND attempt = ?5 \
             AND state = 'done'",
        )
        .bind(job)
        .bind(rows.try_get::<i64, _>("first_index")?)
        .bind(rows.try_get::<i64, _>("last_index")?)
        .bind(shard)
        .bind(attempt)
        .fetch_all(&mut *db)
        .await?;
        for row in &pictures {
            all.insert(unsigned(row, "idx")?);
        }
    }
    Ok(all.into_iter().collect())
}

pub(super) async fn number_archives(store: &SqliteStore, output: &str, limit: u32) -> Result<Vec<Archive>> {
    let mut tx = store.write().await?;
    number(&mut tx, output).await?;
    let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
        "SELECT {COLUMNS} FROM jobs AS j CROSS JOIN archives AS a ON a.job = j.key JOIN shards AS s ON s.key = a.shard \
         WHERE j.output = ?1 AND a.published_at IS NULL ORDER BY a.number LIMIT ?2"
    )))
    .bind(output)
    .bind(limit)
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    rows.iter().map(read).collect()
}

pub(super) async fn archive_published(store: &SqliteStore, lease: &LeaseRef, now: Timestamp) -> Result<()> {
    let mut tx = store.write().await?;
    sqlx::query(
        "UPDATE archives SET published_at = ?3 WHERE shard = (SELECT key FROM shards WHERE id = ?1) AND attempt = ?2 \
         AND number IS NOT NULL AND published_at IS NULL",
    )
    .bind(lease.shard.as_str())
    .bind(lease.attempt)
    .bind(time_text(now))
    .execute(&mut *tx)
    .await?;
    Ok(tx.commit().await?)
}

pub(super) async fn archives(
    store: &SqliteStore,
    output: &str,
    from: u64,
    limit: u32,
) -> Result<Vec<Archive>> {
    let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
        "SELECT {COLUMNS} FROM jobs AS j CROSS JOIN archives AS a ON a.job = j.key JOIN shards AS s ON s.key = a.shard \
         WHERE j.output = ?1 AND a.number >= ?2 AND a.published_at IS NOT NULL ORDER BY a.number LIMIT ?3"
    )))
    .bind(output)
    .bind(signed(from, "number")?)
    .bind(limit)
    .fetch_all(&store.reader)
    .await?;
    rows.iter().map(read).collect()
}

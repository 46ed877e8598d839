//! Tars in the layout webdataset.

use std::collections::BTreeSet;

use jiff::Timestamp;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use super::PostgresStore;
use super::codec::{Time, id, signed, small, small_signed, unhex, unsigned, uuid};
use super::pictures::{Picture, commit_pictures, never_given_out};
use super::report::keep_logs;
use super::session::{attempt, find};
use super::shard_state::Shard;
use crate::domain::Invalid;
use crate::domain::archive::free_numbers;
use crate::store::records::{Archive, LeaseRef, NewArchive, Report, Reported};
use crate::store::{Error, Result};

/// Commits a report with its tar: all pictures or none.
pub(super) async fn commit(
    store: &PostgresStore,
    report: &Report,
    archive: &NewArchive,
    pictures: &[Picture<'_>],
    now: Timestamp,
) -> Result<Reported> {
    let wrong =
        || Invalid::job(format!("the archive has the sha256 {:?}, which is none in hex", archive.sha256));
    let sha256 = unhex(&archive.sha256).filter(|bytes| bytes.len() == 32).ok_or_else(wrong)?;
    let mut tx = store.begin(now).await?;
    let session = find(&mut tx, &report.session, now).await?.map(|(key, _)| key);
    let shard = Shard::lock_with_job(&mut tx, &report.lease.shard).await?;
    if let Some((known, taken)) = nothing_new(&mut tx, &shard, report, archive).await? {
        let (held, job_complete) = stand(&mut tx, &shard, report, session).await?;
        tx.commit().await?;
        return Ok(Reported { accepted: 0, known, held, job_complete, taken, failed: Vec::new() });
    }
    let given_out = sqlx::query("SELECT FROM leases WHERE shard = $1 AND attempt = $2")
        .bind(shard.key)
        .bind(attempt(report.lease.attempt))
        .fetch_optional(&mut *tx)
        .await?;
    if given_out.is_none() {
        return Err(Invalid::job(never_given_out(report)).into());
    }
    let mut answers = commit_pictures(&mut tx, &[(report, pictures)], now).await?;
    let reported = answers.pop().ok_or_else(|| Error::Corrupt("a report without an answer".to_owned()))??;
    if reported.accepted != pictures.len() as u64 {
        // The job is locked: nobody else commits results of it.
        return Err(Error::Corrupt(format!(
            "{} of {} pictures committed",
            reported.accepted,
            pictures.len()
        )));
    }
    let indices = || report.results.iter().map(|result| result.index);
    sqlx::query(
        "INSERT INTO archives (shard, attempt, job, object, bytes, sha256, images, first_index, last_index, \
         committed_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(shard.key)
    .bind(attempt(report.lease.attempt))
    .bind(shard.job)
    .bind(&archive.object)
    .bind(signed(archive.bytes, "bytes")?)
    .bind(sha256)
    .bind(small_signed(u32::try_from(pictures.len()).unwrap_or(u32::MAX), "images")?)
    .bind(signed(indices().min().unwrap_or_default(), "index")?)
    .bind(signed(indices().max().unwrap_or_default(), "index")?)
    .bind(Time(now))
    .execute(&mut *tx)
    .await?;
    keep_logs(&mut tx, &[report], now).await?;
    tx.commit().await?;
    Ok(reported)
}

/// Why there is nothing to commit: the tar was committed before with so many pictures, or images of it have a result
/// from elsewhere, or what this attempt rendered of them was taken back. The transaction has locked the job.
async fn nothing_new(
    db: &mut PgConnection,
    shard: &Shard,
    report: &Report,
    archive: &NewArchive,
) -> Result<Option<(u64, Vec<u64>)>> {
    let there: Option<String> =
        sqlx::query_scalar("SELECT object FROM archives WHERE shard = $1 AND attempt = $2")
            .bind(shard.key)
            .bind(attempt(report.lease.attempt))
            .fetch_optional(&mut *db)
            .await?;
    if there.as_ref() == Some(&archive.object) {
        return Ok(Some((report.results.len() as u64, Vec::new())));
    }
    let indices =
        report.results.iter().map(|result| signed(result.index, "index")).collect::<Result<Vec<_>>>()?;
    let taken = sqlx::query(
        "SELECT r.idx FROM unnest($2::bigint[]) AS n (idx) \
         CROSS JOIN LATERAL (SELECT r.idx FROM results AS r WHERE r.job = $1 AND r.idx = n.idx OFFSET 0) AS r \
         UNION SELECT n.idx FROM unnest($2::bigint[]) AS n (idx) WHERE EXISTS (SELECT FROM requeued_results AS q \
         WHERE q.job = $1 AND q.idx = n.idx AND q.attempt >= $3 OFFSET 0) ORDER BY 1",
    )
    .bind(shard.job)
    .bind(indices)
    .bind(attempt(report.lease.attempt))
    .fetch_all(db)
    .await?;
    let taken = taken.iter().map(|row| unsigned(row, "idx")).collect::<Result<Vec<_>>>()?;
    match there {
        _ if !taken.is_empty() => Ok(Some((0, taken))),
        Some(_) => Err(report.second_archive().into()),
        None => Ok(None),
    }
}

/// Whether the session holds the lease, and whether the job is complete and has not ended.
async fn stand(
    db: &mut PgConnection,
    shard: &Shard,
    report: &Report,
    session: Option<i64>,
) -> Result<(bool, bool)> {
    let row = sqlx::query(
        "SELECT EXISTS (SELECT FROM leases WHERE shard = $2 AND attempt = $3 AND session = $4 AND ended_at IS NULL) \
         AS held, done + failed = images AND state IN ('pending', 'running', 'paused') AS complete \
         FROM jobs WHERE key = $1",
    )
    .bind(shard.job)
    .bind(shard.key)
    .bind(attempt(report.lease.attempt))
    .bind(session)
    .fetch_one(db)
    .await?;
    Ok((row.try_get("held")?, row.try_get("complete")?))
}

pub(super) async fn outputs_to_publish(store: &PostgresStore) -> Result<Vec<String>> {
    let outputs = sqlx::query_scalar(
        "SELECT DISTINCT j.output FROM archives AS a JOIN jobs AS j ON j.key = a.job \
         WHERE a.published_at IS NULL ORDER BY j.output",
    );
    Ok(outputs.fetch_all(&store.pool).await?)
}

/// Columns that [`read`] wants of tables `a` of archives, `j` of their jobs and `s` of their shards.
const COLUMNS: &str = "j.id AS job_id, s.id AS shard_id, a.attempt, a.object, a.bytes, encode(a.sha256, 'hex') AS sha256, \
    a.images::bigint AS images, a.number";

fn read(row: &PgRow) -> Result<Archive> {
    Ok(Archive {
        job: id(row, "job_id")?,
        lease: LeaseRef { shard: id(row, "shard_id")?, attempt: small(row, "attempt")? },
        object: row.try_get("object")?,
        bytes: unsigned(row, "bytes")?,
        sha256: row.try_get("sha256")?,
        images: unsigned(row, "images")?,
        number: unsigned(row, "number")?,
    })
}

/// Gives numbers to the tars of an output that have none. The transaction has locked its numbers.
async fn number(db: &mut PgConnection, output: &str) -> Result<()> {
    let fresh: Vec<(i64, i32)> = sqlx::query_as(
        "SELECT a.shard, a.attempt FROM archives AS a JOIN jobs AS j ON j.key = a.job \
         WHERE j.output = $1 AND a.published_at IS NULL AND a.number IS NULL ORDER BY a.committed_at, a.shard, a.attempt",
    )
    .bind(output)
    .fetch_all(&mut *db)
    .await?;
    if fresh.is_empty() {
        return Ok(());
    }
    let (next, count): (i64, i64) = sqlx::query_as(
        "SELECT coalesce(max(a.number), -1) + 1, count(a.number) FROM jobs AS j JOIN archives AS a ON a.job = j.key \
         WHERE j.output = $1",
    )
    .bind(output)
    .fetch_one(&mut *db)
    .await?;
    let numbers: Vec<i64> = if next == count {
        (next..).take(fresh.len()).collect()
    } else {
        let used = sqlx::query(
            "SELECT a.number FROM jobs AS j JOIN archives AS a ON a.job = j.key \
             WHERE j.output = $1 AND a.number IS NOT NULL ORDER BY a.number",
        )
        .bind(output)
        .fetch_all(&mut *db)
        .await?;
        let used = used.iter().map(|row| unsigned(row, "number")).collect::<Result<Vec<_>>>()?;
        let free = free_numbers(&used, fresh.len());
        free.into_iter().map(|number| signed(number, "number")).collect::<Result<_>>()?
    };
    let (shards, attempts): (Vec<i64>, Vec<i32>) = fresh.into_iter().unzip();
    sqlx::query(
        "UPDATE archives AS a SET number = f.number FROM unnest($1::bigint[], $2::integer[], $3::bigint[]) \
         AS f (shard, attempt, number) WHERE a.shard = f.shard AND a.attempt = f.attempt",
    )
    .bind(shards)
    .bind(attempts)
    .bind(numbers)
    .execute(db)
    .await?;
    Ok(())
}

/// Withdraws the tars of pictures that are to be rendered again: all pictures of a tar share its fate. Their indices, and
/// those that were asked for. The transaction has locked the job.
pub(super) async fn withdraw(db: &mut PgConnection, job: i64, indices: Vec<i64>) -> Result<Vec<i64>> {
    let more: Vec<i64> = sqlx::query_scalar(
        "WITH tars AS MATERIALIZED (SELECT DISTINCT a.shard, a.attempt, a.first_index, a.last_index \
            FROM unnest($2::bigint[]) AS n (idx) \
            CROSS JOIN LATERAL (SELECT r.shard, r.attempt FROM results AS r \
                WHERE r.job = $1 AND r.idx = n.idx AND r.state = 'done' OFFSET 0) AS r \
            JOIN archives AS a ON a.shard = r.shard AND a.attempt = r.attempt), \
         withdrawn AS (DELETE FROM archives AS a USING tars AS t WHERE a.shard = t.shard AND a.attempt = t.attempt) \
         SELECT r.idx FROM tars AS t CROSS JOIN LATERAL (SELECT r.idx FROM results AS r \
            WHERE r.job = $1 AND r.idx BETWEEN t.first_index AND t.last_index AND r.shard = t.shard \
            AND r.attempt = t.attempt AND r.state = 'done' OFFSET 0) AS r",
    )
    .bind(job)
    .bind(&indices)
    .fetch_all(db)
    .await?;
    Ok(indices.into_iter().chain(more).collect::<BTreeSet<_>>().into_iter().collect())
}

pub(super) async fn number_archives(store: &PostgresStore, output: &str, limit: u32) -> Result<Vec<Archive>> {
    let mut tx = store.pool.begin().await?;
    // Also when the turn of whoever does it was lost to another: no number is given twice.
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1, 1))")
        .bind(output)
        .execute(&mut *tx)
        .await?;
    number(&mut tx, output).await?;
    let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
        "SELECT {COLUMNS} FROM archives AS a JOIN jobs AS j ON j.key = a.job JOIN shards AS s ON s.key = a.shard \
         WHERE j.output = $1 AND a.published_at IS NULL ORDER BY a.number LIMIT $2"
    )))
    .bind(output)
    .bind(i64::from(limit))
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    rows.iter().map(read).collect()
}

pub(super) async fn archive_published(store: &PostgresStore, lease: &LeaseRef, now: Timestamp) -> Result<()> {
    sqlx::query(
        "UPDATE archives SET published_at = $3 WHERE shard = (SELECT key FROM shards WHERE id = $1) AND attempt = $2 \
         AND number IS NOT NULL AND published_at IS NULL",
    )
    .bind(uuid(lease.shard.as_str()))
    .bind(attempt(lease.attempt))
    .bind(Time(now))
    .execute(&store.pool)
    .await?;
    Ok(())
}

pub(super) async fn archives(
    store: &PostgresStore,
    output: &str,
    from: u64,
    limit: u32,
) -> Result<Vec<Archive>> {
    let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
        "SELECT {COLUMNS} FROM jobs AS j JOIN archives AS a ON a.job = j.key JOIN shards AS s ON s.key = a.shard \
         WHERE j.output = $1 AND a.number >= $2 AND a.published_at IS NOT NULL ORDER BY a.number LIMIT $3"
    )))
    .bind(output)
    .bind(signed(from, "number")?)
    .bind(i64::from(limit))
    .fetch_all(&store.pool)
    .await?;
    rows.iter().map(read).collect()
}

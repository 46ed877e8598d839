//! Submissions that were given up.

use super::PostgresStore;
use super::codec::uuid;
use super::life::lives;
use crate::domain::id::JobId;
use crate::store::Result;

/// Rows that one transaction of `purge` deletes.
const PURGE_ROWS: i64 = 5000;
pub(super) async fn abandon_job(store: &PostgresStore, job: &JobId) -> Result<()> {
    sqlx::query("UPDATE jobs SET client_token = NULL WHERE id = $1 AND sealed_at IS NULL")
        .bind(uuid(job.as_str()))
        .execute(&store.pool)
        .await?;
    Ok(())
}

/// Nothing of an unsealed job was ever leased, so it has no leases, results or events, and its shards are ready.
const PURGE: [(&str, &str); 5] = [
    ("images", ""),
    ("shards", " AND state = 'ready'"),
    ("settings_groups", ""),
    ("job_columns", ""),
    ("job_dependencies", ""),
];

pub(super) async fn purge(store: &PostgresStore) -> Result<bool> {
    let me = store.life.key;
    // Nobody brings more rows of what a coordinator that is gone took in.
    sqlx::query(concat!(
        "UPDATE jobs SET client_token = NULL WHERE sealed_at IS NULL AND client_token IS NOT NULL \
         AND coordinator <> $1 AND NOT ",
        lives!("coordinator")
    ))
    .bind(me)
    .execute(&store.pool)
    .await?;
    let mut tx = store.pool.begin().await?;
    let key: Option<i64> = sqlx::query_scalar(
        "SELECT key FROM jobs WHERE sealed_at IS NULL AND client_token IS NULL ORDER BY key LIMIT 1 \
         FOR UPDATE SKIP LOCKED",
    )
    .fetch_optional(&mut *tx)
    .await?;
    let Some(key) = key else { return Ok(false) };
    for (table, only) in PURGE {
        let deleted = sqlx::query(sqlx::AssertSqlSafe(format!(
            "DELETE FROM {table} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {table} WHERE job = $1{only} LIMIT $2))"
        )))
        .bind(key)
        .bind(PURGE_ROWS)
        .execute(&mut *tx)
        .await?;
        if deleted.rows_affected() > 0 {
            tx.commit().await?;
            return Ok(true);
        }
    }
    sqlx::query("DELETE FROM jobs WHERE key = $1").bind(key).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(true)
}

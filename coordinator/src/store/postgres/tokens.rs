//! Tokens.

use jiff::Timestamp;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Row};

use super::PostgresStore;
use super::codec::{Time, clean, optional_time, time, word};
use crate::store::records::{NewToken, TokenRecord};
use crate::store::{Error, Result};

const COLUMNS: &str = "id, name, role, owner, worker, hash, old_hash, old_expires_at, created_at, created_by, \
    expires_at, last_used_at, rotated_at, revoked_at";

pub(super) async fn create(store: &PostgresStore, token: &NewToken, now: Timestamp) -> Result<TokenRecord> {
    let row = sqlx::query(AssertSqlSafe(format!(
        "INSERT INTO tokens (id, name, role, owner, worker, hash, created_at, created_by, expires_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING {COLUMNS}"
    )))
    .bind(&token.id)
    .bind(clean(&token.name))
    .bind(token.role.word())
    .bind(token.owner.as_deref().map(clean))
    .bind(token.worker.as_deref().map(clean))
    .bind(&token.hash)
    .bind(Time(now))
    .bind(clean(&token.created_by))
    .bind(token.expires_at.map(Time))
    .fetch_one(&store.pool)
    .await?;
    record(&row)
}

pub(super) async fn all(store: &PostgresStore) -> Result<Vec<TokenRecord>> {
    let sql = format!("SELECT {COLUMNS} FROM tokens ORDER BY created_at DESC, id");
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&store.pool).await?;
    rows.iter().map(record).collect()
}

pub(super) async fn by_id(store: &PostgresStore, ids: &[String]) -> Result<Vec<TokenRecord>> {
    let sql = format!("SELECT {COLUMNS} FROM tokens WHERE id = ANY ($1)");
    let rows = sqlx::query(AssertSqlSafe(sql)).bind(ids).fetch_all(&store.pool).await?;
    rows.iter().map(record).collect()
}

pub(super) async fn rotate(
    store: &PostgresStore,
    id: &str,
    hash: &[u8],
    old_until: Timestamp,
    now: Timestamp,
) -> Result<TokenRecord> {
    let row = sqlx::query(AssertSqlSafe(format!(
        "UPDATE tokens SET old_hash = hash, old_expires_at = $3, hash = $2, rotated_at = $4 \
         WHERE id = $1 AND revoked_at IS NULL RETURNING {COLUMNS}"
    )))
    .bind(id)
    .bind(hash)
    .bind(Time(old_until))
    .bind(Time(now))
    .fetch_optional(&store.pool)
    .await?;
    row.as_ref().map_or_else(|| Err(unknown(id)), record)
}

pub(super) async fn revoke(store: &PostgresStore, id: &str, now: Timestamp) -> Result<TokenRecord> {
    let row = sqlx::query(AssertSqlSafe(format!(
        "UPDATE tokens SET revoked_at = coalesce(revoked_at, $2) WHERE id = $1 RETURNING {COLUMNS}"
    )))
    .bind(id)
    .bind(Time(now))
    .fetch_optional(&store.pool)
    .await?;
    row.as_ref().map_or_else(|| Err(unknown(id)), record)
}

pub(super) async fn used(store: &PostgresStore, used: &[(String, Timestamp)]) -> Result<()> {
    // Another coordinator may have written a later time.
    for (id, at) in used {
        sqlx::query("UPDATE tokens SET last_used_at = greatest(last_used_at, $2) WHERE id = $1")
            .bind(id)
            .bind(Time(*at))
            .execute(&store.pool)
            .await?;
    }
    Ok(())
}

fn unknown(id: &str) -> Error {
    Error::NotFound { what: "token in use", id: id.to_owned() }
}

fn record(row: &PgRow) -> Result<TokenRecord> {
    Ok(TokenRecord {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        role: word(row, "role")?,
        owner: row.try_get("owner")?,
        worker: row.try_get("worker")?,
        hash: row.try_get("hash")?,
        old_hash: row.try_get("old_hash")?,
        old_expires_at: optional_time(row, "old_expires_at")?,
        created_at: time(row, "created_at")?,
        created_by: row.try_get("created_by")?,
        expires_at: optional_time(row, "expires_at")?,
        last_used_at: optional_time(row, "last_used_at")?,
        rotated_at: optional_time(row, "rotated_at")?,
        revoked_at: optional_time(row, "revoked_at")?,
    })
}

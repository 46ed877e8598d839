//! Tokens.

use jiff::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, QueryBuilder, Row};

use super::SqliteStore;
use super::codec::{time, time_text, word};
use crate::store::records::{NewToken, TokenRecord};
use crate::store::{Error, Result};

const COLUMNS: &str = "id, name, role, owner, worker, hash, old_hash, old_expires_at, created_at, created_by, \
    expires_at, last_used_at, rotated_at, revoked_at";

pub(super) async fn create(store: &SqliteStore, token: &NewToken, now: Timestamp) -> Result<TokenRecord> {
    let mut transaction = store.write().await?;
    let row = sqlx::query(AssertSqlSafe(format!(
        "INSERT INTO tokens (id, name, role, owner, worker, hash, created_at, created_by, expires_at) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING {COLUMNS}"
    )))
    .bind(&token.id)
    .bind(&token.name)
    .bind(token.role.word())
    .bind(&token.owner)
    .bind(&token.worker)
    .bind(&token.hash)
    .bind(time_text(now))
    .bind(&token.created_by)
    .bind(token.expires_at.map(time_text))
    .fetch_one(&mut *transaction)
    .await?;
    let created = record(&row)?;
    transaction.commit().await?;
    Ok(created)
}

pub(super) async fn all(store: &SqliteStore) -> Result<Vec<TokenRecord>> {
    let sql = format!("SELECT {COLUMNS} FROM tokens ORDER BY created_at DESC, id");
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&store.reader).await?;
    rows.iter().map(record).collect()
}

pub(super) async fn by_id(store: &SqliteStore, ids: &[String]) -> Result<Vec<TokenRecord>> {
    let mut query = QueryBuilder::new(format!("SELECT {COLUMNS} FROM tokens WHERE id IN ("));
    let mut list = query.separated(", ");
    for id in ids {
        list.push_bind(id);
    }
    query.push(")");
    let rows = query.build().fetch_all(&store.reader).await?;
    rows.iter().map(record).collect()
}

pub(super) async fn rotate(
    store: &SqliteStore,
    id: &str,
    hash: &[u8],
    old_until: Timestamp,
    now: Timestamp,
) -> Result<TokenRecord> {
    let mut transaction = store.write().await?;
    let row = sqlx::query(AssertSqlSafe(format!(
        "UPDATE tokens SET old_hash = hash, old_expires_at = ?, hash = ?, rotated_at = ? \
         WHERE id = ? AND revoked_at IS NULL RETURNING {COLUMNS}"
    )))
    .bind(time_text(old_until))
    .bind(hash)
    .bind(time_text(now))
    .bind(id)
    .fetch_optional(&mut *transaction)
    .await?;
    let rotated = row.as_ref().map_or_else(|| Err(unknown(id)), record)?;
    transaction.commit().await?;
    Ok(rotated)
}

pub(super) async fn revoke(store: &SqliteStore, id: &str, now: Timestamp) -> Result<TokenRecord> {
    let mut transaction = store.write().await?;
    let row = sqlx::query(AssertSqlSafe(format!(
        "UPDATE tokens SET revoked_at = coalesce(revoked_at, ?) WHERE id = ? RETURNING {COLUMNS}"
    )))
    .bind(time_text(now))
    .bind(id)
    .fetch_optional(&mut *transaction)
    .await?;
    let revoked = row.as_ref().map_or_else(|| Err(unknown(id)), record)?;
    transaction.commit().await?;
    Ok(revoked)
}

pub(super) async fn used(store: &SqliteStore, used: &[(String, Timestamp)]) -> Result<()> {
    let mut transaction = store.write().await?;
    for (id, at) in used {
        let at = time_text(*at);
        sqlx::query("UPDATE tokens SET last_used_at = max(coalesce(last_used_at, ''), ?) WHERE id = ?")
            .bind(at)
            .bind(id)
            .execute(&mut *transaction)
            .await?;
    }
    Ok(transaction.commit().await?)
}

fn unknown(id: &str) -> Error {
    Error::NotFound { what: "token in use", id: id.to_owned() }
}

fn record(row: &SqliteRow) -> Result<TokenRecord> {
    let optional = |column: &str| row.try_get::<Option<&str>, _>(column)?.map(time).transpose();
    Ok(TokenRecord {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        role: word(row, "role")?,
        owner: row.try_get("owner")?,
        worker: row.try_get("worker")?,
        hash: row.try_get("hash")?,
        old_hash: row.try_get("old_hash")?,
        old_expires_at: optional("old_expires_at")?,
        created_at: time(row.try_get("created_at")?)?,
        created_by: row.try_get("created_by")?,
        expires_at: optional("expires_at")?,
        last_used_at: optional("last_used_at")?,
        rotated_at: optional("rotated_at")?,
        revoked_at: optional("revoked_at")?,
    })
}

//! The append-only history.

use jiff::Timestamp;
use sqlx::PgConnection;
use sqlx::types::Json;

use super::codec::{Time, clean};
use crate::store::Result;
use crate::store::records::By;

/// Something that happened. Keys are those of the tables.
#[derive(Clone, Debug, Default)]
pub(super) struct Event<'a> {
    pub kind: &'static str,
    pub job: Option<i64>,
    pub shard: Option<i64>,
    pub index: Option<i64>,
    pub attempt: Option<i32>,
    pub session: Option<i64>,
    pub detail: Option<serde_json::Value>,
    /// Who wanted it, and why; none for what the farm does by itself.
    pub by: Option<&'a By>,
}

/// Writes it down, in the transaction of what it tells of.
pub(super) async fn record(db: &mut PgConnection, event: Event<'_>, now: Timestamp) -> Result<()> {
    let text = |text: &str| Some(clean(text).into_owned()).filter(|text| !text.is_empty());
    sqlx::query(
        "INSERT INTO events (at, kind, job, shard, idx, attempt, session, detail, actor, reason) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, coalesce($8, '{}'), $9, $10)",
    )
    .bind(Time(now))
    .bind(event.kind)
    .bind(event.job)
    .bind(event.shard)
    .bind(event.index)
    .bind(event.attempt)
    .bind(event.session)
    .bind(event.detail.map(Json))
    .bind(event.by.and_then(|by| text(&by.actor)))
    .bind(event.by.and_then(|by| text(&by.reason)))
    .execute(db)
    .await?;
    Ok(())
}

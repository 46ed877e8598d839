//! The append-only history.

use jiff::Timestamp;
use sqlx::SqliteConnection;

use super::codec::time_text;
use crate::domain::event::EventKind;
use crate::store::Result;
use crate::store::records::By;

/// Something that happened. Keys are those of the tables.
#[derive(Clone, Debug)]
pub(super) struct Event<'a> {
    pub kind: EventKind,
    pub job: Option<i64>,
    pub shard: Option<i64>,
    pub index: Option<i64>,
    pub attempt: Option<i64>,
    pub session: Option<i64>,
    pub detail: Option<serde_json::Value>,
    /// Who wanted it, and why; none for what the worker of the session did, or the farm where there is none.
    pub by: Option<&'a By>,
    /// Why, as the worker of the session said; may be empty.
    pub reason: &'a str,
}

impl Event<'_> {
    /// With nothing else told.
    pub fn new(kind: EventKind) -> Self {
        Self {
            kind,
            job: None,
            shard: None,
            index: None,
            attempt: None,
            session: None,
            detail: None,
            by: None,
            reason: "",
        }
    }
}

/// Writes it down, in the transaction of what it tells of.
pub(super) async fn record(db: &mut SqliteConnection, event: Event<'_>, now: Timestamp) -> Result<()> {
    sqlx::query(
        "INSERT INTO events (at, kind, job, shard, idx, attempt, session, detail, actor, reason) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(time_text(now))
    .bind(event.kind.word())
    .bind(event.job)
    .bind(event.shard)
    .bind(event.index)
    .bind(event.attempt)
    .bind(event.session)
    .bind(event.detail.map_or_else(|| "{}".to_owned(), |detail| detail.to_string()))
    .bind(event.by.map(By::named))
    .bind(Some(event.by.map_or(event.reason, |by| &by.reason)).filter(|reason| !reason.is_empty()))
    .execute(db)
    .await?;
    Ok(())
}

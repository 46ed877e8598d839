//! Sessions of workers, and what they do with their leases besides rendering.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use sqlx::{Row, SqliteConnection};
use uuid::Uuid;

use super::SqliteStore;
use super::codec::{expiry, json as read_json, json_text, time_text};
use super::event::{Event, record};
use super::refusals;
use super::shard_state::{Ending, HeldBy, SHARD_COLUMNS, Shard};
use crate::domain::event::EventKind;
use crate::domain::id::SessionId;
use crate::domain::leaving::Drain;
use crate::domain::state::LeaseEnd;
use crate::store::records::{
    By, HeldLease, Kept, LeaseRef, NewSession, OfWorker, Release, ReleaseReason, Renewal, Renewed,
};
use crate::store::{Error, Result};

pub(super) async fn open_session(
    store: &SqliteStore,
    session: &NewSession,
    now: Timestamp,
) -> Result<SessionId> {
    let mut tx = store.write().await?;
    let id = Uuid::now_v7().to_string();
    let row = sqlx::query(
        "INSERT INTO sessions (id, worker, version, devices, labels, embedded, opened_at, seen_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7) RETURNING key",
    )
    .bind(&id)
    .bind(&session.worker)
    .bind(&session.version)
    .bind(json_text(&session.devices)?)
    .bind(json_text(&session.labels)?)
    .bind(session.embedded)
    .bind(time_text(now))
    .fetch_one(&mut *tx)
    .await?;
    let key: i64 = row.try_get("key")?;
    let detail = json!({ "worker": session.worker, "version": session.version });
    let event = Event { session: Some(key), detail: Some(detail), ..Event::new(EventKind::SessionOpened) };
    record(&mut tx, event, now).await?;
    tx.commit().await?;
    Ok(SessionId::from(id))
}

/// The key of a session and whether it is open; none when it is not known.
pub(super) async fn find(db: &mut SqliteConnection, session: &SessionId) -> Result<Option<(i64, bool)>> {
    let row = sqlx::query("SELECT key, closed_at IS NULL AS open FROM sessions WHERE id = ?")
        .bind(session.as_str())
        .fetch_optional(db)
        .await?;
    row.map(|row| Ok((row.try_get("key")?, row.try_get("open")?))).transpose()
}

pub(super) async fn session(store: &SqliteStore, session: &SessionId) -> Result<NewSession> {
    let mut db = store.reader.acquire().await?;
    let key = open_key(&mut db, session).await?;
    let row = sqlx::query("SELECT worker, version, devices, labels, embedded FROM sessions WHERE key = ?")
        .bind(key)
        .fetch_one(&mut *db)
        .await?;
    Ok(NewSession {
        worker: row.try_get("worker")?,
        version: row.try_get("version")?,
        devices: read_json(&row, "devices")?,
        labels: read_json(&row, "labels")?,
        embedded: row.try_get("embedded")?,
    })
}

/// The key of an open session.
pub(super) async fn open_key(db: &mut SqliteConnection, session: &SessionId) -> Result<i64> {
    match find(db, session).await? {
        Some((key, true)) => Ok(key),
        Some((_, false)) => Err(Error::SessionClosed(session.clone())),
        None => Err(Error::NotFound { what: "session", id: session.to_string() }),
    }
}

pub(super) async fn renew_leases(
    store: &SqliteStore,
    renewals: &[Renewal],
    duration: Duration,
    now: Timestamp,
) -> Result<Vec<Result<Renewed>>> {
    let mut tx = store.write().await?;
    let expires_at = time_text(expiry(now, duration)?);
    let mut answers = Vec::with_capacity(renewals.len());
    for renewal in renewals {
        answers.push(match open_key(&mut tx, &renewal.session).await {
            Ok(key) => Ok(renew(&mut tx, key, renewal, &expires_at, now).await?),
            Err(error @ (Error::SessionClosed(_) | Error::NotFound { .. })) => Err(error),
            Err(error) => return Err(error),
        });
    }
    tx.commit().await?;
    Ok(answers)
}

/// Prolongs one session and what it holds, and keeps what it says of itself.
async fn renew(
    db: &mut SqliteConnection,
    session: i64,
    renewal: &Renewal,
    expires_at: &str,
    now: Timestamp,
) -> Result<Renewed> {
    if let Some(reason) = &renewal.leaving {
        leave(db, session, reason, now).await?;
    }
    let drain: Option<String> = sqlx::query_scalar(
        "UPDATE sessions SET seen_at = ?2, stats = coalesce(?3, stats), stats_at = iif(?3 IS NULL, stats_at, ?2) \
         WHERE key = ?1 RETURNING drain",
    )
    .bind(session)
    .bind(time_text(now))
    .bind(renewal.stats.as_ref().map(json_text).transpose()?)
    .fetch_one(&mut *db)
    .await?;
    let drain = drain.as_deref().map(str::parse).transpose()?;
    let mut kept = Vec::with_capacity(renewal.held.len());
    for lease in &renewal.held {
        let shard = match Shard::find(db, &lease.lease.shard).await {
            Ok(shard) => shard,
            Err(Error::NotFound { .. }) => continue,
            Err(error) => return Err(error),
        };
        let renewed = sqlx::query(
            "UPDATE leases SET expires_at = ?, rendering = ? \
             WHERE shard = ? AND attempt = ? AND session = ? AND ended_at IS NULL",
        )
        .bind(expires_at)
        .bind(json!(rendering(&shard, lease)).to_string())
        .bind(shard.key)
        .bind(lease.lease.attempt)
        .bind(session)
        .execute(&mut *db)
        .await?;
        if renewed.rows_affected() > 0 {
            kept.push(Kept { lease: lease.lease.clone(), last_index: shard.last.unsigned_abs() });
        }
    }
    Ok(Renewed { kept, drain })
}

/// The worker says that it leaves, and says so in every renewal: the first one counts.
async fn leave(db: &mut SqliteConnection, session: i64, reason: &str, now: Timestamp) -> Result<()> {
    let first = sqlx::query("UPDATE sessions SET leaving = ? WHERE key = ? AND leaving IS NULL")
        .bind(reason)
        .bind(session)
        .execute(&mut *db)
        .await?;
    if first.rows_affected() > 0 {
        let event = Event { session: Some(session), reason, ..Event::new(EventKind::WorkerLeaving) };
        record(db, event, now).await?;
    }
    Ok(())
}

/// Whether the session leaves or was asked to: nothing more is leased to it.
pub(super) async fn is_leaving(db: &mut SqliteConnection, session: i64) -> Result<bool> {
    let leaving =
        sqlx::query_scalar("SELECT drain IS NOT NULL OR leaving IS NOT NULL FROM sessions WHERE key = ?")
            .bind(session)
            .fetch_one(db)
            .await?;
    Ok(leaving)
}

pub(super) async fn drain(
    store: &SqliteStore,
    of: &OfWorker,
    drain: Drain,
    by: &By,
    now: Timestamp,
) -> Result<Vec<SessionId>> {
    let mut tx = store.write().await?;
    let whose = if of.session.is_some() { "id" } else { "worker" };
    let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
        "SELECT key, id, drain FROM sessions WHERE {whose} = ? AND closed_at IS NULL ORDER BY key"
    )))
    .bind(of.session.as_ref().map_or(of.worker.as_str(), SessionId::as_str))
    .fetch_all(&mut *tx)
    .await?;
    let mut asked = Vec::with_capacity(rows.len());
    for row in &rows {
        let before = row.try_get::<Option<&str>, _>("drain")?.map(str::parse::<Drain>).transpose()?;
        if before < Some(drain) {
            let key: i64 = row.try_get("key")?;
            sqlx::query("UPDATE sessions SET drain = ? WHERE key = ?")
                .bind(drain.word())
                .bind(key)
                .execute(&mut *tx)
                .await?;
            let event = Event {
                session: Some(key),
                detail: Some(json!({ "drain": drain.word() })),
                by: Some(by),
                ..Event::new(EventKind::WorkerDrained)
            };
            record(&mut tx, event, now).await?;
        }
        asked.push(SessionId::from(row.try_get::<String, _>("id")?));
    }
    tx.commit().await?;
    Ok(asked)
}

/// Indices of the shard that the worker says it is rendering, each once. Any others are not its to name.
fn rendering(shard: &Shard, lease: &HeldLease) -> BTreeSet<i64> {
    let indices = lease.rendering.iter().filter_map(|index| i64::try_from(*index).ok());
    indices.filter(|index| (shard.first..=shard.last).contains(index)).collect()
}

/// The session gave a sign of life.
pub(super) async fn seen(db: &mut SqliteConnection, session: i64, now: Timestamp) -> Result<()> {
    sqlx::query("UPDATE sessions SET seen_at = ? WHERE key = ?")
        .bind(time_text(now))
        .bind(session)
        .execute(db)
        .await?;
    Ok(())
}

pub(super) async fn release_lease(
    store: &SqliteStore,
    session: &SessionId,
    lease: &LeaseRef,
    release: &Release,
    now: Timestamp,
) -> Result<()> {
    let mut tx = store.write().await?;
    let key = open_key(&mut tx, session).await?;
    seen(&mut tx, key, now).await?;
    let mut shard = Shard::find(&mut tx, &lease.shard).await?;
    let held = HeldBy::find(&mut tx, shard.key).await?;
    if let Some(held) = held.filter(|held| held.attempt == lease.attempt && held.session == key) {
        let delay = match release.reason {
            ReleaseReason::Finished => shard.retry_delay(&mut tx).await?,
            ReleaseReason::Storage | ReleaseReason::Drain | ReleaseReason::Unknown => Duration::ZERO,
        };
        if release.reason == ReleaseReason::Storage {
            refusals::note(&mut tx, key, shard.job, &release.message, now).await?;
        }
        let detail = json!({ "reason": release.reason.word(), "message": release.message });
        let end =
            Ending { detail: Some(detail), reason: &release.message, ..Ending::new(LeaseEnd::Released) };
        shard.give_back(&mut tx, &held, end, delay, now).await?;
    }
    Ok(tx.commit().await?)
}

pub(super) async fn close_session(
    store: &SqliteStore,
    session: &SessionId,
    reason: &str,
    now: Timestamp,
) -> Result<()> {
    let mut tx = store.write().await?;
    match find(&mut tx, session).await? {
        Some((key, true)) => {
            close(&mut tx, key, reason, None, now).await?;
        }
        Some((_, false)) => {}
        None => return Err(Error::NotFound { what: "session", id: session.to_string() }),
    }
    Ok(tx.commit().await?)
}

/// Closes a session and releases what it holds; the number of leases released. `by` is none when its worker wants it.
pub(super) async fn close(
    db: &mut SqliteConnection,
    session: i64,
    reason: &str,
    by: Option<&By>,
    now: Timestamp,
) -> Result<u64> {
    let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
        "SELECT {SHARD_COLUMNS} FROM leases AS l JOIN shards AS s ON s.key = l.shard \
         WHERE l.session = ? AND l.ended_at IS NULL ORDER BY s.key"
    )))
    .bind(session)
    .fetch_all(&mut *db)
    .await?;
    for row in &rows {
        let mut shard = Shard::read(row)?;
        if let Some(held) = HeldBy::find(db, shard.key).await? {
            let detail = json!({ "reason": "session_closed", "message": reason });
            let end = Ending { detail: Some(detail), by, reason, ..Ending::new(LeaseEnd::Released) };
            shard.give_back(db, &held, end, Duration::ZERO, now).await?;
        }
    }
    sqlx::query("UPDATE sessions SET closed_at = ?, close_reason = ? WHERE key = ?")
        .bind(time_text(now))
        .bind(reason)
        .bind(session)
        .execute(&mut *db)
        .await?;
    let detail: Value = json!({ "reason": reason });
    let event = Event {
        session: Some(session),
        detail: Some(detail),
        by,
        reason,
        ..Event::new(EventKind::SessionClosed)
    };
    record(db, event, now).await?;
    Ok(rows.len() as u64)
}

pub(super) async fn close_silent_sessions(
    store: &SqliteStore,
    before: Timestamp,
    now: Timestamp,
) -> Result<u64> {
    const SILENT: &str = "SELECT key FROM sessions WHERE closed_at IS NULL AND seen_at < ?1 \
        AND NOT EXISTS (SELECT 1 FROM leases AS l WHERE l.session = sessions.key AND l.ended_at IS NULL)";
    let before = time_text(before);
    if sqlx::query(SILENT).bind(&before).fetch_optional(&store.reader).await?.is_none() {
        return Ok(0);
    }
    let mut tx = store.write().await?;
    let rows = sqlx::query(SILENT).bind(&before).fetch_all(&mut *tx).await?;
    for row in &rows {
        close(&mut tx, row.try_get("key")?, "silent", Some(&By::farm("silent")), now).await?;
    }
    tx.commit().await?;
    Ok(rows.len() as u64)
}

//! Sessions of workers, and what they do with their leases besides rendering.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use sqlx::types::Json;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::PostgresStore;
use super::codec::{Time, clean, expiry, id, json_text, uuid};
use super::event::{Event, record};
use super::refusals;
use super::shard_state::{Ending, Shard, give_back, lock_shards};
use crate::domain::event::EventKind;
use crate::domain::id::SessionId;
use crate::domain::leaving::Drain;
use crate::domain::schedule::Device;
use crate::domain::state::LeaseEnd;
use crate::store::records::{
    By, Kept, LeaseRef, NewSession, OfWorker, Release, ReleaseReason, Renewal, Renewed,
};
use crate::store::{Error, Result};

/// Sessions that one transaction closes as silent.
const SILENT_AT_ONCE: i64 = 100;

pub(super) async fn open_session(
    store: &PostgresStore,
    session: &NewSession,
    now: Timestamp,
) -> Result<SessionId> {
    let mut tx = store.begin(now).await?;
    let id = Uuid::now_v7();
    let (worker, version) = (clean(&session.worker), clean(&session.version));
    let devices: Vec<Device> = session.devices.iter().map(clean_device).collect();
    let labels: BTreeMap<_, _> =
        session.labels.iter().map(|(name, value)| (clean(name), clean(value))).collect();
    let key: i64 = sqlx::query_scalar(
        "INSERT INTO sessions (id, worker, version, devices, labels, embedded, coordinator, opened_at, seen_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8) RETURNING key",
    )
    .bind(id)
    .bind(&*worker)
    .bind(&*version)
    .bind(Json(devices))
    .bind(Json(labels))
    .bind(session.embedded)
    .bind(store.life.key)
    .bind(Time(now))
    .fetch_one(&mut *tx)
    .await?;
    let detail = json!({ "worker": worker, "version": version });
    let event = Event { session: Some(key), detail: Some(detail), ..Event::new(EventKind::SessionOpened) };
    record(&mut tx, event, now).await?;
    tx.commit().await?;
    Ok(SessionId::from(id.to_string()))
}

fn clean_device(device: &Device) -> Device {
    Device {
        id: clean(&device.id).into_owned(),
        name: clean(&device.name).into_owned(),
        compute_capability: clean(&device.compute_capability).into_owned(),
        driver: clean(&device.driver).into_owned(),
        ..*device
    }
}

pub(super) async fn session(store: &PostgresStore, session: &SessionId) -> Result<NewSession> {
    let row = sqlx::query(
        "SELECT worker, version, devices, labels, embedded, closed_at IS NULL AS open FROM sessions WHERE id = $1",
    )
    .bind(uuid(session.as_str()))
    .fetch_optional(&store.pool)
    .await?;
    let Some(row) = row else { return Err(not_found(session)) };
    if !row.try_get::<bool, _>("open")? {
        return Err(Error::SessionClosed(session.clone()));
    }
    Ok(NewSession {
        worker: row.try_get("worker")?,
        version: row.try_get("version")?,
        devices: row.try_get::<Json<_>, _>("devices")?.0,
        labels: row.try_get::<Json<_>, _>("labels")?.0,
        embedded: row.try_get("embedded")?,
    })
}

/// There is no such session.
pub(super) fn not_found(session: &SessionId) -> Error {
    Error::NotFound { what: "session", id: session.to_string() }
}

/// The key of a session, which gave a sign of life if it is open, and whether it is; none when it is not known. Nobody
/// closes it until the transaction ends.
pub(super) async fn find(
    db: &mut PgConnection,
    session: &SessionId,
    now: Timestamp,
) -> Result<Option<(i64, bool)>> {
    let id = uuid(session.as_str());
    sqlx::query("SELECT see_sessions($1, $2)").bind([id]).bind(Time(now)).execute(&mut *db).await?;
    let row = sqlx::query("SELECT key, closed_at IS NULL AS open FROM sessions WHERE id = $1 FOR KEY SHARE")
        .bind(id)
        .fetch_optional(&mut *db)
        .await?;
    row.map(|row| Ok((row.try_get("key")?, row.try_get("open")?))).transpose()
}

/// One statement for all.
pub(super) async fn renew_leases(
    store: &PostgresStore,
    renewals: &[Renewal],
    duration: Duration,
    now: Timestamp,
) -> Result<Vec<Result<Renewed>>> {
    let db = store.writer(now).await?;
    let sessions: Vec<Option<Uuid>> = renewals.iter().map(|renewal| uuid(renewal.session.as_str())).collect();
    let stats = renewals.iter().map(|renewal| renewal.stats.as_ref().map(json_text).transpose());
    let held = || {
        let of = |renewal: usize| renewals[renewal].held.iter().map(move |held| (renewal, held));
        (0..renewals.len()).flat_map(of)
    };
    let row = sqlx::query("SELECT * FROM renew_leases($1, $2, $3, $4, $5, $6, $7, $8, $9)")
        .bind(&sessions)
        .bind(stats.collect::<Result<Vec<_>>>()?)
        .bind(renewals.iter().map(|renewal| renewal.leaving.as_deref().map(clean)).collect::<Vec<_>>())
        .bind(held().map(|(renewal, _)| sessions[renewal]).collect::<Vec<_>>())
        .bind(held().map(|(_, held)| uuid(held.lease.shard.as_str())).collect::<Vec<_>>())
        .bind(held().map(|(_, held)| attempt(held.lease.attempt)).collect::<Vec<_>>())
        .bind(held().map(|(_, held)| indices(&held.rendering)).collect::<Vec<_>>())
        .bind(Time(now))
        .bind(Time(expiry(now, duration)?))
        .fetch_one(db)
        .await?;
    let numbers = |column: &str| -> Result<HashSet<usize>> {
        let numbers: Option<Vec<i64>> = row.try_get(column)?;
        Ok(numbers.into_iter().flatten().filter_map(|number| usize::try_from(number - 1).ok()).collect())
    };
    let (unknown, closed) = (numbers("unknown")?, numbers("closed")?);
    let renewed: Option<Vec<i64>> = row.try_get("renewed")?;
    let lasts: Option<Vec<i64>> = row.try_get("lasts")?;
    let lasts: HashMap<i64, i64> = renewed.into_iter().flatten().zip(lasts.into_iter().flatten()).collect();
    let drains: Option<Vec<Option<String>>> = row.try_get("drains")?;
    let drains = drains.unwrap_or_default();
    let mut answers: Vec<Result<Renewed>> = Vec::with_capacity(renewals.len());
    for (number, Renewal { session, .. }) in renewals.iter().enumerate() {
        answers.push(if unknown.contains(&number) {
            Err(not_found(session))
        } else if closed.contains(&number) {
            Err(Error::SessionClosed(session.clone()))
        } else {
            let drain = drains.get(number).and_then(Option::as_deref).map(str::parse).transpose()?;
            Ok(Renewed { kept: Vec::new(), drain })
        });
    }
    for (number, (renewal, held)) in (1..).zip(held()) {
        if let (Some(last), Ok(renewed)) = (lasts.get(&number), &mut answers[renewal]) {
            renewed.kept.push(Kept { lease: held.lease.clone(), last_index: last.unsigned_abs() });
        }
    }
    Ok(answers)
}

pub(super) async fn drain(
    store: &PostgresStore,
    of: &OfWorker,
    drain: Drain,
    by: &By,
    now: Timestamp,
) -> Result<Vec<SessionId>> {
    let mut tx = store.begin(now).await?;
    let whose = match &of.session {
        Some(_) => "w.id = $1::text::uuid",
        None => "w.worker = $1::text",
    };
    // Waits for the claims of these sessions.
    let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
        "SELECT w.key, w.id, w.drain FROM sessions AS w WHERE {whose} AND w.closed_at IS NULL ORDER BY w.key FOR UPDATE"
    )))
    .bind(of.session.as_ref().map_or(of.worker.as_str(), SessionId::as_str))
    .fetch_all(&mut *tx)
    .await?;
    let mut asked = Vec::with_capacity(rows.len());
    for row in &rows {
        let before = row.try_get::<Option<&str>, _>("drain")?.map(str::parse::<Drain>).transpose()?;
        if before < Some(drain) {
            let key: i64 = row.try_get("key")?;
            sqlx::query("UPDATE sessions SET drain = $2 WHERE key = $1")
                .bind(key)
                .bind(drain.word())
                .execute(&mut *tx)
                .await?;
            let detail = json!({ "drain": drain.word() });
            let event = Event {
                session: Some(key),
                detail: Some(detail),
                by: Some(by),
                ..Event::new(EventKind::WorkerDrained)
            };
            record(&mut tx, event, now).await?;
        }
        asked.push(id(row, "id")?);
    }
    tx.commit().await?;
    Ok(asked)
}

/// An attempt as it is stored; 0, which is none, for one that was never given out.
pub(super) fn attempt(attempt: u32) -> i32 {
    i32::try_from(attempt).unwrap_or(0)
}

/// An array of those indices that there can be.
fn indices(rendering: &[u64]) -> String {
    let known: Vec<String> = rendering
        .iter()
        .filter_map(|index| i64::try_from(*index).ok())
        .map(|index| index.to_string())
        .collect();
    format!("{{{}}}", known.join(","))
}

pub(super) async fn release_lease(
    store: &PostgresStore,
    session: &SessionId,
    lease: &LeaseRef,
    release: &Release,
    now: Timestamp,
) -> Result<()> {
    let mut tx = store.begin(now).await?;
    let key = match find(&mut tx, session, now).await? {
        Some((key, true)) => key,
        Some((_, false)) => return Err(Error::SessionClosed(session.clone())),
        None => return Err(not_found(session)),
    };
    let shard = Shard::lock(&mut tx, &lease.shard).await?;
    let held = sqlx::query(
        "SELECT FROM leases WHERE shard = $1 AND attempt = $2 AND session = $3 AND ended_at IS NULL",
    )
    .bind(shard.key)
    .bind(attempt(lease.attempt))
    .bind(key)
    .fetch_optional(&mut *tx)
    .await?;
    if held.is_some() {
        let delay = match release.reason {
            ReleaseReason::Finished => shard.retry_delay(&mut tx).await?,
            ReleaseReason::Storage | ReleaseReason::Drain | ReleaseReason::Unknown => Duration::ZERO,
        };
        if release.reason == ReleaseReason::Storage {
            refusals::note(&mut tx, key, shard.job, &release.message, now).await?;
        }
        let detail = json!({ "reason": release.reason.word(), "message": clean(&release.message) });
        let end =
            Ending { detail: Some(detail), reason: &release.message, ..Ending::new(LeaseEnd::Released) };
        give_back(&mut tx, &[shard.key], end, delay, now).await?;
    }
    Ok(tx.commit().await?)
}

pub(super) async fn close_session(
    store: &PostgresStore,
    session: &SessionId,
    reason: &str,
    now: Timestamp,
) -> Result<()> {
    let mut tx = store.begin(now).await?;
    // Waits for claims and releases of this session.
    let row = sqlx::query("SELECT key, closed_at IS NULL AS open FROM sessions WHERE id = $1 FOR UPDATE")
        .bind(uuid(session.as_str()))
        .fetch_optional(&mut *tx)
        .await?;
    let Some(row) = row else { return Err(not_found(session)) };
    if row.try_get("open")? {
        close(&mut tx, row.try_get("key")?, reason, None, now).await?;
    }
    Ok(tx.commit().await?)
}

/// Closes a session, which the transaction has locked, and releases what it holds; the number of leases released. `by`
/// is none when its worker wants it.
pub(super) async fn close(
    db: &mut PgConnection,
    session: i64,
    reason: &str,
    by: Option<&By>,
    now: Timestamp,
) -> Result<u64> {
    let reason = clean(reason);
    let held: Vec<i64> =
        sqlx::query_scalar("SELECT shard FROM leases WHERE session = $1 AND ended_at IS NULL")
            .bind(session)
            .fetch_all(&mut *db)
            .await?;
    let mut released = 0;
    if !held.is_empty() {
        lock_shards(db, &held).await?;
        let detail = json!({ "reason": "session_closed", "message": reason });
        let end = Ending { detail: Some(detail), by, reason: &reason, ..Ending::new(LeaseEnd::Released) };
        released = give_back(db, &held, end, Duration::ZERO, now).await?;
    }
    sqlx::query("UPDATE sessions SET closed_at = $2, close_reason = $3 WHERE key = $1")
        .bind(session)
        .bind(Time(now))
        .bind(&*reason)
        .execute(&mut *db)
        .await?;
    let detail = json!({ "reason": reason });
    let event = Event {
        session: Some(session),
        detail: Some(detail),
        by,
        reason: &reason,
        ..Event::new(EventKind::SessionClosed)
    };
    record(db, event, now).await?;
    Ok(released)
}

pub(super) async fn close_silent_sessions(
    store: &PostgresStore,
    before: Timestamp,
    now: Timestamp,
) -> Result<u64> {
    const IDLE: &str = "w.closed_at IS NULL AND w.seen_at < $1 \
        AND NOT EXISTS (SELECT FROM leases AS l WHERE l.session = w.key AND l.ended_at IS NULL)";
    let mut tx = store.begin(now).await?;
    let locked: Vec<i64> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
        "SELECT w.key FROM sessions AS w WHERE {IDLE} ORDER BY w.key LIMIT $2 FOR UPDATE SKIP LOCKED"
    )))
    .bind(Time(before))
    .bind(SILENT_AT_ONCE)
    .fetch_all(&mut *tx)
    .await?;
    if locked.is_empty() {
        return Ok(0);
    }
    // One of them may have got a lease before it was locked.
    let silent: Vec<i64> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
        "SELECT w.key FROM sessions AS w WHERE w.key = ANY ($2) AND {IDLE} ORDER BY w.key"
    )))
    .bind(Time(before))
    .bind(&locked)
    .fetch_all(&mut *tx)
    .await?;
    for session in &silent {
        close(&mut tx, *session, "silent", Some(&By::farm("silent")), now).await?;
    }
    tx.commit().await?;
    Ok(silent.len() as u64)
}

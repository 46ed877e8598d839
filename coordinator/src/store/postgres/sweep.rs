//! What is taken back: expired leases, and what lived in a process that ended.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use sqlx::{PgConnection, Row};

use super::PostgresStore;
use super::codec::{Time, expiry, small};
use super::life::lives;
use super::session::close;
use super::shard_state::{Ending, Failure, SHARD_COLUMNS, Shard, fail_image, give_back, lock_shards};
use crate::domain::blame::{Caps, ErrorClass, Verdict, after_loss};
use crate::domain::state::LeaseEnd;
use crate::store::Result;
use crate::store::records::{By, Recovered};

/// Leases that one transaction takes back.
const EXPIRED_AT_ONCE: i64 = 100;
/// Why sessions end that lived in a process that ended.
const ENDED: &str = "process ended";

pub(super) async fn recover(
    store: &PostgresStore,
    lease_duration: Duration,
    now: Timestamp,
) -> Result<Recovered> {
    let me = store.life.key;
    let mut tx = store.begin(now).await?;
    // One after the other: the first to come after nobody was there does what is to be done once.
    sqlx::query("LOCK TABLE coordinators IN SHARE ROW EXCLUSIVE MODE").execute(&mut *tx).await?;
    let others: bool = sqlx::query_scalar(concat!(
        "SELECT EXISTS (SELECT FROM coordinators AS c WHERE c.key <> $1 AND c.recovered_at IS NOT NULL AND ",
        lives!("c.key"),
        ")"
    ))
    .bind(me)
    .fetch_one(&mut *tx)
    .await?;
    let mut recovered = Recovered::default();
    // A worker inside a process died with it. That says nothing about the images it had in hand: somebody killed the
    // process, or the power went. So its leases cost nothing.
    let orphans: Vec<i64> = sqlx::query_scalar(concat!(
        "SELECT w.key FROM sessions AS w WHERE w.closed_at IS NULL AND w.embedded AND (w.coordinator = $1 OR NOT ",
        lives!("w.coordinator"),
        ") ORDER BY w.key FOR UPDATE"
    ))
    .bind(me)
    .fetch_all(&mut *tx)
    .await?;
    for session in orphans {
        recovered.released += close(&mut tx, session, ENDED, Some(&By::farm(ENDED)), now).await?;
    }
    recovered.abandoned = sqlx::query(concat!(
        "UPDATE jobs SET client_token = NULL WHERE sealed_at IS NULL AND client_token IS NOT NULL \
         AND (coordinator = $1 OR NOT ",
        lives!("coordinator"),
        ")"
    ))
    .bind(me)
    .execute(&mut *tx)
    .await?
    .rows_affected();
    if !others {
        welcome_back(&mut tx, lease_duration, now).await?;
    }
    sqlx::query("UPDATE coordinators SET recovered_at = now() WHERE key = $1")
        .bind(me)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(recovered)
}

/// Workers elsewhere could not renew while there was no coordinator: they get the full time to come back.
async fn welcome_back(db: &mut PgConnection, lease_duration: Duration, now: Timestamp) -> Result<()> {
    sqlx::query("UPDATE leases SET expires_at = $1 WHERE ended_at IS NULL AND expires_at < $1")
        .bind(Time(expiry(now, lease_duration)?))
        .execute(&mut *db)
        .await?;
    sqlx::query("UPDATE sessions SET seen_at = $1 WHERE closed_at IS NULL")
        .bind(Time(now))
        .execute(&mut *db)
        .await?;
    // What stood in the way of a manifest may be gone; the next try tells.
    sqlx::query(
        "UPDATE jobs SET output_error = NULL WHERE state IN ('running', 'paused') AND sealed_at IS NOT NULL \
         AND output_error IS NOT NULL",
    )
    .execute(db)
    .await?;
    Ok(())
}

/// A lease that expired.
struct Expired {
    shard: Shard,
    attempt: i32,
    session: i64,
    /// Indices that were being rendered at the last renewal.
    rendering: Vec<i64>,
}

pub(super) async fn expire_leases(store: &PostgresStore, caps: Caps, now: Timestamp) -> Result<u64> {
    loop {
        let found = sqlx::query(
            "SELECT shard, job FROM leases WHERE ended_at IS NULL AND expires_at <= $1 ORDER BY expires_at LIMIT $2",
        )
        .bind(Time(now))
        .bind(EXPIRED_AT_ONCE)
        .fetch_all(store.writer(now).await?)
        .await?;
        if found.is_empty() {
            return Ok(0);
        }
        let column = |name: &str| {
            found.iter().map(|row| row.try_get(name)).collect::<std::result::Result<Vec<i64>, _>>()
        };
        let (shards, jobs) = (column("shard")?, column("job")?);
        let mut tx = store.begin(now).await?;
        // A failed image is counted at its job.
        sqlx::query("SELECT FROM jobs WHERE key = ANY ($1) ORDER BY key FOR NO KEY UPDATE")
            .bind(jobs)
            .execute(&mut *tx)
            .await?;
        lock_shards(&mut tx, &shards).await?;
        let expired = expired(&mut tx, &shards, now).await?;
        for lease in &expired {
            charge_losses(&mut tx, lease, caps, now).await?;
            let detail = json!({ "rendering": lease.rendering });
            let farm = By::farm("");
            let end = Ending { detail: Some(detail), by: Some(&farm), ..Ending::new(LeaseEnd::Lost) };
            give_back(&mut tx, &[lease.shard.key], end, Duration::ZERO, now).await?;
        }
        tx.commit().await?;
        // None, when others were quicker or they were all renewed: there may be more.
        if !expired.is_empty() {
            return Ok(expired.len() as u64);
        }
    }
}

/// Those of the leases on these shards that have still expired now that nobody can renew them.
async fn expired(db: &mut PgConnection, shards: &[i64], now: Timestamp) -> Result<Vec<Expired>> {
    let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
        "SELECT {SHARD_COLUMNS}, l.attempt, l.session, l.rendering \
         FROM leases AS l JOIN shards AS s ON s.key = l.shard \
         WHERE l.shard = ANY ($1) AND l.ended_at IS NULL AND l.expires_at <= $2 ORDER BY l.shard"
    )))
    .bind(shards)
    .bind(Time(now))
    .fetch_all(db)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(Expired {
                shard: Shard::read(row)?,
                attempt: row.try_get("attempt")?,
                session: row.try_get("session")?,
                rendering: row.try_get("rendering")?,
            })
        })
        .collect()
}

/// Each image that was being rendered is charged; one that was charged too often is given up.
async fn charge_losses(db: &mut PgConnection, lease: &Expired, caps: Caps, now: Timestamp) -> Result<()> {
    let shard = &lease.shard;
    for index in &lease.rendering {
        let charged = sqlx::query(
            "INSERT INTO image_faults AS o (job, idx, losses) SELECT i.job, i.idx, 1 FROM images AS i \
             WHERE i.job = $1 AND i.idx = $2 AND i.group_no = $3 AND i.idx BETWEEN $4 AND $5 \
             AND NOT EXISTS (SELECT FROM results AS r WHERE r.job = $1 AND r.idx = $2) \
             ON CONFLICT (job, idx) DO UPDATE SET losses = o.losses + 1 RETURNING losses",
        )
        .bind(shard.job)
        .bind(index)
        .bind(shard.group)
        .bind(shard.first)
        .bind(shard.last)
        .fetch_optional(&mut *db)
        .await?;
        // No row: it has its result, or the worker named an image of another shard.
        let Some(charged) = charged else { continue };
        let losses = small(&charged, "losses")?;
        match after_loss(losses, caps) {
            Verdict::Again => {}
            Verdict::Failed => {
                let error = format!("its worker was lost {losses} times while rendering it");
                let failure = Failure {
                    index: *index,
                    shard: shard.key,
                    attempt: lease.attempt,
                    session: Some(lease.session),
                    device: "",
                    class: ErrorClass::WorkerLost,
                    error: &error,
                    render_seconds: None,
                    by: Some(&By::farm("")),
                };
                fail_image(db, shard, &failure, now).await?;
            }
        }
    }
    Ok(())
}

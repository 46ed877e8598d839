//! What is taken back: expired leases, and what lived in a process that ended.

use std::time::Duration;

use jiff::Timestamp;
use sqlx::{Row, SqliteConnection};

use super::SqliteStore;
use super::codec::{expiry, small, time_text};
use super::session::close;
use super::shard_state::{Ending, Failure, HeldBy, SHARD_COLUMNS, Shard, fail_image};
use crate::domain::blame::{Caps, ErrorClass, Verdict, after_loss};
use crate::domain::state::LeaseEnd;
use crate::store::Result;
use crate::store::records::{By, Recovered};

/// Leases that one transaction takes back.
const EXPIRED_AT_ONCE: i64 = 100;
/// Why sessions end that lived in a process that ended.
const ENDED: &str = "process ended";

pub(super) async fn recover(
    store: &SqliteStore,
    lease_duration: Duration,
    now: Timestamp,
) -> Result<Recovered> {
    let mut tx = store.write().await?;
    let mut recovered = Recovered::default();
    // A worker inside the process died with it. That says nothing about the images it had in hand: somebody
    // killed the process, or the power went. So its leases cost nothing, and `render` can be killed and
    // started again any number of times.
    let rows = sqlx::query("SELECT key FROM sessions WHERE closed_at IS NULL AND embedded = 1")
        .fetch_all(&mut *tx)
        .await?;
    for row in rows {
        recovered.released += close(&mut tx, row.try_get("key")?, ENDED, Some(&By::farm(ENDED)), now).await?;
    }
    // Workers elsewhere could not renew while there was no coordinator: they get the full time to come back.
    sqlx::query("UPDATE leases SET expires_at = ?1 WHERE ended_at IS NULL AND expires_at < ?1")
        .bind(time_text(expiry(now, lease_duration)?))
        .execute(&mut *tx)
        .await?;
    sqlx::query("UPDATE sessions SET seen_at = ? WHERE closed_at IS NULL")
        .bind(time_text(now))
        .execute(&mut *tx)
        .await?;
    // What stood in the way of a manifest may be gone; the next try tells.
    sqlx::query("UPDATE jobs SET output_error = NULL WHERE output_error IS NOT NULL")
        .execute(&mut *tx)
        .await?;
    recovered.abandoned = sqlx::query(
        "UPDATE jobs SET client_token = NULL WHERE sealed_at IS NULL AND client_token IS NOT NULL",
    )
    .execute(&mut *tx)
    .await?
    .rows_affected();
    tx.commit().await?;
    Ok(recovered)
}

pub(super) async fn expire_leases(store: &SqliteStore, caps: Caps, now: Timestamp) -> Result<u64> {
    const EXPIRED: &str = "FROM leases AS l JOIN shards AS s ON s.key = l.shard \
        WHERE l.ended_at IS NULL AND l.expires_at <= ?1 ORDER BY l.expires_at LIMIT ?2";
    let none = sqlx::query(sqlx::AssertSqlSafe(format!("SELECT 1 {EXPIRED}")))
        .bind(time_text(now))
        .bind(1)
        .fetch_optional(&store.reader)
        .await?
        .is_none();
    if none {
        return Ok(0);
    }
    let mut tx = store.write().await?;
    let rows = sqlx::query(sqlx::AssertSqlSafe(format!("SELECT {SHARD_COLUMNS} {EXPIRED}")))
        .bind(time_text(now))
        .bind(EXPIRED_AT_ONCE)
        .fetch_all(&mut *tx)
        .await?;
    for row in &rows {
        let mut shard = Shard::read(row)?;
        if let Some(held) = HeldBy::find(&mut tx, shard.key).await? {
            charge_losses(&mut tx, &shard, &held, caps, now).await?;
            let detail = serde_json::json!({ "rendering": held.rendering });
            let farm = By::farm("");
            let end = Ending { detail: Some(detail), by: Some(&farm), ..Ending::new(LeaseEnd::Lost) };
            shard.give_back(&mut tx, &held, end, Duration::ZERO, now).await?;
        }
    }
    tx.commit().await?;
    Ok(rows.len() as u64)
}

/// Each image that was being rendered is charged; one that was charged too often is given up.
async fn charge_losses(
    db: &mut SqliteConnection,
    shard: &Shard,
    held: &HeldBy,
    caps: Caps,
    now: Timestamp,
) -> Result<()> {
    for index in &held.rendering {
        let charged = sqlx::query(
            "UPDATE images SET losses = losses + 1 \
             WHERE job = ?1 AND idx = ?2 AND group_no = ?3 AND idx BETWEEN ?4 AND ?5 \
             AND NOT EXISTS (SELECT 1 FROM results WHERE job = ?1 AND idx = ?2) RETURNING losses",
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
                    attempt: held.attempt,
                    session: Some(held.session),
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

//! How workers stand.

use jiff::Timestamp;
use serde_json::json;
use sqlx::{Row, SqliteConnection};

use super::codec::{small, time, time_text};
use super::event::{Event, record};
use super::shard_state::Shard;
use crate::domain::blame::Standing;
use crate::store::Result;
use crate::store::records::{Outcome, Report};

/// The standing of a worker.
pub(super) async fn standing(db: &mut SqliteConnection, worker: &str) -> Result<Standing> {
    let row = sqlx::query(
        "SELECT failures, last_failed, exclusions, excluded_until FROM standings WHERE worker = ?",
    )
    .bind(worker)
    .fetch_optional(db)
    .await?;
    let Some(row) = row else { return Ok(Standing::default()) };
    Ok(Standing {
        failures: small(&row, "failures")?,
        last_failed: row.try_get("last_failed")?,
        exclusions: small(&row, "exclusions")?,
        excluded_until: row.try_get::<Option<&str>, _>("excluded_until")?.map(time).transpose()?,
    })
}

/// Whether the worker of a session gets nothing now.
pub(super) async fn is_excluded(db: &mut SqliteConnection, session: i64, now: Timestamp) -> Result<bool> {
    let row =
        sqlx::query("SELECT worker FROM sessions WHERE key = ?").bind(session).fetch_one(&mut *db).await?;
    Ok(standing(db, row.try_get("worker")?).await?.is_excluded(now))
}

/// What a report says about its worker. A worker inside the process is the only one that its job has: it is never taken out.
pub(super) async fn judge(
    db: &mut SqliteConnection,
    shard: &Shard,
    session: i64,
    report: &Report,
    now: Timestamp,
) -> Result<()> {
    let row = sqlx::query("SELECT worker, embedded FROM sessions WHERE key = ?")
        .bind(session)
        .fetch_one(&mut *db)
        .await?;
    if row.try_get("embedded")? {
        return Ok(());
    }
    let worker: String = row.try_get("worker")?;
    let before = standing(db, &worker).await?;
    let after = report.results.iter().fold(before.clone(), |standing, result| match &result.outcome {
        Outcome::Done { .. } => Standing::after_done(),
        Outcome::Failed { class, .. } => {
            standing.after_error(*class, &format!("{}/{}", shard.job, result.index), now)
        }
    });
    if after == before {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO standings (worker, failures, last_failed, exclusions, excluded_until) \
         VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (worker) DO UPDATE SET failures = ?2, last_failed = ?3, \
         exclusions = ?4, excluded_until = ?5",
    )
    .bind(&worker)
    .bind(after.failures)
    .bind(&after.last_failed)
    .bind(after.exclusions)
    .bind(after.excluded_until.map(time_text))
    .execute(&mut *db)
    .await?;
    if let (true, Some(until)) = (after.exclusions > before.exclusions, after.excluded_until) {
        let detail = json!({ "until": time_text(until), "times": after.exclusions });
        let event = Event {
            kind: "worker_excluded",
            session: Some(session),
            detail: Some(detail),
            ..Event::default()
        };
        record(db, event, now).await?;
    }
    Ok(())
}

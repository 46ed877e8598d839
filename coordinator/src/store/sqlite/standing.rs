//! How workers stand.

use jiff::Timestamp;
use serde_json::json;
use sqlx::{Row, SqliteConnection};

use super::codec::{small, time, time_text};
use super::event::{Event, record};
use super::refusals;
use super::shard_state::Shard;
use crate::domain::blame::{Standing, Turned};
use crate::domain::event::EventKind;
use crate::store::Result;
use crate::store::records::{By, Outcome, Report};

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
    let mut after = before.clone();
    for result in &report.results {
        if let Outcome::Failed { class, message } = &result.outcome
            && class.is_refusal()
        {
            refusals::note(db, session, shard.job, message, now).await?;
        }
        let next = match &result.outcome {
            Outcome::Done { .. } => Standing::after_done(),
            Outcome::Failed { class, .. } => {
                after.clone().after_error(*class, &format!("{}/{}", shard.job, result.index), now)
            }
        };
        if let Some(turned) = after.turned(&next) {
            tell(db, session, turned, now).await?;
        }
        after = next;
    }
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
    Ok(())
}

/// Writes down that a worker was taken out or forgiven.
async fn tell(db: &mut SqliteConnection, session: i64, turned: Turned, now: Timestamp) -> Result<()> {
    let (kind, detail) = match turned {
        Turned::Excluded { until, times } => {
            (EventKind::WorkerExcluded, json!({ "until": time_text(until), "times": times }))
        }
        Turned::Forgiven { times } => (EventKind::WorkerForgiven, json!({ "times": times })),
    };
    let farm = By::farm("");
    let event = Event { session: Some(session), detail: Some(detail), by: Some(&farm), ..Event::new(kind) };
    record(db, event, now).await
}

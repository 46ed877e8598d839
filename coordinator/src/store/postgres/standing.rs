//! How workers stand. A worker that has failed nothing since its last picture has no row: what the statement that
//! commits pictures deletes.

use jiff::Timestamp;
use serde_json::json;
use sqlx::{PgConnection, Row};

use super::codec::{Time, optional_time, small, small_signed};
use super::event::{Event, record};
use super::refusals;
use super::shard_state::Shard;
use crate::domain::blame::{Standing, Turned};
use crate::domain::event::EventKind;
use crate::store::Result;
use crate::store::records::{By, Outcome, Report};

/// A worker whose standing the transaction has locked.
pub(super) struct Judged {
    session: i64,
    worker: String,
    standing: Standing,
}

/// The worker of a session. One inside a coordinator's process is the only one that its job has: it is never taken
/// out.
pub(super) async fn lock(db: &mut PgConnection, session: i64) -> Result<Option<Judged>> {
    let worker: Option<String> =
        sqlx::query_scalar("SELECT worker FROM sessions WHERE key = $1 AND NOT embedded")
            .bind(session)
            .fetch_optional(&mut *db)
            .await?;
    let Some(worker) = worker else { return Ok(None) };
    let row = sqlx::query(
        "SELECT failures, last_failed, exclusions, excluded_until FROM standings WHERE worker = $1 FOR UPDATE",
    )
    .bind(&worker)
    .fetch_optional(db)
    .await?;
    let standing = match row {
        None => Standing::default(),
        Some(row) => Standing {
            failures: small(&row, "failures")?,
            last_failed: row.try_get("last_failed")?,
            exclusions: small(&row, "exclusions")?,
            excluded_until: optional_time(&row, "excluded_until")?,
        },
    };
    Ok(Some(Judged { session, worker, standing }))
}

/// What a report says about its worker.
pub(super) async fn judge(
    db: &mut PgConnection,
    shard: &Shard,
    before: Judged,
    report: &Report,
    now: Timestamp,
) -> Result<()> {
    let Judged { session, worker, standing: before } = before;
    let mut after = before.clone();
    // The first that is forgiven is forgiven, and told so, by the statement that commits pictures.
    let mut told = before.exclusions == 0;
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
        match after.turned(&next) {
            Some(Turned::Forgiven { .. }) if !told => told = true,
            Some(turned) => tell(db, session, turned, now).await?,
            None => {}
        }
        after = next;
    }
    if after == before {
        return Ok(());
    }
    sqlx::query("DELETE FROM standings WHERE worker = $1").bind(&worker).execute(&mut *db).await?;
    if after != Standing::default() {
        sqlx::query(
            "INSERT INTO standings (worker, failures, last_failed, exclusions, excluded_until) \
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(&worker)
        .bind(small_signed(after.failures, "failures")?)
        .bind(&after.last_failed)
        .bind(small_signed(after.exclusions, "exclusions")?)
        .bind(after.excluded_until.map(Time))
        .execute(&mut *db)
        .await?;
    }
    Ok(())
}

/// Writes down that a worker was taken out or forgiven.
async fn tell(db: &mut PgConnection, session: i64, turned: Turned, now: Timestamp) -> Result<()> {
    let (kind, detail) = match turned {
        Turned::Excluded { until, times } => {
            (EventKind::WorkerExcluded, json!({ "until": format!("{until:.3}"), "times": times }))
        }
        Turned::Forgiven { times } => (EventKind::WorkerForgiven, json!({ "times": times })),
    };
    let farm = By::farm("");
    let event = Event { session: Some(session), detail: Some(detail), by: Some(&farm), ..Event::new(kind) };
    record(db, event, now).await
}

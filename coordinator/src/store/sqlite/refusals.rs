//! Workers that refuse a job for a while.

use jiff::Timestamp;
use sqlx::{Row, SqliteConnection};

use super::SqliteStore;
use super::codec::{small, time, time_text};
use crate::domain::blame::{Refused, forgotten};
use crate::domain::id::JobId;
use crate::store::Result;
use crate::store::records::Refusal;

/// The worker of a session cannot render a job. One inside the process is the only one that its job has: it never refuses.
pub(super) async fn note(
    db: &mut SqliteConnection,
    session: i64,
    job: i64,
    why: &str,
    now: Timestamp,
) -> Result<()> {
    let worker: Option<String> =
        sqlx::query_scalar("SELECT worker FROM sessions WHERE key = ? AND NOT embedded")
            .bind(session)
            .fetch_optional(&mut *db)
            .await?;
    let Some(worker) = worker else { return Ok(()) };
    let row = sqlx::query("SELECT times, until FROM refusals WHERE job = ? AND worker = ?")
        .bind(job)
        .bind(&worker)
        .fetch_optional(&mut *db)
        .await?;
    let before = row.map(|row| {
        Ok::<_, crate::store::Error>(Refused {
            times: small(&row, "times")?,
            until: time(row.try_get("until")?)?,
        })
    });
    // Of jobs that ended long ago, and workers that are gone.
    sqlx::query("DELETE FROM refusals WHERE until < ?")
        .bind(time_text(forgotten(now)))
        .execute(&mut *db)
        .await?;
    let Refused { times, until } = Refused::again(before.transpose()?, now);
    sqlx::query(
        "INSERT INTO refusals (job, worker, why, times, until) VALUES (?1, ?2, ?3, ?4, ?5) \
         ON CONFLICT (job, worker) DO UPDATE SET why = ?3, times = ?4, until = ?5",
    )
    .bind(job)
    .bind(&worker)
    .bind(why)
    .bind(times)
    .bind(time_text(until))
    .execute(db)
    .await?;
    Ok(())
}

pub(super) async fn refusals(store: &SqliteStore, now: Timestamp) -> Result<Vec<Refusal>> {
    let rows = sqlx::query(
        "SELECT j.id, r.worker, r.why, r.until FROM refusals AS r JOIN jobs AS j ON j.key = r.job \
         WHERE r.until > ? ORDER BY r.job, r.worker",
    )
    .bind(time_text(now))
    .fetch_all(&store.reader)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(Refusal {
                job: JobId::from(row.try_get::<String, _>("id")?),
                worker: row.try_get("worker")?,
                why: row.try_get("why")?,
                until: time(row.try_get("until")?)?,
            })
        })
        .collect()
}

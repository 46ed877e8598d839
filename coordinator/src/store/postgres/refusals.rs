//! Workers that refuse a job for a while.

use jiff::Timestamp;
use sqlx::{PgConnection, Row};

use super::PostgresStore;
use super::codec::{Time, clean, id, small, small_signed, time};
use crate::domain::blame::{Refused, forgotten};
use crate::store::Result;
use crate::store::records::Refusal;

/// The worker of a session cannot render a job. One inside a coordinator's process is the only one that its job has: it never
/// refuses.
pub(super) async fn note(
    db: &mut PgConnection,
    session: i64,
    job: i64,
    why: &str,
    now: Timestamp,
) -> Result<()> {
    let worker: Option<String> =
        sqlx::query_scalar("SELECT worker FROM sessions WHERE key = $1 AND NOT embedded")
            .bind(session)
            .fetch_optional(&mut *db)
            .await?;
    let Some(worker) = worker else { return Ok(()) };
    let row = sqlx::query("SELECT times, until FROM refusals WHERE job = $1 AND worker = $2")
        .bind(job)
        .bind(&worker)
        .fetch_optional(&mut *db)
        .await?;
    let before = row.map(|row| {
        Ok::<_, crate::store::Error>(Refused { times: small(&row, "times")?, until: time(&row, "until")? })
    });
    // Of jobs that ended long ago, and workers that are gone.
    sqlx::query("DELETE FROM refusals WHERE until < $1").bind(Time(forgotten(now))).execute(&mut *db).await?;
    let Refused { times, until } = Refused::again(before.transpose()?, now);
    sqlx::query(
        "INSERT INTO refusals (job, worker, why, times, until) VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT (job, worker) DO UPDATE SET why = excluded.why, times = excluded.times, until = excluded.until",
    )
    .bind(job)
    .bind(&worker)
    .bind(&*clean(why))
    .bind(small_signed(times, "times")?)
    .bind(Time(until))
    .execute(db)
    .await?;
    Ok(())
}

pub(super) async fn refusals(store: &PostgresStore, now: Timestamp) -> Result<Vec<Refusal>> {
    let rows = sqlx::query(
        "SELECT j.id, r.worker, r.why, r.until FROM refusals AS r JOIN jobs AS j ON j.key = r.job \
         WHERE r.until > $1 ORDER BY r.job, r.worker",
    )
    .bind(Time(now))
    .fetch_all(&store.pool)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(Refusal {
                job: id(row, "id")?,
                worker: row.try_get("worker")?,
                why: row.try_get("why")?,
                until: time(row, "until")?,
            })
        })
        .collect()
}

//! Jobs that wait for others, and jobs that are called off.

use jiff::Timestamp;
use sqlx::{Row, SqliteConnection};

use super::SqliteStore;
use super::change::cancel;
use super::codec::{time, time_text};
use super::{finish, read};
use crate::domain::id::JobId;
use crate::domain::waiting::Wanted;
use crate::store::Result;
use crate::store::records::{By, CalledOff, awaited};

/// Jobs that one transaction calls off.
const AT_ONCE: i64 = 100;

/// The jobs that a new one is to wait for: their keys, and whether any end will do.
pub(super) async fn find(db: &mut SqliteConnection, wanted: &[Wanted]) -> Result<Vec<(i64, bool)>> {
    let mut found = Vec::with_capacity(wanted.len());
    for wanted in wanted {
        let (key, job) = read::find(&mut *db, &wanted.job).await?;
        awaited(&job, wanted.any_end).check()?;
        found.push((key, wanted.any_end));
    }
    Ok(found)
}

/// Has a new job wait for what was found. Wanted in both ways, a job must succeed.
pub(super) async fn insert(db: &mut SqliteConnection, job: i64, after: &[(i64, bool)]) -> Result<()> {
    for (needed, any_end) in after {
        sqlx::query(
            "INSERT INTO job_dependencies (job, needs_job, any_end) VALUES (?, ?, ?) \
             ON CONFLICT DO UPDATE SET any_end = min(any_end, excluded.any_end)",
        )
        .bind(job)
        .bind(needed)
        .bind(any_end)
        .execute(&mut *db)
        .await?;
    }
    Ok(())
}

/// Jobs that may have to be called off.
const HOPELESS: &str = "\
    SELECT j.key, j.id FROM jobs AS j WHERE j.deadline <= ?1 AND j.state IN ('pending', 'running', 'paused') \
    AND j.sealed_at IS NOT NULL AND j.done + j.failed < j.images \
    UNION SELECT j.key, j.id FROM jobs AS j WHERE j.state IN ('pending', 'paused') AND j.started_at IS NULL \
    AND j.sealed_at IS NOT NULL AND EXISTS (SELECT 1 FROM job_dependencies AS d JOIN jobs AS n ON n.key = d.needs_job \
    WHERE d.job = j.key AND d.any_end = 0 AND n.state IN ('failed', 'cancelled')) ORDER BY key LIMIT ?2";

pub(super) async fn call_off(store: &SqliteStore, now: Timestamp) -> Result<Vec<CalledOff>> {
    // A look without the write lock: there is hardly ever anything.
    let found = sqlx::query(HOPELESS).bind(time_text(now)).bind(AT_ONCE).fetch_all(&store.reader).await?;
    let mut called_off = Vec::new();
    if found.is_empty() {
        return Ok(called_off);
    }
    let mut tx = store.write().await?;
    for row in &found {
        let (key, job) = finish::find(&mut tx, &JobId::from(row.try_get::<String, _>("id")?)).await?;
        let Some(why) = job.call_off(now) else { continue };
        let by = By::farm(&why.to_string());
        cancel(&mut tx, key, &job, &by, now).await?;
        called_off.push(CalledOff { job: job.id, why });
    }
    tx.commit().await?;
    Ok(called_off)
}

pub(super) async fn next_deadline(store: &SqliteStore, now: Timestamp) -> Result<Option<Timestamp>> {
    let row = sqlx::query(
        "SELECT min(deadline) AS deadline FROM jobs WHERE deadline > ? AND state IN ('pending', 'running', 'paused') \
         AND sealed_at IS NOT NULL",
    )
    .bind(time_text(now))
    .fetch_one(&store.reader)
    .await?;
    row.try_get::<Option<&str>, _>("deadline")?.map(time).transpose()
}

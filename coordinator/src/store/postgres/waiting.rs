//! Jobs that wait for others, and jobs that are called off.

use std::collections::BTreeMap;

use jiff::Timestamp;
use sqlx::PgConnection;

use super::PostgresStore;
use super::change::cancel;
use super::codec::{Time, id, optional_time};
use super::finish::lock;
use super::read;
use super::trouble::retried;
use crate::domain::id::JobId;
use crate::domain::waiting::Wanted;
use crate::store::Result;
use crate::store::records::{By, CalledOff, awaited};

/// Jobs that one call calls off.
const AT_ONCE: i64 = 100;

/// The jobs that a new one is to wait for: their keys, and whether any end will do. Wanted in both ways, a job must
/// succeed.
pub(super) async fn find(db: &mut PgConnection, wanted: &[Wanted]) -> Result<BTreeMap<i64, bool>> {
    let mut found = BTreeMap::new();
    for wanted in wanted {
        let (key, job) = read::find(&mut *db, None, &wanted.job).await?;
        awaited(&job, wanted.any_end).check()?;
        *found.entry(key).or_insert(true) &= wanted.any_end;
    }
    Ok(found)
}

/// Has a new job wait for what was found.
pub(super) async fn insert(db: &mut PgConnection, job: i64, after: &BTreeMap<i64, bool>) -> Result<()> {
    if after.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO job_dependencies (job, needs_job, any_end) \
         SELECT $1, a.needs_job, a.any_end FROM unnest($2::bigint[], $3::boolean[]) AS a (needs_job, any_end) \
         ORDER BY a.needs_job",
    )
    .bind(job)
    .bind(after.keys().copied().collect::<Vec<_>>())
    .bind(after.values().copied().collect::<Vec<_>>())
    .execute(db)
    .await?;
    Ok(())
}

/// Jobs that may have to be called off.
pub(super) const HOPELESS: &str = "\
    SELECT j.key, j.id FROM jobs AS j WHERE j.deadline <= $1 AND j.state IN ('pending', 'running', 'paused') \
        AND j.sealed_at IS NOT NULL AND j.done + j.failed < j.images \
    UNION SELECT j.key, j.id FROM jobs AS j WHERE j.state IN ('pending', 'paused') AND j.started_at IS NULL \
        AND j.sealed_at IS NOT NULL AND EXISTS ( \
            SELECT FROM job_dependencies AS d JOIN jobs AS n ON n.key = d.needs_job \
            WHERE d.job = j.key AND NOT d.any_end AND n.state IN ('failed', 'cancelled') OFFSET 0) \
    ORDER BY key LIMIT $2";

pub(super) async fn call_off(store: &PostgresStore, now: Timestamp) -> Result<Vec<CalledOff>> {
    let rows = sqlx::query(HOPELESS).bind(Time(now)).bind(AT_ONCE).fetch_all(&store.pool).await?;
    let mut called_off = Vec::new();
    for row in &rows {
        let job = id(row, "id")?;
        called_off.extend(retried!(call_off_one(store, &job, now))?);
    }
    Ok(called_off)
}

/// What is read under the lock of the job decides.
async fn call_off_one(store: &PostgresStore, job: &JobId, now: Timestamp) -> Result<Option<CalledOff>> {
    let mut tx = store.begin(now).await?;
    let (key, job) = lock(&mut tx, job).await?;
    let Some(why) = job.call_off(now) else { return Ok(None) };
    let by = By::farm(&why.to_string());
    cancel(&mut tx, key, &job, &by, now).await?;
    tx.commit().await?;
    Ok(Some(CalledOff { job: job.id, why }))
}

pub(super) async fn next_deadline(store: &PostgresStore, now: Timestamp) -> Result<Option<Timestamp>> {
    let row = sqlx::query(
        "SELECT min(deadline) AS deadline FROM jobs WHERE deadline > $1 AND state IN ('pending', 'running', 'paused') \
         AND sealed_at IS NOT NULL",
    )
    .bind(Time(now))
    .fetch_one(&store.pool)
    .await?;
    optional_time(&row, "deadline")
}

//! The farm in figures.

use jiff::Timestamp;
use sqlx::Row;

use super::PostgresStore;
use super::codec::{Time, time, unsigned, word};
use crate::store::Result;
use crate::store::records::{Connections, Overview, Queued};

/// Results of a job that its pace is taken from.
const PACE_RESULTS: i64 = 32;

pub(super) async fn reach(store: &PostgresStore) -> Result<()> {
    sqlx::query("SELECT 1").execute(&store.pool).await?;
    Ok(())
}

pub(super) fn connections(store: &PostgresStore) -> Connections {
    // Those for calls: the others are the duties' own, and no call waits for them.
    let (all, idle) = (store.pool.size(), store.pool.num_idle());
    let idle = u32::try_from(idle).unwrap_or(u32::MAX).min(all);
    Connections { idle, busy: all - idle }
}

/// Jobs by their counters, and of each open one a look at its shards and its last results by index.
pub(super) async fn overview(store: &PostgresStore, now: Timestamp) -> Result<Overview> {
    let states =
        sqlx::query("SELECT state, count(*) AS jobs FROM jobs WHERE sealed_at IS NOT NULL GROUP BY state")
            .fetch_all(&store.pool)
            .await?;
    let jobs = states.iter().map(|row| Ok((word(row, "state")?, unsigned(row, "jobs")?)));
    let workers = sqlx::query("SELECT count(*) AS workers FROM sessions WHERE closed_at IS NULL")
        .fetch_one(&store.pool)
        .await?;
    // Which jobs may run is said in the words of `OPEN_JOBS`.
    let rows = sqlx::query(
        "SELECT j.model, j.images - j.done - j.failed AS images, j.sealed_at, \
         EXISTS (SELECT FROM shards AS s WHERE s.job = j.key AND s.state = 'ready' AND s.not_before <= $1 OFFSET 0) \
         AS ready, (SELECT avg(r.render_seconds) FROM (SELECT r.render_seconds FROM results AS r \
         WHERE r.job = j.key AND r.state = 'done' ORDER BY r.idx DESC LIMIT $2) AS r) AS pace \
         FROM jobs AS j LEFT JOIN owners AS o ON o.owner = j.owner \
         WHERE j.state IN ('pending', 'running') AND j.sealed_at IS NOT NULL AND NOT coalesce(o.held, false) \
         AND (j.deadline IS NULL OR j.deadline > $1) \
         AND (j.started_at IS NOT NULL OR NOT EXISTS ( \
            SELECT FROM job_dependencies AS d JOIN jobs AS n ON n.key = d.needs_job \
            WHERE d.job = j.key AND n.state <> 'succeeded' \
                AND NOT (d.any_end AND n.state IN ('failed', 'cancelled')) OFFSET 0)) \
         ORDER BY j.key",
    )
    .bind(Time(now))
    .bind(PACE_RESULTS)
    .fetch_all(&store.pool)
    .await?;
    let queue = rows.iter().map(|row| {
        Ok(Queued {
            model: row.try_get("model")?,
            images: unsigned(row, "images")?,
            submitted_at: time(row, "sealed_at")?,
            ready: row.try_get("ready")?,
            pace: row.try_get("pace")?,
        })
    });
    Ok(Overview {
        jobs: jobs.collect::<Result<_>>()?,
        queue: queue.collect::<Result<_>>()?,
        workers: unsigned(&workers, "workers")?,
    })
}

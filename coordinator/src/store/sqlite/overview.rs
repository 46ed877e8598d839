//! The farm in figures.

use jiff::Timestamp;
use sqlx::{AssertSqlSafe, Row};

use super::SqliteStore;
use super::codec::{time, time_text, unsigned, word};
use super::lease::{OPEN, READY};
use crate::store::Result;
use crate::store::records::{Connections, Overview, Queued};

/// Results of a job that its pace is taken from.
const PACE_RESULTS: i64 = 32;

pub(super) async fn reach(store: &SqliteStore) -> Result<()> {
    sqlx::query("SELECT 1").execute(&store.reader).await?;
    Ok(())
}

pub(super) fn connections(store: &SqliteStore) -> Connections {
    let pools = || [Some(&store.reader), store.writer.as_ref()].into_iter().flatten();
    let all: u32 = pools().map(|pool| pool.size()).sum();
    let idle: usize = pools().map(|pool| pool.num_idle()).sum();
    let idle = u32::try_from(idle).unwrap_or(u32::MAX).min(all);
    Connections { idle, busy: all - idle }
}

/// Jobs by their counters, and of each open one a look at its shards and its last results by index.
pub(super) async fn overview(store: &SqliteStore, now: Timestamp) -> Result<Overview> {
    let states =
        sqlx::query("SELECT state, count(*) AS jobs FROM jobs WHERE sealed_at IS NOT NULL GROUP BY state")
            .fetch_all(&store.reader)
            .await?;
    let jobs = states.iter().map(|row| Ok((word(row, "state")?, unsigned(row, "jobs")?)));
    let workers = sqlx::query("SELECT count(*) AS workers FROM sessions WHERE closed_at IS NULL")
        .fetch_one(&store.reader)
        .await?;
    let rows = sqlx::query(AssertSqlSafe(format!(
        "SELECT j.model, j.images - j.done - j.failed AS images, j.sealed_at, \
         EXISTS (SELECT 1 FROM shards AS s WHERE {READY}) AS ready, \
         (SELECT avg(r.render_seconds) FROM (SELECT r.render_seconds FROM results AS r \
         WHERE r.job = j.key AND r.state = 'done' ORDER BY r.idx DESC LIMIT ?2) AS r) AS pace \
         FROM jobs AS j LEFT JOIN owners AS o ON o.owner = j.owner \
         WHERE {OPEN} AND coalesce(o.held, 0) = 0 ORDER BY j.key"
    )))
    .bind(time_text(now))
    .bind(PACE_RESULTS)
    .fetch_all(&store.reader)
    .await?;
    let queue = rows.iter().map(|row| {
        Ok(Queued {
            model: row.try_get("model")?,
            images: unsigned(row, "images")?,
            submitted_at: time(row.try_get("sealed_at")?)?,
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

//! What images took: kept of jobs that have ended, and looked up in those that go on.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use super::SqliteStore;
use super::codec::{small, unsigned, word};
use crate::domain::speed::{MAX_SPEEDS, OPEN_IMAGES, OPEN_JOBS, Speed, first_of_each, images_of_each};
use crate::store::Result;
use crate::store::records::Job;

/// Keeps what the images of a job took that ends. It reads some of each of its settings, by index.
pub(super) async fn keep(db: &mut SqliteConnection, key: i64, job: &Job) -> Result<()> {
    if job.done == 0 {
        return Ok(());
    }
    let groups = sqlx::query("SELECT count(*) AS groups FROM settings_groups WHERE job = ?")
        .bind(key)
        .fetch_one(&mut *db)
        .await?;
    // The last ones: the first wait for caches and compilers. Of a job that was cancelled the first ones are there.
    let (bound, order, all) = match job.done + job.failed == job.images {
        true => (">=", "DESC", "0"),
        false => ("<=", "ASC", "9223372036854775807"),
    };
    sqlx::query(sqlx::AssertSqlSafe(format!(
        "INSERT INTO speeds (model, pixels, steps, format, seconds, bytes, images, job) \
         SELECT ?2, g.width * g.height, g.steps, ?3, avg(r.render_seconds), avg(r.bytes), count(*), ?1 \
         FROM settings_groups AS g CROSS JOIN images AS i INDEXED BY images_by_group ON i.job = g.job \
         AND i.group_no = g.group_no AND i.idx {bound} coalesce((SELECT n.idx FROM images AS n INDEXED BY images_by_group \
         WHERE n.job = g.job AND n.group_no = g.group_no ORDER BY n.idx {order} LIMIT 1 OFFSET ?4), {all}) \
         CROSS JOIN results AS r ON r.job = i.job AND r.idx = i.idx AND r.state = 'done' \
         WHERE g.job = ?1 GROUP BY 2, 3 HAVING avg(r.render_seconds) IS NOT NULL \
         ON CONFLICT (model, pixels, steps, format) DO UPDATE SET seconds = excluded.seconds, bytes = excluded.bytes, \
         images = excluded.images, job = excluded.job WHERE excluded.job >= speeds.job"
    )))
    .bind(key)
    .bind(&job.model)
    .bind(job.form.format.word())
    .bind(images_of_each(unsigned(&groups, "groups")?) - 1)
    .execute(db)
    .await?;
    Ok(())
}

pub(super) async fn speeds(store: &SqliteStore, model: &str) -> Result<Vec<Speed>> {
    let jobs = sqlx::query(
        "SELECT key, format FROM jobs INDEXED BY jobs_begun WHERE state IN ('running', 'paused') AND model = ? AND done > 0 \
         ORDER BY key DESC LIMIT ?",
    )
    .bind(model)
    .bind(OPEN_JOBS)
    .fetch_all(&store.reader)
    .await?;
    let mut speeds: Vec<Speed> = Vec::new();
    for job in jobs {
        let rows = sqlx::query(
            "SELECT g.width * g.height AS pixels, g.steps, ?3 AS format, avg(r.render_seconds) AS seconds, \
             avg(r.bytes) AS bytes, count(*) AS images \
             FROM (SELECT job, idx, render_seconds, bytes FROM results WHERE job = ?1 AND state = 'done' \
             ORDER BY idx DESC LIMIT ?2) AS r \
             JOIN images AS i ON i.job = r.job AND i.idx = r.idx \
             JOIN settings_groups AS g ON g.job = i.job AND g.group_no = i.group_no GROUP BY 1, 2 \
             HAVING avg(r.render_seconds) IS NOT NULL",
        )
        .bind(job.try_get::<i64, _>("key")?)
        .bind(OPEN_IMAGES)
        .bind(job.try_get::<&str, _>("format")?)
        .fetch_all(&store.reader)
        .await?;
        for row in &rows {
            speeds.push(speed(row)?);
        }
    }
    let kept = sqlx::query(
        "SELECT pixels, steps, format, seconds, bytes, images FROM speeds WHERE model = ? ORDER BY job DESC, pixels, steps \
         LIMIT ?",
    )
    .bind(model)
    .bind(MAX_SPEEDS)
    .fetch_all(&store.reader)
    .await?;
    for row in &kept {
        speeds.push(speed(row)?);
    }
    Ok(first_of_each(speeds))
}

fn speed(row: &SqliteRow) -> Result<Speed> {
    Ok(Speed {
        pixels: unsigned(row, "pixels")?,
        steps: small(row, "steps")?,
        format: word(row, "format")?,
        seconds: row.try_get("seconds")?,
        bytes: row.try_get("bytes")?,
        images: unsigned(row, "images")?,
    })
}

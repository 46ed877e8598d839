//! What images took: kept of jobs that have ended, and looked up in those that go on.

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use super::PostgresStore;
use super::codec::{small, unsigned, word};
use crate::domain::speed::{MAX_SPEEDS, OPEN_IMAGES, OPEN_JOBS, Speed, first_of_each, images_of_each};
use crate::store::Result;
use crate::store::records::Job;

/// Keeps what the images of a job took that ends. It reads some of each of its settings, by index.
pub(super) async fn keep(db: &mut PgConnection, key: i64, job: &Job) -> Result<()> {
    if job.done == 0 {
        return Ok(());
    }
    let of_job = sqlx::query(
        "SELECT coalesce(mixed_from, 9223372036854775807) AS mixed_from, \
         (SELECT count(*) FROM settings_groups AS g WHERE g.job = $1) AS groups FROM jobs WHERE key = $1",
    )
    .bind(key)
    .fetch_one(&mut *db)
    .await?;
    // The last ones: the first wait for caches and compilers. Of a job that was cancelled the first ones are there.
    let order = if job.done + job.failed == job.images { "DESC" } else { "ASC" };
    // All who end a job lock the rows in the same order.
    sqlx::query(sqlx::AssertSqlSafe(format!(
        "INSERT INTO speeds AS s (model, pixels, steps, format, seconds, bytes, images, job) \
         SELECT $2, g.width::bigint * g.height AS pixels, g.steps, $3, avg(r.render_seconds), \
         avg(r.bytes)::double precision, count(*), $1 FROM settings_groups AS g \
         CROSS JOIN LATERAL ((SELECT i.idx FROM images AS i WHERE i.mixed AND i.job = $1 AND i.group_no = g.group_no \
         ORDER BY i.idx {order} LIMIT $4) UNION ALL (SELECT i.idx FROM images AS i WHERE i.job = $1 AND g.group_no = 0 \
         AND i.idx < $5 ORDER BY i.idx {order} LIMIT $4)) AS i \
         CROSS JOIN LATERAL (SELECT r.render_seconds, r.bytes FROM results AS r WHERE r.job = $1 AND r.idx = i.idx \
         AND r.state = 'done' LIMIT 1) AS r \
         WHERE g.job = $1 GROUP BY 2, 3 HAVING avg(r.render_seconds) IS NOT NULL ORDER BY 2, 3 \
         ON CONFLICT (hashtextextended(model, 0), pixels, steps, format) DO UPDATE SET model = excluded.model, \
         seconds = excluded.seconds, bytes = excluded.bytes, images = excluded.images, job = excluded.job \
         WHERE excluded.job >= s.job"
    )))
    .bind(key)
    .bind(&job.model)
    .bind(job.form.format.word())
    .bind(images_of_each(unsigned(&of_job, "groups")?))
    .bind(of_job.try_get::<i64, _>("mixed_from")?)
    .execute(db)
    .await?;
    Ok(())
}

pub(super) async fn speeds(store: &PostgresStore, model: &str) -> Result<Vec<Speed>> {
    let jobs: Vec<(i64, String)> = sqlx::query_as(
        "SELECT j.key, j.format FROM (SELECT key, format, model, done FROM jobs WHERE state IN ('running', 'paused') \
         AND sealed_at IS NOT NULL OFFSET 0) AS j WHERE j.model = $1 AND j.done > 0 ORDER BY j.key DESC LIMIT $2",
    )
    .bind(model)
    .bind(OPEN_JOBS)
    .fetch_all(&store.pool)
    .await?;
    let mut speeds: Vec<Speed> = Vec::new();
    for (job, format) in jobs {
        let rows = sqlx::query(
            "SELECT g.width::bigint * g.height AS pixels, g.steps, $3 AS format, avg(r.render_seconds) AS seconds, \
             avg(r.bytes)::double precision AS bytes, count(*) AS images \
             FROM (SELECT idx, render_seconds, bytes FROM results WHERE job = $1 AND state = 'done' \
             ORDER BY idx DESC LIMIT $2) AS r \
             JOIN LATERAL (SELECT i.group_no FROM images AS i WHERE i.job = $1 AND i.idx = r.idx LIMIT 1) AS i ON true \
             JOIN LATERAL (SELECT * FROM settings_groups AS g WHERE g.job = $1 AND g.group_no = i.group_no LIMIT 1) \
             AS g ON true GROUP BY 1, 2 HAVING avg(r.render_seconds) IS NOT NULL",
        )
        .bind(job)
        .bind(OPEN_IMAGES)
        .bind(format)
        .fetch_all(&store.pool)
        .await?;
        for row in &rows {
            speeds.push(speed(row)?);
        }
    }
    let kept = sqlx::query(
        "SELECT pixels, steps, format, seconds, bytes, images FROM speeds \
         WHERE hashtextextended(model, 0) = hashtextextended($1, 0) AND model = $1 ORDER BY job DESC, pixels, steps LIMIT $2",
    )
    .bind(model)
    .bind(MAX_SPEEDS)
    .fetch_all(&store.pool)
    .await?;
    for row in &kept {
        speeds.push(speed(row)?);
    }
    Ok(first_of_each(speeds))
}

fn speed(row: &PgRow) -> Result<Speed> {
    Ok(Speed {
        pixels: unsigned(row, "pixels")?,
        steps: small(row, "steps")?,
        format: word(row, "format")?,
        seconds: row.try_get("seconds")?,
        bytes: row.try_get("bytes")?,
        images: unsigned(row, "images")?,
    })
}

//! Jobs on their way in.
//!
//! Rows are passed as one JSON text per table and batch: one statement inserts some thousand rows.

use jiff::Timestamp;
use serde_json::json;
use sqlx::{Row, SqliteConnection};
use uuid::Uuid;

use super::SqliteStore;
use super::codec::{JOB_COLUMNS, job as read_job, json_text, signed, time_text};
use super::event::{Event, record};
use super::{append, waiting};
use crate::domain::Invalid;
use crate::domain::event::EventKind;
use crate::domain::id::JobId;
use crate::domain::spec::JobSpec;
use crate::domain::state::JobState;
use crate::domain::submission::Batch;
use crate::store::records::{Begun, By, Job, submitted};
use crate::store::{Error, Result};

/// Rows that one transaction of `purge` deletes: few, because workers wait for the writer meanwhile.
const PURGE_ROWS: i64 = 500;

pub(super) async fn begin_job(store: &SqliteStore, spec: &JobSpec, now: Timestamp) -> Result<Begun> {
    let mut tx = store.write().await?;
    let sealed = sqlx::query(sqlx::AssertSqlSafe(format!(
        "SELECT {JOB_COLUMNS} FROM jobs WHERE client_token = ? AND sealed_at IS NOT NULL"
    )))
    .bind(&spec.client_token)
    .fetch_optional(&mut *tx)
    .await?;
    if let Some(row) = sealed {
        return Ok(Begun::Existing(Box::new(read_job(&row)?)));
    }
    let before = append::place(&mut tx, spec).await?;
    spec.check_deadline(now)?;
    let after = waiting::find(&mut tx, &spec.after).await?;
    sqlx::query("UPDATE jobs SET client_token = NULL WHERE client_token = ?")
        .bind(&spec.client_token)
        .execute(&mut *tx)
        .await?;
    let id = Uuid::now_v7().to_string();
    let inserted = sqlx::query(
        "INSERT INTO jobs (id, client_token, name, owner, model, output, width, height, steps, guidance, bin, \
         decode, negative_prompt, seed, images_per_prompt, name_template, priority, needs, state, created_at, \
         deadline, format, quality, layout, thumbnails, index_base, webhook) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(&id)
    .bind(&spec.client_token)
    .bind(&spec.name)
    .bind(&spec.owner)
    .bind(&spec.model)
    .bind(&spec.output)
    .bind(spec.settings.width)
    .bind(spec.settings.height)
    .bind(spec.settings.steps)
    .bind(spec.settings.guidance)
    .bind(spec.settings.bin.word())
    .bind(spec.settings.decode.word())
    .bind(&spec.negative_prompt)
    .bind(signed(spec.seed, "seed")?)
    .bind(spec.images_per_prompt)
    .bind(&spec.name_template)
    .bind(spec.priority)
    .bind(json_text(&spec.needs)?)
    .bind(JobState::Pending.word())
    .bind(time_text(now))
    .bind(spec.deadline.map(time_text))
    .bind(spec.form.format.word())
    .bind(spec.form.quality)
    .bind(spec.form.layout.word())
    .bind(spec.form.thumbnails)
    .bind(signed(before, "images before it")?)
    .bind(&spec.webhook)
    .execute(&mut *tx)
    .await?;
    waiting::insert(&mut tx, inserted.last_insert_rowid(), &after).await?;
    tx.commit().await?;
    Ok(Begun::New(JobId::from(id), before))
}

/// The key of a job that is still being submitted.
async fn unsealed_key(db: &mut SqliteConnection, job: &JobId) -> Result<i64> {
    let row =
        sqlx::query("SELECT key FROM jobs WHERE id = ? AND sealed_at IS NULL AND client_token IS NOT NULL")
            .bind(job.as_str())
            .fetch_optional(db)
            .await?;
    match row {
        Some(row) => Ok(row.try_get("key")?),
        None => Err(Error::Replaced(job.clone())),
    }
}

pub(super) async fn add_batch(store: &SqliteStore, job: &JobId, batch: &Batch, now: Timestamp) -> Result<()> {
    let mut tx = store.write().await?;
    let key = unsealed_key(&mut tx, job).await?;
    insert_batch(&mut tx, key, batch, now).await?;
    Ok(tx.commit().await?)
}

pub(super) async fn seal_job(store: &SqliteStore, job: &JobId, batch: &Batch, now: Timestamp) -> Result<Job> {
    let mut tx = store.write().await?;
    let key = unsealed_key(&mut tx, job).await?;
    insert_batch(&mut tx, key, batch, now).await?;
    append::keep_place(&mut tx, key).await?;
    let row = sqlx::query(sqlx::AssertSqlSafe(format!(
        "UPDATE jobs SET sealed_at = ? WHERE key = ? RETURNING {JOB_COLUMNS}"
    )))
    .bind(time_text(now))
    .bind(key)
    .fetch_one(&mut *tx)
    .await?;
    let job = read_job(&row)?;
    let by = By { actor: job.owner.clone(), reason: String::new() };
    // None of them was leased yet.
    let shards: i64 = sqlx::query_scalar("SELECT count(*) FROM shards WHERE job = ? AND state = 'ready'")
        .bind(key)
        .fetch_one(&mut *tx)
        .await?;
    let detail = submitted(&job, shards);
    let event =
        Event { by: Some(&by), job: Some(key), detail: Some(detail), ..Event::new(EventKind::JobSubmitted) };
    record(&mut tx, event, now).await?;
    tx.commit().await?;
    Ok(job)
}

async fn insert_batch(db: &mut SqliteConnection, key: i64, batch: &Batch, now: Timestamp) -> Result<()> {
    for (group, settings) in &batch.groups {
        sqlx::query(
            "INSERT INTO settings_groups (job, group_no, width, height, steps, guidance, bin, decode) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(key)
        .bind(group)
        .bind(settings.width)
        .bind(settings.height)
        .bind(settings.steps)
        .bind(settings.guidance)
        .bind(settings.bin.word())
        .bind(settings.decode.word())
        .execute(&mut *db)
        .await?;
    }
    for (position, name) in &batch.columns {
        sqlx::query("INSERT INTO job_columns (job, position, name) VALUES (?, ?, ?)")
            .bind(key)
            .bind(position)
            .bind(name)
            .execute(&mut *db)
            .await?;
    }
    let prompts: Vec<_> = batch
        .prompts
        .iter()
        .map(|p| json!([p.row, p.line, p.id, p.prompt, p.negative_prompt, p.extra]))
        .collect();
    sqlx::query(
        "INSERT INTO prompts (job, row_no, line, id, prompt, negative_prompt, extra) \
         SELECT ?1, value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5 \
         FROM json_each(?2)",
    )
    .bind(key)
    .bind(serde_json::Value::from(prompts).to_string())
    .execute(&mut *db)
    .await?;
    insert_images(db, key, batch).await?;
    let shards: Vec<_> = batch
        .shards
        .iter()
        .map(|s| json!([Uuid::now_v7().to_string(), s.group, s.first, s.last, s.images]))
        .collect();
    sqlx::query(
        "INSERT INTO shards (job, id, group_no, first_index, last_index, images, not_before) \
         SELECT ?1, value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, ?3 FROM json_each(?2)",
    )
    .bind(key)
    .bind(serde_json::Value::from(shards).to_string())
    .bind(time_text(now))
    .execute(&mut *db)
    .await?;
    Ok(())
}

async fn insert_images(db: &mut SqliteConnection, key: i64, batch: &Batch) -> Result<()> {
    let images: Vec<_> =
        batch.images.iter().map(|i| json!([i.index, i.row, i.group, i.seed, i.object])).collect();
    let images = serde_json::Value::from(images).to_string();
    let inserted = sqlx::query(
        "INSERT INTO images (job, idx, row_no, group_no, seed, object) \
         SELECT ?1, value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 FROM json_each(?2) \
         WHERE true ON CONFLICT (job, object) DO NOTHING",
    )
    .bind(key)
    .bind(&images)
    .execute(&mut *db)
    .await?
    .rows_affected();
    if inserted != batch.images.len() as u64 {
        return Err(same_name(db, key, &images).await?.into());
    }
    sqlx::query("UPDATE jobs SET images = images + ? WHERE key = ?")
        .bind(signed(inserted, "images")?)
        .bind(key)
        .execute(&mut *db)
        .await?;
    Ok(())
}

/// Names the first image that was not inserted because its name is taken.
async fn same_name(db: &mut SqliteConnection, key: i64, images: &str) -> Result<Invalid> {
    let row = sqlx::query(
        "SELECT value ->> 4 AS object, p.line AS line FROM json_each(?2) AS batch \
         JOIN prompts AS p ON p.job = ?1 AND p.row_no = batch.value ->> 1 \
         WHERE NOT EXISTS (SELECT 1 FROM images WHERE job = ?1 AND idx = batch.value ->> 0) \
         ORDER BY batch.key LIMIT 1",
    )
    .bind(key)
    .bind(images)
    .fetch_one(db)
    .await?;
    let object: String = row.try_get("object")?;
    let invalid = Invalid::job(format!(
        "the name template gives two images the name {object:?}; add {{index:08}} to it"
    ));
    Ok(invalid.at_line(super::codec::unsigned(&row, "line")?))
}

pub(super) async fn abandon_job(store: &SqliteStore, job: &JobId) -> Result<()> {
    let mut tx = store.write().await?;
    sqlx::query("UPDATE jobs SET client_token = NULL WHERE id = ? AND sealed_at IS NULL")
        .bind(job.as_str())
        .execute(&mut *tx)
        .await?;
    Ok(tx.commit().await?)
}

/// Child tables first. Nothing of an unsealed job was ever leased, so it has no leases, results or events.
const PURGE: [&str; 6] = [
    "DELETE FROM images WHERE job = ?1 AND idx IN (SELECT idx FROM images WHERE job = ?1 LIMIT ?2)",
    "DELETE FROM shards WHERE job = ?1 AND key IN (SELECT key FROM shards WHERE job = ?1 LIMIT ?2)",
    "DELETE FROM prompts WHERE job = ?1 AND row_no IN (SELECT row_no FROM prompts WHERE job = ?1 LIMIT ?2)",
    "DELETE FROM settings_groups WHERE job = ?1 \
     AND group_no IN (SELECT group_no FROM settings_groups WHERE job = ?1 LIMIT ?2)",
    "DELETE FROM job_columns WHERE job = ?1 \
     AND position IN (SELECT position FROM job_columns WHERE job = ?1 LIMIT ?2)",
    "DELETE FROM job_dependencies WHERE job = ?1 \
     AND needs_job IN (SELECT needs_job FROM job_dependencies WHERE job = ?1 LIMIT ?2)",
];

pub(super) async fn purge(store: &SqliteStore) -> Result<bool> {
    const ABANDONED: &str =
        "SELECT key FROM jobs WHERE sealed_at IS NULL AND client_token IS NULL ORDER BY key LIMIT 1";
    // A look without the write lock: the sweep asks often and there is hardly ever anything.
    if sqlx::query(ABANDONED).fetch_optional(&store.reader).await?.is_none() {
        return Ok(false);
    }
    let mut tx = store.write().await?;
    let Some(row) = sqlx::query(ABANDONED).fetch_optional(&mut *tx).await? else {
        return Ok(false);
    };
    let key: i64 = row.try_get("key")?;
    for table in PURGE {
        let deleted = sqlx::query(table).bind(key).bind(PURGE_ROWS).execute(&mut *tx).await?;
        if deleted.rows_affected() > 0 {
            tx.commit().await?;
            return Ok(true);
        }
    }
    sqlx::query("DELETE FROM jobs WHERE key = ?").bind(key).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(true)
}

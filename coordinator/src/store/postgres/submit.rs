//! Jobs on their way in.
//!
//! Images are streamed by `COPY`. Before the job is sealed, a commit does not wait for the disk: if the server loses
//! some of them with its power, the next batch finds that its images do not follow those that are there.

use std::collections::HashSet;

use jiff::Timestamp;
use sqlx::types::Json;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::PostgresStore;
use super::codec::{JOB_COLUMNS, Time, job as read_job, signed, small_signed, unsigned, uuid};
use super::copy::Rows;
use super::event::{Event, record};
use super::trouble::broken_constraint;
use super::{append, waiting};
use crate::domain::Invalid;
use crate::domain::event::EventKind;
use crate::domain::id::JobId;
use crate::domain::spec::JobSpec;
use crate::domain::state::JobState;
use crate::domain::submission::{Batch, NewImage, NewPrompt};
use crate::domain::template::Template;
use crate::store::records::{Begun, By, Job, submitted};
use crate::store::{Error, Result};

/// A job that is at least so long changes what the planner knows of the tables.
const LONG_JOB: u64 = 10_000;

pub(super) async fn begin_job(store: &PostgresStore, spec: &JobSpec, now: Timestamp) -> Result<Begun> {
    let named = !Template::parse(&spec.name_template, &spec.form)?.tells_by_index();
    let mut tx = store.begin(now).await?;
    // Submissions with one token come one after the other, and whoever seals one now comes first, or finds that it was
    // replaced.
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))")
        .bind(&spec.client_token)
        .execute(&mut *tx)
        .await?;
    let known = sqlx::query(sqlx::AssertSqlSafe(format!(
        "SELECT {JOB_COLUMNS}, sealed_at IS NOT NULL AS sealed FROM jobs WHERE client_token = $1 FOR UPDATE"
    )))
    .bind(&spec.client_token)
    .fetch_optional(&mut *tx)
    .await?;
    if let Some(row) = known
        && row.try_get("sealed")?
    {
        return Ok(Begun::Existing(Box::new(read_job(&row)?)));
    }
    let before = append::place(&mut tx, spec).await?;
    spec.check_deadline(now)?;
    let after = waiting::find(&mut tx, &spec.after).await?;
    sqlx::query("UPDATE jobs SET client_token = NULL WHERE client_token = $1")
        .bind(&spec.client_token)
        .execute(&mut *tx)
        .await?;
    let id = Uuid::now_v7();
    let key: i64 = sqlx::query_scalar(
        "INSERT INTO jobs (id, client_token, name, owner, model, output, width, height, steps, guidance, bin, \
         decode, negative_prompt, seed, images_per_prompt, name_template, priority, needs, state, created_at, \
         coordinator, named, deadline, format, quality, layout, thumbnails, index_base, webhook) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, \
         $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29) \
         RETURNING key",
    )
    .bind(id)
    .bind(&spec.client_token)
    .bind(&spec.name)
    .bind(&spec.owner)
    .bind(&spec.model)
    .bind(&spec.output)
    .bind(small_signed(spec.settings.width, "width")?)
    .bind(small_signed(spec.settings.height, "height")?)
    .bind(small_signed(spec.settings.steps, "steps")?)
    .bind(spec.settings.guidance)
    .bind(spec.settings.bin.word())
    .bind(spec.settings.decode.word())
    .bind(&spec.negative_prompt)
    .bind(signed(spec.seed, "seed")?)
    .bind(small_signed(spec.images_per_prompt, "images per prompt")?)
    .bind(&spec.name_template)
    .bind(spec.priority)
    .bind(Json(&spec.needs))
    .bind(JobState::Pending.word())
    .bind(Time(now))
    .bind(store.life.key)
    .bind(named)
    .bind(spec.deadline.map(Time))
    .bind(spec.form.format.word())
    .bind(small_signed(spec.form.quality, "quality")?)
    .bind(spec.form.layout.word())
    .bind(spec.form.thumbnails)
    .bind(signed(before, "images before it")?)
    .bind(&spec.webhook)
    .fetch_one(&mut *tx)
    .await?;
    waiting::insert(&mut tx, key, &after).await?;
    sqlx::query("SELECT make_results_part($1)").bind(key).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(Begun::New(JobId::from(id.to_string()), before))
}

/// A job that is still being submitted, locked.
struct Unsealed {
    key: i64,
    /// The index alone does not tell the names of its images apart.
    named: bool,
    /// From here on images of several groups alternate.
    mixed_from: i64,
}

/// Counts the images of a batch, which must follow those that are there.
async fn count(db: &mut PgConnection, job: &JobId, batch: &Batch) -> Result<Unsealed> {
    let first_mixed = batch.images.iter().find(|image| image.group > 0);
    let row = sqlx::query(
        "UPDATE jobs SET images = images + $2, mixed_from = coalesce(mixed_from, $3) \
         WHERE id = $1 AND sealed_at IS NULL AND client_token IS NOT NULL \
         RETURNING key, named, mixed_from, images - $2 AS before",
    )
    .bind(uuid(job.as_str()))
    .bind(signed(batch.images.len() as u64, "images")?)
    .bind(first_mixed.map(|image| signed(image.index, "index")).transpose()?)
    .fetch_optional(db)
    .await?;
    let Some(row) = row else { return Err(Error::Replaced(job.clone())) };
    let before = unsigned(&row, "before")?;
    if batch.images.first().is_some_and(|image| image.index != before) {
        return Err(Error::RowsLost(job.clone()));
    }
    let mixed_from: Option<i64> = row.try_get("mixed_from")?;
    Ok(Unsealed {
        key: row.try_get("key")?,
        named: row.try_get("named")?,
        mixed_from: mixed_from.unwrap_or(i64::MAX),
    })
}

pub(super) async fn add_batch(
    store: &PostgresStore,
    job: &JobId,
    batch: &Batch,
    now: Timestamp,
) -> Result<()> {
    let pool = store.writer(now).await?;
    let mut tx = pool.begin_with("BEGIN; SET LOCAL synchronous_commit = off").await?;
    let unsealed = count(&mut tx, job, batch).await?;
    if let Err(error) = insert_batch(&mut tx, &unsealed, batch, now).await {
        tx.rollback().await?;
        return Err(told_by_line(store, &unsealed, batch, error).await);
    }
    Ok(tx.commit().await?)
}

pub(super) async fn seal_job(
    store: &PostgresStore,
    job: &JobId,
    batch: &Batch,
    now: Timestamp,
) -> Result<Job> {
    let mut tx = store.begin(now).await?;
    let unsealed = count(&mut tx, job, batch).await?;
    if let Err(error) = insert_batch(&mut tx, &unsealed, batch, now).await {
        tx.rollback().await?;
        return Err(told_by_line(store, &unsealed, batch, error).await);
    }
    append::keep_place(&mut tx, unsealed.key).await?;
    let row = sqlx::query(sqlx::AssertSqlSafe(format!(
        "UPDATE jobs SET sealed_at = $2 WHERE key = $1 RETURNING {JOB_COLUMNS}"
    )))
    .bind(unsealed.key)
    .bind(Time(now))
    .fetch_one(&mut *tx)
    .await?;
    let job = read_job(&row)?;
    let by = By { actor: job.owner.clone(), reason: String::new() };
    // None of them was leased yet.
    let shards: i64 = sqlx::query_scalar("SELECT count(*) FROM shards WHERE job = $1 AND state = 'ready'")
        .bind(unsealed.key)
        .fetch_one(&mut *tx)
        .await?;
    let event = Event {
        by: Some(&by),
        job: Some(unsealed.key),
        detail: Some(submitted(&job, shards)),
        ..Event::new(EventKind::JobSubmitted)
    };
    record(&mut tx, event, now).await?;
    tx.commit().await?;
    learn(store, &job).await;
    Ok(job)
}

/// Has the planner look at tables that a long job has at least doubled, sooner than the server would by itself.
async fn learn(store: &PostgresStore, job: &Job) {
    if job.images < LONG_JOB {
        return;
    }
    let learned = async {
        let mut db = store.pool.acquire().await?;
        let known: f32 = sqlx::query_scalar("SELECT reltuples FROM pg_class WHERE oid = 'images'::regclass")
            .fetch_one(&mut *db)
            .await?;
        if f64::from(known) < job.images as f64 {
            // A glance is enough.
            sqlx::raw_sql(
                "BEGIN; SET LOCAL default_statistics_target = 10; ANALYZE jobs, images, shards; COMMIT",
            )
            .execute(&mut *db)
            .await?;
        }
        Ok::<_, Error>(())
    };
    if let Err(error) = learned.await {
        tracing::warn!(job = %job.id, %error, "the job is in, but the planner's statistics are as they were");
    }
}

async fn insert_batch(db: &mut PgConnection, job: &Unsealed, batch: &Batch, now: Timestamp) -> Result<()> {
    for (group, settings) in &batch.groups {
        sqlx::query(
            "INSERT INTO settings_groups (job, group_no, width, height, steps, guidance, bin, decode) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(job.key)
        .bind(small_signed(*group, "group")?)
        .bind(small_signed(settings.width, "width")?)
        .bind(small_signed(settings.height, "height")?)
        .bind(small_signed(settings.steps, "steps")?)
        .bind(settings.guidance)
        .bind(settings.bin.word())
        .bind(settings.decode.word())
        .execute(&mut *db)
        .await?;
    }
    for (position, name) in &batch.columns {
        sqlx::query("INSERT INTO job_columns (job, position, name) VALUES ($1, $2, $3)")
            .bind(job.key)
            .bind(small_signed(*position, "position")?)
            .bind(name)
            .execute(&mut *db)
            .await?;
    }
    if !batch.images.is_empty() {
        rows(job, batch)?
            .send(
                &mut *db,
                "COPY images (job, idx, seed, group_no, copy, mixed, named, object, line, prompt_id, prompt, \
                 negative_prompt, extra) FROM STDIN (FORMAT binary)",
            )
            .await?;
    }
    if batch.shards.is_empty() {
        return Ok(());
    }
    let shards = &batch.shards;
    let indices = |of: fn(&crate::domain::shard::ShardRange) -> u64| {
        shards.iter().map(|shard| signed(of(shard), "index")).collect::<Result<Vec<_>>>()
    };
    let numbers = |of: fn(&crate::domain::shard::ShardRange) -> u32| {
        shards.iter().map(|shard| small_signed(of(shard), "images")).collect::<Result<Vec<_>>>()
    };
    sqlx::query(
        "INSERT INTO shards (job, id, group_no, first_index, last_index, images, remaining, not_before) \
         SELECT $1, s.id, s.group_no, s.first, s.last, s.images, s.images, $7 \
         FROM unnest($2::uuid[], $3::integer[], $4::bigint[], $5::bigint[], $6::integer[]) \
         AS s (id, group_no, first, last, images)",
    )
    .bind(job.key)
    .bind(shards.iter().map(|_| Uuid::now_v7()).collect::<Vec<_>>())
    .bind(numbers(|shard| shard.group)?)
    .bind(indices(|shard| shard.first)?)
    .bind(indices(|shard| shard.last)?)
    .bind(numbers(|shard| shard.images)?)
    .bind(Time(now))
    .execute(db)
    .await?;
    Ok(())
}

/// The prompt of an image: rows come whole, all their images in one batch.
fn prompt<'a>(batch: &'a Batch, image: &NewImage) -> Result<&'a NewPrompt> {
    let first = batch.prompts.first().map_or(0, |prompt| prompt.row);
    let at = image.row.checked_sub(first).and_then(|at| usize::try_from(at).ok());
    at.and_then(|at| batch.prompts.get(at)).filter(|prompt| prompt.row == image.row).ok_or_else(|| {
        Error::Corrupt(format!("image {} came without row {} of its prompt list", image.index, image.row))
    })
}

/// The images of a batch for the table `images`. What their row says goes with the first of each row.
fn rows(job: &Unsealed, batch: &Batch) -> Result<Rows> {
    let mut rows = Rows::new(13);
    let mut first: Option<&NewImage> = None;
    for image in &batch.images {
        let of_row = first.filter(|first| first.row == image.row).unwrap_or(image);
        first = Some(of_row);
        let copy = image.index - of_row.index;
        let index = signed(image.index, "index")?;
        rows.row();
        rows.big(job.key);
        rows.big(index);
        rows.big(signed(image.seed, "seed")?);
        rows.integer(small_signed(image.group, "group")?);
        rows.small(i16::try_from(copy).map_err(|_| Error::Corrupt(format!("copy {copy} of a row")))?);
        rows.boolean(index >= job.mixed_from);
        rows.boolean(job.named);
        rows.text(&image.object);
        if copy > 0 {
            (0..5).for_each(|_| rows.null());
            continue;
        }
        let prompt = prompt(batch, image)?;
        rows.big(signed(prompt.line, "line")?);
        rows.optional_text(prompt.id.as_deref());
        rows.text(&prompt.prompt);
        rows.optional_text(prompt.negative_prompt.as_deref());
        rows.optional_text(prompt.extra.as_deref());
    }
    Ok(rows)
}

/// An error of a batch; the line of the first image whose name is taken, when that was it.
async fn told_by_line(store: &PostgresStore, job: &Unsealed, batch: &Batch, error: Error) -> Error {
    if broken_constraint(&error) != Some("images_by_object") {
        return error;
    }
    let objects: Vec<&str> = batch.images.iter().map(|image| image.object.as_str()).collect();
    let taken =
        sqlx::query_scalar("SELECT object FROM images WHERE job = $1 AND named AND object = ANY ($2)")
            .bind(job.key)
            .bind(objects)
            .fetch_all(&store.pool)
            .await;
    let mut taken: HashSet<String> = match taken {
        Ok(taken) => taken.into_iter().collect(),
        Err(error) => return error.into(),
    };
    let Some(image) = batch.images.iter().find(|image| !taken.insert(image.object.clone())) else {
        return error;
    };
    let invalid = Invalid::job(format!(
        "the name template gives two images the name {:?}; add {{index:08}} to it",
        image.object
    ));
    match prompt(batch, image) {
        Ok(prompt) => invalid.at_line(prompt.line).into(),
        Err(error) => error,
    }
}

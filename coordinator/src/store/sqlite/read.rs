//! Looking things up. Nothing here takes the write lock.

use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, SqliteExecutor};

use super::SqliteStore;
use super::codec::{JOB_COLUMNS, form, job as read_job, settings, signed, small, time, unsigned, word};
use crate::domain::archive;
use crate::domain::blame::ErrorClass;
use crate::domain::form::Form;
use crate::domain::id::{JobId, ShardId};
use crate::domain::state::{ImageState, JobState};
use crate::store::records::{Archive, Image, Job, LeaseRef, ManifestRow, Quality, ResultRecord};
use crate::store::{Error, Result};

pub(super) async fn job(store: &SqliteStore, owner: Option<&str>, id: &str) -> Result<Job> {
    Ok(find_of(&store.reader, owner, id).await?.1)
}

/// The key of the sealed job with this id, or the only one whose id begins so, and the job.
pub(super) async fn find(db: impl SqliteExecutor<'_>, id: &str) -> Result<(i64, Job)> {
    find_of(db, None, id).await
}

/// The same, among those of an owner when one is given.
async fn find_of(db: impl SqliteExecutor<'_>, owner: Option<&str>, id: &str) -> Result<(i64, Job)> {
    let not_found = || Error::NotFound { what: "job", id: id.to_owned() };
    if id.is_empty() {
        return Err(not_found());
    }
    let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
        "SELECT key, {JOB_COLUMNS} FROM jobs WHERE id >= ?1 AND id < ?1 || '~' AND sealed_at IS NOT NULL \
         AND (?2 IS NULL OR owner = ?2) ORDER BY id LIMIT 2"
    )))
    .bind(id)
    .bind(owner)
    .fetch_all(db)
    .await?;
    let first = match rows.as_slice() {
        [] => return Err(not_found()),
        [row] => row,
        [row, ..] if row.try_get::<&str, _>("id")? == id => row,
        [_, ..] => return Err(Error::Ambiguous(id.to_owned())),
    };
    Ok((first.try_get("key")?, read_job(first)?))
}

pub(super) async fn jobs(
    store: &SqliteStore,
    owner: Option<&str>,
    states: &[JobState],
    limit: u32,
) -> Result<Vec<Job>> {
    let mut query = QueryBuilder::new(format!("SELECT {JOB_COLUMNS} FROM jobs WHERE sealed_at IS NOT NULL"));
    if !states.is_empty() {
        query.push(" AND state IN (");
        let mut list = query.separated(", ");
        for state in states {
            list.push_bind(state.word());
        }
        query.push(")");
    }
    if let Some(owner) = owner {
        query.push(" AND owner = ").push_bind(owner);
    }
    query.push(" ORDER BY key DESC LIMIT ").push_bind(limit);
    let rows = query.build().fetch_all(&store.reader).await?;
    rows.iter().map(read_job).collect()
}

/// The key of a sealed job.
pub(super) async fn key(store: &SqliteStore, job: &JobId) -> Result<i64> {
    let row = sqlx::query("SELECT key FROM jobs WHERE id = ? AND sealed_at IS NOT NULL")
        .bind(job.as_str())
        .fetch_optional(&store.reader)
        .await?;
    match row {
        Some(row) => Ok(row.try_get("key")?),
        None => Err(Error::NotFound { what: "job", id: job.to_string() }),
    }
}

/// What [`image`] reads, and what the manifest wants besides.
const IMAGE_COLUMNS: &str = "i.idx, coalesce(r.state, 'pending') AS state, p.prompt, \
    coalesce(p.negative_prompt, j.negative_prompt) AS negative_prompt, i.seed, g.width, g.height, g.steps, \
    g.guidance, g.bin, g.decode, i.object, r.bytes, r.sha256, r.recipe, s.id AS shard_id, r.attempt, \
    coalesce(w.worker, '') AS worker, r.device, r.render_seconds, r.decode_seconds, r.error_class, r.error, \
    r.finished_at, r.entropy, r.clipped, a.number, j.format, j.quality, j.layout, j.thumbnails, \
    p.id AS prompt_id, p.line, p.extra";
/// What every image `i` has.
const OF_IMAGE: &str = "JOIN jobs AS j ON j.key = i.job \
    JOIN prompts AS p ON p.job = i.job AND p.row_no = i.row_no \
    JOIN settings_groups AS g ON g.job = i.job AND g.group_no = i.group_no";
/// What comes with a result `r`.
const OF_RESULT: &str = "LEFT JOIN shards AS s ON s.key = r.shard LEFT JOIN sessions AS w ON w.key = r.session \
    LEFT JOIN archives AS a ON a.shard = r.shard AND a.attempt = r.attempt AND r.state = 'done' \
    AND a.published_at IS NOT NULL";

/// Images of job ?1 in these states (all of them when there are none), from index ?2 on, ?3 at most.
pub(super) fn images_sql(states: &[ImageState]) -> String {
    let wants = |state| states.contains(&state);
    if states.is_empty() || wants(ImageState::Pending) {
        let words: Vec<String> = states.iter().map(|state| format!("'{}'", state.word())).collect();
        let only = match states {
            [] => String::new(),
            _ => format!("AND coalesce(r.state, 'pending') IN ({}) ", words.join(", ")),
        };
        return format!(
            "SELECT {IMAGE_COLUMNS} FROM images AS i {OF_IMAGE} \
             LEFT JOIN results AS r ON r.job = i.job AND r.idx = i.idx {OF_RESULT} \
             WHERE i.job = ?1 AND i.idx >= ?2 {only}ORDER BY i.idx LIMIT ?3"
        );
    }
    // From the results to their images: there may be few of them in a long job.
    let (index, only) = match (wants(ImageState::Done), wants(ImageState::Failed)) {
        (false, _) => ("INDEXED BY results_failed ", "AND r.state = 'failed' "),
        (true, false) => ("", "AND r.state = 'done' "),
        (true, true) => ("", ""),
    };
    format!(
        "SELECT {IMAGE_COLUMNS} FROM results AS r {index}\
         CROSS JOIN images AS i ON i.job = r.job AND i.idx = r.idx {OF_IMAGE} {OF_RESULT} \
         WHERE r.job = ?1 AND r.idx >= ?2 {only}ORDER BY r.idx LIMIT ?3"
    )
}

async fn image_rows(
    store: &SqliteStore,
    job: &JobId,
    states: &[ImageState],
    from: u64,
    limit: u32,
) -> Result<Vec<SqliteRow>> {
    let rows = sqlx::query(sqlx::AssertSqlSafe(images_sql(states)))
        .bind(key(store, job).await?)
        .bind(signed(from, "index")?)
        .bind(limit)
        .fetch_all(&store.reader)
        .await?;
    Ok(rows)
}

pub(super) async fn images(
    store: &SqliteStore,
    job: &JobId,
    states: &[ImageState],
    from: u64,
    limit: u32,
) -> Result<Vec<Image>> {
    image_rows(store, job, states, from, limit).await?.iter().map(image).collect()
}

pub(super) async fn manifest_rows(
    store: &SqliteStore,
    job: &JobId,
    from: u64,
    limit: u32,
) -> Result<Vec<ManifestRow>> {
    image_rows(store, job, &[], from, limit).await?.iter().map(manifest_row).collect()
}

fn manifest_row(row: &SqliteRow) -> Result<ManifestRow> {
    Ok(ManifestRow {
        image: image(row)?,
        prompt_id: row.try_get("prompt_id")?,
        line: unsigned(row, "line")?,
        extra: row.try_get("extra")?,
    })
}

pub(super) async fn archive_rows(store: &SqliteStore, archive: &Archive) -> Result<Vec<ManifestRow>> {
    let LeaseRef { shard, attempt } = &archive.lease;
    let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
        "SELECT {IMAGE_COLUMNS} FROM shards AS o CROSS JOIN archives AS t ON t.shard = o.key AND t.attempt = ?2 \
         CROSS JOIN results AS r ON r.job = t.job AND r.idx BETWEEN t.first_index AND t.last_index \
         AND r.shard = t.shard AND r.attempt = t.attempt AND r.state = 'done' \
         CROSS JOIN images AS i ON i.job = r.job AND i.idx = r.idx {OF_IMAGE} {OF_RESULT} \
         WHERE o.id = ?1 ORDER BY r.idx"
    )))
    .bind(shard.as_str())
    .bind(attempt)
    .fetch_all(&store.reader)
    .await?;
    rows.iter().map(manifest_row).collect()
}

pub(super) async fn jobs_of_output(store: &SqliteStore, output: &str) -> Result<Vec<Job>> {
    let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
        "SELECT {JOB_COLUMNS} FROM jobs WHERE output = ? AND sealed_at IS NOT NULL ORDER BY key"
    )))
    .bind(output)
    .fetch_all(&store.reader)
    .await?;
    rows.iter().map(read_job).collect()
}

pub(super) async fn columns(store: &SqliteStore, job: &JobId) -> Result<Vec<String>> {
    let rows = sqlx::query("SELECT name FROM job_columns WHERE job = ? ORDER BY position")
        .bind(key(store, job).await?)
        .fetch_all(&store.reader)
        .await?;
    rows.iter().map(|row| Ok(row.try_get("name")?)).collect()
}

fn image(row: &SqliteRow) -> Result<Image> {
    let state: ImageState = word(row, "state")?;
    let result = match state {
        ImageState::Pending => None,
        ImageState::Done | ImageState::Failed => Some(result(row)?),
    };
    let form: Form = form(row)?;
    let object: String = row.try_get("object")?;
    Ok(Image {
        thumbnail: if state == ImageState::Done { form.thumbnail(&object) } else { None },
        index: unsigned(row, "idx")?,
        state,
        prompt: row.try_get("prompt")?,
        negative_prompt: row.try_get("negative_prompt")?,
        seed: unsigned(row, "seed")?,
        settings: settings(row)?,
        object,
        result,
    })
}

/// Of the tar of a picture, once that has its final name.
fn number(row: &SqliteRow) -> Result<Option<u64>> {
    let number: Option<i64> = row.try_get("number")?;
    Ok(number.and_then(|number| u64::try_from(number).ok()))
}

fn result(row: &SqliteRow) -> Result<ResultRecord> {
    let error = match row.try_get::<Option<&str>, _>("error_class")? {
        Some(class) => {
            let text: Option<String> = row.try_get("error")?;
            Some((class.parse::<ErrorClass>()?, text.unwrap_or_default()))
        }
        None => None,
    };
    let bytes: Option<i64> = row.try_get("bytes")?;
    Ok(ResultRecord {
        bytes: bytes.and_then(|bytes| u64::try_from(bytes).ok()),
        sha256: row.try_get("sha256")?,
        recipe: row.try_get("recipe")?,
        shard: ShardId::from(row.try_get::<String, _>("shard_id")?),
        attempt: small(row, "attempt")?,
        worker: row.try_get("worker")?,
        device: row.try_get("device")?,
        render_seconds: row.try_get::<Option<f64>, _>("render_seconds")?.unwrap_or_default(),
        decode_seconds: row.try_get::<Option<f64>, _>("decode_seconds")?.unwrap_or_default(),
        error,
        finished_at: time(row.try_get("finished_at")?)?,
        quality: Quality::read(row.try_get("entropy")?, row.try_get("clipped")?),
        archive: number(row)?.map(archive::final_name),
    })
}

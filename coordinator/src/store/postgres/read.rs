//! Looking things up. Nothing here locks anything.

use sqlx::postgres::PgRow;
use sqlx::{PgExecutor, Row};
use uuid::Uuid;

use super::PostgresStore;
use super::codec::{
    JOB_COLUMNS, form, id, job as read_job, settings, signed, small, time, unsigned, uuid, word,
};
use super::session::attempt;
use crate::domain::archive;
use crate::domain::blame::ErrorClass;
use crate::domain::form::Form;
use crate::domain::id::JobId;
use crate::domain::state::{ImageState, JobState};
use crate::store::records::{Archive, Image, Job, LeaseRef, ManifestRow, Quality, ResultRecord};
use crate::store::{Error, Result};

/// The lowest and the highest uuid whose text begins like this; none when no uuid does.
fn range(beginning: &str) -> Option<(Uuid, Uuid)> {
    let whole = |filler: u8| {
        let mut text = b"00000000-0000-0000-0000-000000000000".map(|c| if c == b'-' { c } else { filler });
        text.get_mut(..beginning.len())?.copy_from_slice(beginning.as_bytes());
        let uuid = Uuid::parse_str(std::str::from_utf8(&text).ok()?).ok()?;
        uuid.to_string().starts_with(beginning).then_some(uuid)
    };
    Some((whole(b'0')?, whole(b'f')?))
}

pub(super) async fn job(store: &PostgresStore, owner: Option<&str>, id: &str) -> Result<Job> {
    Ok(find(&store.pool, owner, id).await?.1)
}

/// The key of the sealed job with this id, or the only one whose id begins so, and the job; among those of an owner when
/// one is given.
pub(super) async fn find(db: impl PgExecutor<'_>, owner: Option<&str>, id: &str) -> Result<(i64, Job)> {
    let not_found = || Error::NotFound { what: "job", id: id.to_owned() };
    let Some((first, last)) = range(id).filter(|_| !id.is_empty()) else { return Err(not_found()) };
    let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
        "SELECT key, {JOB_COLUMNS} FROM jobs WHERE id BETWEEN $1 AND $2 AND sealed_at IS NOT NULL \
         AND ($3::text IS NULL OR owner = $3) ORDER BY id LIMIT 2"
    )))
    .bind(first)
    .bind(last)
    .bind(owner)
    .fetch_all(db)
    .await?;
    match rows.as_slice() {
        [] => Err(not_found()),
        [row] => Ok((row.try_get("key")?, read_job(row)?)),
        [_, _, ..] => Err(Error::Ambiguous(id.to_owned())),
    }
}

pub(super) async fn jobs(
    store: &PostgresStore,
    owner: Option<&str>,
    states: &[JobState],
    limit: u32,
) -> Result<Vec<Job>> {
    let states = if states.is_empty() { JobState::ALL } else { states };
    let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
        "SELECT {JOB_COLUMNS} FROM jobs WHERE sealed_at IS NOT NULL AND state = ANY ($1) \
         AND ($3::text IS NULL OR owner = $3) ORDER BY key DESC LIMIT $2"
    )))
    .bind(states.iter().map(|state| state.word()).collect::<Vec<_>>())
    .bind(i64::from(limit))
    .bind(owner)
    .fetch_all(&store.pool)
    .await?;
    rows.iter().map(read_job).collect()
}

/// The key of a sealed job.
pub(super) async fn key(store: &PostgresStore, job: &JobId) -> Result<i64> {
    let key = sqlx::query_scalar("SELECT key FROM jobs WHERE id = $1 AND sealed_at IS NOT NULL")
        .bind(uuid(job.as_str()))
        .fetch_optional(&store.pool)
        .await?;
    key.ok_or_else(|| Error::NotFound { what: "job", id: job.to_string() })
}

/// What [`image`] reads, and what the manifest wants besides.
const IMAGE_COLUMNS: &str = "i.idx, coalesce(r.state, 'pending') AS state, coalesce(i.prompt, f.prompt) AS prompt, \
    coalesce(i.negative_prompt, f.negative_prompt, j.negative_prompt) AS negative_prompt, i.seed, g.width, g.height, \
    g.steps, g.guidance, g.bin, g.decode, i.object, r.bytes, encode(r.sha256, 'hex') AS sha256, \
    r.recipe::text AS recipe, s.id AS shard_id, r.attempt, coalesce(w.worker, '') AS worker, r.device, \
    r.render_seconds, r.decode_seconds, r.error_class, r.error, r.finished_at, r.entropy, r.clipped, a.number, \
    j.format, j.quality, j.layout, j.thumbnails, \
    coalesce(i.prompt_id, f.prompt_id) AS prompt_id, coalesce(i.line, f.line) AS line, \
    coalesce(i.extra, f.extra)::text AS extra";
/// What every image `i` has. Each is looked up by its key for each image, whatever the planner believes of a job that
/// it has not looked at yet: that is what LIMIT is for, here and below.
const OF_IMAGE: &str = "JOIN LATERAL (SELECT * FROM jobs AS j WHERE j.key = i.job LIMIT 1) AS j ON true \
    JOIN LATERAL (SELECT * FROM settings_groups AS g WHERE g.job = i.job AND g.group_no = i.group_no LIMIT 1) AS g \
    ON true \
    LEFT JOIN LATERAL (SELECT * FROM images AS f WHERE i.copy > 0 AND f.job = i.job AND f.idx = i.idx - i.copy \
    LIMIT 1) AS f ON true";
/// What comes with a result `r`.
const OF_RESULT: &str = "LEFT JOIN LATERAL (SELECT s.id FROM shards AS s WHERE s.key = r.shard LIMIT 1) AS s ON true \
    LEFT JOIN LATERAL (SELECT w.worker FROM sessions AS w WHERE w.key = r.session LIMIT 1) AS w ON true \
    LEFT JOIN LATERAL (SELECT a.number FROM archives AS a WHERE a.shard = r.shard AND a.attempt = r.attempt \
    AND r.state = 'done' AND a.published_at IS NOT NULL LIMIT 1) AS a ON true";

/// Images of job $1 in these states (all of them when there are none), from index $2 on, $3 at most.
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
             LEFT JOIN LATERAL (SELECT * FROM results AS r WHERE r.job = $1 AND r.idx = i.idx LIMIT 1) AS r ON true \
             {OF_RESULT} WHERE i.job = $1 AND i.idx >= $2 {only}ORDER BY i.idx LIMIT $3"
        );
    }
    // From the results to their images: there may be few of them in a long job.
    let only = match (wants(ImageState::Done), wants(ImageState::Failed)) {
        (false, _) => "AND r.state = 'failed' ",
        (true, false) => "AND r.state = 'done' ",
        (true, true) => "",
    };
    format!(
        "SELECT {IMAGE_COLUMNS} FROM results AS r \
         JOIN LATERAL (SELECT * FROM images AS i WHERE i.job = $1 AND i.idx = r.idx LIMIT 1) AS i ON true \
         {OF_IMAGE} {OF_RESULT} WHERE r.job = $1 AND r.idx >= $2 {only}ORDER BY r.idx LIMIT $3"
    )
}

async fn image_rows(
    store: &PostgresStore,
    job: &JobId,
    states: &[ImageState],
    from: u64,
    limit: u32,
) -> Result<Vec<PgRow>> {
    let rows = sqlx::query(sqlx::AssertSqlSafe(images_sql(states)))
        .bind(key(store, job).await?)
        .bind(signed(from, "index")?)
        .bind(i64::from(limit))
        .fetch_all(&store.pool)
        .await?;
    Ok(rows)
}

pub(super) async fn images(
    store: &PostgresStore,
    job: &JobId,
    states: &[ImageState],
    from: u64,
    limit: u32,
) -> Result<Vec<Image>> {
    image_rows(store, job, states, from, limit).await?.iter().map(image).collect()
}

pub(super) async fn manifest_rows(
    store: &PostgresStore,
    job: &JobId,
    from: u64,
    limit: u32,
) -> Result<Vec<ManifestRow>> {
    image_rows(store, job, &[], from, limit).await?.iter().map(manifest_row).collect()
}

fn manifest_row(row: &PgRow) -> Result<ManifestRow> {
    Ok(ManifestRow {
        image: image(row)?,
        prompt_id: row.try_get("prompt_id")?,
        line: unsigned(row, "line")?,
        extra: row.try_get("extra")?,
    })
}

pub(super) async fn archive_rows(store: &PostgresStore, archive: &Archive) -> Result<Vec<ManifestRow>> {
    let LeaseRef { shard, attempt: number } = &archive.lease;
    let found: Option<(i64, i64, i64, i64)> = sqlx::query_as(
        "SELECT job, shard, first_index, last_index FROM archives \
         WHERE shard = (SELECT key FROM shards WHERE id = $1) AND attempt = $2",
    )
    .bind(uuid(shard.as_str()))
    .bind(attempt(*number))
    .fetch_optional(&store.pool)
    .await?;
    let Some((job, key, first, last)) = found else {
        return Err(Error::NotFound { what: "archive", id: archive.object.clone() });
    };
    let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
        "SELECT {IMAGE_COLUMNS} FROM results AS r \
         JOIN LATERAL (SELECT * FROM images AS i WHERE i.job = $1 AND i.idx = r.idx LIMIT 1) AS i ON true \
         {OF_IMAGE} {OF_RESULT} WHERE r.job = $1 AND r.idx BETWEEN $2 AND $3 AND r.shard = $4 AND r.attempt = $5 \
         AND r.state = 'done' ORDER BY r.idx"
    )))
    .bind(job)
    .bind(first)
    .bind(last)
    .bind(key)
    .bind(attempt(*number))
    .fetch_all(&store.pool)
    .await?;
    rows.iter().map(manifest_row).collect()
}

pub(super) async fn jobs_of_output(store: &PostgresStore, output: &str) -> Result<Vec<Job>> {
    let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
        "SELECT {JOB_COLUMNS} FROM jobs WHERE output = $1 AND sealed_at IS NOT NULL ORDER BY key"
    )))
    .bind(output)
    .fetch_all(&store.pool)
    .await?;
    rows.iter().map(read_job).collect()
}

pub(super) async fn columns(store: &PostgresStore, job: &JobId) -> Result<Vec<String>> {
    let names = sqlx::query_scalar("SELECT name FROM job_columns WHERE job = $1 ORDER BY position")
        .bind(key(store, job).await?)
        .fetch_all(&store.pool)
        .await?;
    Ok(names)
}

fn image(row: &PgRow) -> Result<Image> {
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
fn number(row: &PgRow) -> Result<Option<u64>> {
    let number: Option<i64> = row.try_get("number")?;
    Ok(number.and_then(|number| u64::try_from(number).ok()))
}

fn result(row: &PgRow) -> Result<ResultRecord> {
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
        shard: id(row, "shard_id")?,
        attempt: small(row, "attempt")?,
        worker: row.try_get("worker")?,
        device: row.try_get("device")?,
        render_seconds: row.try_get::<Option<f64>, _>("render_seconds")?.unwrap_or_default(),
        decode_seconds: row.try_get::<Option<f64>, _>("decode_seconds")?.unwrap_or_default(),
        error,
        finished_at: time(row, "finished_at")?,
        quality: Quality::read(row.try_get("entropy")?, row.try_get("clipped")?),
        archive: number(row)?.map(archive::final_name),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_is_a_range_of_uuids() {
        let text = |beginning| range(beginning).map(|(low, high)| (low.to_string(), high.to_string()));
        let all = ("00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff");
        assert_eq!(text(""), Some((all.0.to_owned(), all.1.to_owned())));
        let some = ("0192abcd-e000-0000-0000-000000000000", "0192abcd-efff-ffff-ffff-ffffffffffff");
        assert_eq!(text("0192abcd-e"), Some((some.0.to_owned(), some.1.to_owned())));
        for wrong in ["zz", "0192abcde", "0192ABCD", "0192abcd-0000-0000-0000-0000000000000", "ü"] {
            assert_eq!(text(wrong), None, "{wrong}");
        }
    }
}

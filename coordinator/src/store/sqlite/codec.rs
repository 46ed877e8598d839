//! Between columns and the words of the domain.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::domain::form::Form;
use crate::domain::settings::Settings;
use crate::domain::state::JobState;
use crate::domain::{Invalid, UnknownWord};
use crate::store::records::{Job, Webhook};
use crate::store::{Error, Result};

/// SQLITE_BUSY, in the low byte of its extended codes.
const BUSY: i32 = 5;
/// SQLITE_FULL.
const FULL: i32 = 13;

/// SQLite's result code, without the extension in its higher bytes.
pub(super) fn result_code(error: &sqlx::Error) -> Option<i32> {
    let error = error.as_database_error()?;
    error.try_downcast_ref::<sqlx::sqlite::SqliteError>()?;
    error.code()?.parse::<i32>().ok().map(|code| code & 0xff)
}

/// Another program holds the file.
pub(in crate::store) fn is_busy(error: &sqlx::Error) -> bool {
    result_code(error) == Some(BUSY)
}

/// The error of a write, which names the file when its disk is full.
pub(super) fn write_error(error: Error, file: &Path) -> Error {
    match &error {
        Error::Database(source)
            if source.downcast_ref::<sqlx::Error>().and_then(result_code) == Some(FULL) =>
        {
            Error::Full { file: file.display().to_string() }
        }
        _ => error,
    }
}

/// RFC 3339 in UTC with milliseconds: sorts as text.
pub(super) fn time_text(time: Timestamp) -> String {
    format!("{time:.3}")
}

/// A time as this store writes it.
pub(super) fn time(text: &str) -> Result<Timestamp> {
    text.parse().map_err(|error| Error::Corrupt(format!("time {text:?}: {error}")))
}

/// When a lease that is granted or renewed now ends.
pub(super) fn expiry(now: Timestamp, duration: Duration) -> Result<Timestamp> {
    now.saturating_add(duration).map_err(|error| Error::Corrupt(format!("lease duration: {error}")))
}

/// Reads one of the words of an enum.
pub(super) fn word<T: FromStr<Err = UnknownWord>>(row: &SqliteRow, column: &str) -> Result<T> {
    Ok(row.try_get::<&str, _>(column)?.parse::<T>()?)
}

/// Reads a column of JSON that this store wrote.
pub(super) fn json<T: serde::de::DeserializeOwned>(row: &SqliteRow, column: &str) -> Result<T> {
    let text: &str = row.try_get(column)?;
    serde_json::from_str(text).map_err(|error| Error::Corrupt(format!("{column} {text:?}: {error}")))
}

/// The text of such a column.
pub(super) fn json_text(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::Corrupt(format!("write json: {error}")))
}

/// Reads a count, an index or a seed.
pub(super) fn unsigned(row: &SqliteRow, column: &str) -> Result<u64> {
    let value: i64 = row.try_get(column)?;
    u64::try_from(value).map_err(|_| Error::Corrupt(format!("{column} {value} is negative")))
}

/// Reads a small number.
pub(super) fn small(row: &SqliteRow, column: &str) -> Result<u32> {
    let value: i64 = row.try_get(column)?;
    u32::try_from(value).map_err(|_| Error::Corrupt(format!("{column} {value} is out of range")))
}

/// For SQLite, whose integers are signed.
pub(super) fn signed(value: u64, what: &str) -> Result<i64> {
    i64::try_from(value).map_err(|_| Invalid::job(format!("{what} {value} is above {}", i64::MAX)).into())
}

/// Reads columns `width` to `decode`.
pub(super) fn settings(row: &SqliteRow) -> Result<Settings> {
    Ok(Settings {
        width: small(row, "width")?,
        height: small(row, "height")?,
        steps: small(row, "steps")?,
        guidance: row.try_get("guidance")?,
        bin: word(row, "bin")?,
        decode: word(row, "decode")?,
    })
}

/// Reads columns `format` to `thumbnails`.
pub(super) fn form(row: &SqliteRow) -> Result<Form> {
    Ok(Form {
        format: word(row, "format")?,
        quality: small(row, "quality")?,
        layout: word(row, "layout")?,
        thumbnails: row.try_get("thumbnails")?,
    })
}

/// The columns that [`job`] reads. The index is named because the planner would rather read all results, and
/// a job with ever so many errors is still told at once.
pub(super) const JOB_COLUMNS: &str = "id, name, owner, model, output, state, images, done, failed, sealed_at, \
    started_at, finished_at, output_error, priority, needs, width, height, steps, guidance, bin, decode, deadline, \
    end_reason, format, quality, layout, thumbnails, webhook, CASE WHEN webhook IS NOT NULL AND finished_at IS NOT NULL THEN \
    (SELECT json_object('state', w.state, 'attempts', w.attempts, 'error', w.error, \
    'at', coalesce(w.ended_at, w.next_at)) FROM webhooks AS w WHERE w.job = jobs.key ORDER BY w.key DESC LIMIT 1) END \
    AS delivery, (SELECT json_group_array(json_object('job', a.id, 'any_end', json(iif(a.any_end, 'true', 'false')), \
    'state', a.state, 'images', a.images, 'finished', a.done + a.failed)) FROM (SELECT n.*, d.any_end \
    FROM job_dependencies AS d JOIN jobs AS n ON n.key = d.needs_job WHERE d.job = jobs.key ORDER BY n.key) AS a) \
    AS after_jobs, CASE WHEN failed = 0 THEN NULL ELSE (SELECT r.error FROM (SELECT error FROM results \
    INDEXED BY results_failed WHERE results.job = jobs.key AND results.state = 'failed' LIMIT 1000) AS r \
    GROUP BY r.error ORDER BY count(*) DESC, r.error LIMIT 1) END AS error";

/// A sealed job.
pub(super) fn job(row: &SqliteRow) -> Result<Job> {
    let optional_time = |column: &str| -> Result<Option<Timestamp>> {
        row.try_get::<Option<&str>, _>(column)?.map(time).transpose()
    };
    Ok(Job {
        id: row.try_get::<String, _>("id")?.into(),
        name: row.try_get("name")?,
        owner: row.try_get("owner")?,
        model: row.try_get("model")?,
        output: row.try_get("output")?,
        state: word::<JobState>(row, "state")?,
        images: unsigned(row, "images")?,
        done: unsigned(row, "done")?,
        failed: unsigned(row, "failed")?,
        submitted_at: time(row.try_get("sealed_at")?)?,
        started_at: optional_time("started_at")?,
        finished_at: optional_time("finished_at")?,
        error: row.try_get("error")?,
        output_error: row.try_get("output_error")?,
        settings: settings(row)?,
        priority: row.try_get("priority")?,
        needs: json(row, "needs")?,
        after: json(row, "after_jobs")?,
        deadline: optional_time("deadline")?,
        end_reason: row.try_get("end_reason")?,
        form: form(row)?,
        webhook: Webhook::read(row.try_get("webhook")?, row.try_get("delivery")?)?,
    })
}

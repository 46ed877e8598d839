//! Between columns and the words of the domain.

use std::borrow::Cow;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgRow, PgTypeInfo, PgValueFormat, PgValueRef};
use sqlx::types::Json;
use sqlx::{Decode, Encode, Postgres, Row, Type};
use uuid::Uuid;

use crate::domain::form::Form;
use crate::domain::settings::Settings;
use crate::domain::{Invalid, UnknownWord};
use crate::store::records::{Job, Webhook};
use crate::store::{Error, Result};

/// A moment as Postgres has it, in whole microseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Time(pub Timestamp);

/// The type timestamptz.
const TIMESTAMPTZ: Oid = Oid(1184);
/// The year 2000, from where Postgres counts, in microseconds after 1970.
const YEAR_2000: i64 = 946_684_800_000_000;

impl Type<Postgres> for Time {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(TIMESTAMPTZ)
    }
}

impl Encode<'_, Postgres> for Time {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> std::result::Result<IsNull, BoxDynError> {
        Encode::<Postgres>::encode(self.0.as_microsecond() - YEAR_2000, buffer)
    }
}

impl<'r> Decode<'r, Postgres> for Time {
    fn decode(value: PgValueRef<'r>) -> std::result::Result<Self, BoxDynError> {
        match value.format() {
            PgValueFormat::Binary => {
                let micros: i64 = Decode::<Postgres>::decode(value)?;
                let micros = micros.checked_add(YEAR_2000).ok_or("a time beyond the calendar")?;
                Ok(Self(Timestamp::from_microsecond(micros)?))
            }
            PgValueFormat::Text => Ok(Self(value.as_str()?.parse()?)),
        }
    }
}

/// When a lease that is granted or renewed now ends.
pub(super) fn expiry(now: Timestamp, duration: Duration) -> Result<Timestamp> {
    now.saturating_add(duration).map_err(|error| Error::Corrupt(format!("lease duration: {error}")))
}

/// Reads a time.
pub(super) fn time(row: &PgRow, column: &str) -> Result<Timestamp> {
    Ok(row.try_get::<Time, _>(column)?.0)
}

/// Reads a time that may be null.
pub(super) fn optional_time(row: &PgRow, column: &str) -> Result<Option<Timestamp>> {
    Ok(row.try_get::<Option<Time>, _>(column)?.map(|time| time.0))
}

/// Reads one of the words of an enum.
pub(super) fn word<T: FromStr<Err = UnknownWord>>(row: &PgRow, column: &str) -> Result<T> {
    Ok(row.try_get::<&str, _>(column)?.parse::<T>()?)
}

/// Reads an id as text.
pub(super) fn id<T: From<String>>(row: &PgRow, column: &str) -> Result<T> {
    Ok(T::from(row.try_get::<Uuid, _>(column)?.to_string()))
}

/// The text of a column of JSON that this store writes.
pub(super) fn json_text(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::Corrupt(format!("write json: {error}")))
}

/// The uuid that an id was given out as; none for a text that is none of ours.
pub(super) fn uuid(id: &str) -> Option<Uuid> {
    Uuid::parse_str(id).ok()
}

/// Reads a count, an index or a seed.
pub(super) fn unsigned(row: &PgRow, column: &str) -> Result<u64> {
    let value: i64 = row.try_get(column)?;
    u64::try_from(value).map_err(|_| Error::Corrupt(format!("{column} {value} is negative")))
}

/// Reads a small number.
pub(super) fn small(row: &PgRow, column: &str) -> Result<u32> {
    let value: i32 = row.try_get(column)?;
    u32::try_from(value).map_err(|_| Error::Corrupt(format!("{column} {value} is negative")))
}

/// For Postgres, whose integers are signed.
pub(super) fn signed(value: u64, what: &str) -> Result<i64> {
    i64::try_from(value).map_err(|_| Invalid::job(format!("{what} {value} is above {}", i64::MAX)).into())
}

/// The same for small numbers.
pub(super) fn small_signed(value: u32, what: &str) -> Result<i32> {
    i32::try_from(value).map_err(|_| Invalid::job(format!("{what} {value} is above {}", i32::MAX)).into())
}

/// Bytes from their digits.
pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    hex::decode(text).ok()
}

/// Text as Postgres can hold it: any but NUL.
pub(super) fn clean(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{fffd}").into() } else { text.into() }
}

/// Reads columns `width` to `decode`.
pub(super) fn settings(row: &PgRow) -> Result<Settings> {
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
pub(super) fn form(row: &PgRow) -> Result<Form> {
    Ok(Form {
        format: word(row, "format")?,
        quality: small(row, "quality")?,
        layout: word(row, "layout")?,
        thumbnails: row.try_get("thumbnails")?,
    })
}

/// The columns that [`job`] reads of the table `jobs`. A job with ever so many errors is still told at once.
pub(super) const JOB_COLUMNS: &str = "id, name, owner, model, output, state, images, done, failed, sealed_at, \
    started_at, finished_at, output_error, priority, needs, width, height, steps, guidance, bin, decode, deadline, \
    end_reason, format, quality, layout, thumbnails, webhook, CASE WHEN webhook IS NOT NULL AND finished_at IS NOT NULL THEN \
    (SELECT jsonb_build_object('state', w.state, 'attempts', w.attempts, 'error', w.error, \
    'at', coalesce(w.ended_at, w.next_at))::text FROM webhooks AS w WHERE w.job = jobs.key ORDER BY w.key DESC LIMIT 1) END \
    AS delivery, (SELECT coalesce(jsonb_agg(jsonb_build_object('job', n.id, 'any_end', d.any_end, 'state', n.state, \
    'images', n.images, 'finished', n.done + n.failed) ORDER BY n.key), '[]') FROM job_dependencies AS d \
    JOIN jobs AS n ON n.key = d.needs_job WHERE d.job = jobs.key) AS after_jobs, CASE WHEN failed = 0 THEN NULL ELSE (SELECT r.error FROM (SELECT error FROM results \
    WHERE results.job = jobs.key AND results.state = 'failed' LIMIT 1000) AS r \
    GROUP BY r.error ORDER BY count(*) DESC, r.error LIMIT 1) END AS error";

/// A sealed job.
pub(super) fn job(row: &PgRow) -> Result<Job> {
    Ok(Job {
        id: id(row, "id")?,
        name: row.try_get("name")?,
        owner: row.try_get("owner")?,
        model: row.try_get("model")?,
        output: row.try_get("output")?,
        state: word(row, "state")?,
        images: unsigned(row, "images")?,
        done: unsigned(row, "done")?,
        failed: unsigned(row, "failed")?,
        submitted_at: time(row, "sealed_at")?,
        started_at: optional_time(row, "started_at")?,
        finished_at: optional_time(row, "finished_at")?,
        error: row.try_get("error")?,
        output_error: row.try_get("output_error")?,
        settings: settings(row)?,
        priority: row.try_get("priority")?,
        needs: row.try_get::<Json<_>, _>("needs")?.0,
        after: row.try_get::<Json<_>, _>("after_jobs")?.0,
        deadline: optional_time(row, "deadline")?,
        end_reason: row.try_get("end_reason")?,
        form: form(row)?,
        webhook: Webhook::read(row.try_get("webhook")?, row.try_get("delivery")?)?,
    })
}

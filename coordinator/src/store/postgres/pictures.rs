//! The pictures of reports: which can be stored, and committing them by one statement.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::codec::{Time, clean, signed, unhex, uuid};
use super::session::attempt;
use crate::domain::Invalid;
use crate::store::records::{ImageReport, Outcome, Quality, Report, Reported};
use crate::store::{Error, Result};

/// A picture that a worker reports.
#[derive(Debug)]
pub(super) struct Picture<'a> {
    index: i64,
    object: &'a str,
    bytes: i64,
    sha256: Vec<u8>,
    recipe: &'a str,
    quality: Option<Quality>,
    report: &'a ImageReport,
}

/// The pictures among some results, if each is one that can be stored.
pub(super) fn pictures(results: &[ImageReport]) -> std::result::Result<Vec<Picture<'_>>, Error> {
    let mut pictures = Vec::with_capacity(results.len());
    for report in results {
        let Outcome::Done { object, bytes, sha256, recipe, quality } = &report.outcome else { continue };
        let index = signed(report.index, "index")?;
        let Some(bytes_of_hash) = hash(sha256) else {
            let what = format!("image {index} has the sha256 {sha256:?}, which is none in hex");
            return Err(Invalid::job(what).into());
        };
        if !is_json(recipe) {
            return Err(Invalid::job(format!("the recipe of image {index} is no JSON")).into());
        }
        pictures.push(Picture {
            index,
            object,
            bytes: signed(*bytes, "bytes")?,
            sha256: bytes_of_hash,
            recipe,
            quality: *quality,
            report,
        });
    }
    Ok(pictures)
}

/// The 32 bytes of a hash in hex.
fn hash(text: &str) -> Option<Vec<u8>> {
    unhex(text).filter(|bytes| bytes.len() == 32)
}

/// JSON that can be asked for its fields: Postgres knows no NUL and no half of a surrogate pair, escaped or not.
fn is_json(text: &str) -> bool {
    if !text.contains("\\u") {
        return serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
    }
    fn has_nul(value: &serde_json::Value) -> bool {
        match value {
            serde_json::Value::String(text) => text.contains('\0'),
            serde_json::Value::Array(values) => values.iter().any(has_nul),
            serde_json::Value::Object(fields) => {
                fields.iter().any(|(name, value)| name.contains('\0') || has_nul(value))
            }
            _ => false,
        }
    }
    serde_json::from_str(text).is_ok_and(|value| !has_nul(&value))
}

/// A report with the pictures in it.
pub(super) type Given<'a> = (&'a Report, &'a [Picture<'a>]);

/// Commits the pictures of some reports. One answer each, in order.
pub(super) async fn commit_pictures(
    db: &mut PgConnection,
    reports: &[Given<'_>],
    now: Timestamp,
) -> Result<Vec<Result<Reported>>> {
    let sessions: Vec<Option<Uuid>> =
        reports.iter().map(|(report, _)| uuid(report.session.as_str())).collect();
    let shards: Vec<Option<Uuid>> =
        reports.iter().map(|(report, _)| uuid(report.lease.shard.as_str())).collect();
    let attempts: Vec<i32> = reports.iter().map(|(report, _)| attempt(report.lease.attempt)).collect();
    let all = || reports.iter().flat_map(|(_, pictures)| *pictures);
    let numbers: Vec<i32> = reports
        .iter()
        .zip(1..)
        .flat_map(|((_, pictures), number)| std::iter::repeat_n(number, pictures.len()))
        .collect();
    let archived: Vec<bool> = reports.iter().map(|(report, _)| report.archive.is_some()).collect();
    let quality = |of: fn(Quality) -> f64| all().map(|picture| picture.quality.map(of)).collect::<Vec<_>>();
    let rows =
        sqlx::query("SELECT * FROM commit_pictures($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)")
            .bind(&sessions)
            .bind(&shards)
            .bind(&attempts)
            .bind(archived)
            .bind(numbers)
            .bind(all().map(|picture| picture.index).collect::<Vec<_>>())
            .bind(all().map(|picture| picture.object).collect::<Vec<_>>())
            .bind(all().map(|picture| picture.bytes).collect::<Vec<_>>())
            .bind(all().map(|picture| picture.sha256.as_slice()).collect::<Vec<_>>())
            .bind(all().map(|picture| picture.recipe).collect::<Vec<_>>())
            .bind(all().map(|picture| clean(&picture.report.device)).collect::<Vec<_>>())
            .bind(all().map(|picture| picture.report.render_seconds).collect::<Vec<_>>())
            .bind(all().map(|picture| picture.report.decode_seconds).collect::<Vec<_>>())
            .bind(quality(|quality| quality.entropy))
            .bind(quality(|quality| quality.clipped))
            .bind(Time(now))
            .fetch_all(db)
            .await?;
    if rows.len() != reports.len() {
        return Err(Error::Corrupt(format!("{} answers to {} reports", rows.len(), reports.len())));
    }
    // Two reports of one attempt, or one image twice in a report: what was committed counts once.
    let mut uncounted: HashMap<(Option<Uuid>, Option<Uuid>, i32), HashSet<i64>> = HashMap::new();
    let mut answers = Vec::with_capacity(reports.len());
    for (number, (row, (report, pictures))) in rows.iter().zip(reports).enumerate() {
        if let Some(refusal) = refusal(row, report, pictures)? {
            answers.push(Err(refusal));
            continue;
        }
        let attempt = (sessions[number], shards[number], attempts[number]);
        let committed: Option<Vec<i64>> = row.try_get("committed")?;
        let uncounted =
            uncounted.entry(attempt).or_insert_with(|| committed.unwrap_or_default().into_iter().collect());
        let accepted = pictures.iter().filter(|picture| uncounted.remove(&picture.index)).count() as u64;
        answers.push(Ok(Reported {
            accepted,
            known: pictures.len() as u64 - accepted,
            held: row.try_get("held")?,
            job_complete: row.try_get("complete")?,
            taken: Vec::new(),
            failed: Vec::new(),
        }));
    }
    Ok(answers)
}

/// Why a report was refused, if it was.
fn refusal(row: &PgRow, report: &Report, pictures: &[Picture<'_>]) -> Result<Option<Error>> {
    let index: Option<i64> = row.try_get("refused_index")?;
    let lease = &report.lease;
    let what = match row.try_get::<Option<&str>, _>("refused")? {
        None => return Ok(None),
        Some("shard") => {
            return Ok(Some(Error::NotFound { what: "shard", id: lease.shard.to_string() }));
        }
        Some("attempt") => never_given_out(report),
        Some("archive") => return Ok(Some(report.wrong_layout().into())),
        Some("image") => not_in_this_shard(index.unwrap_or_default()),
        Some("object") => {
            let assigned: Option<&str> = row.try_get("assigned")?;
            let index = index.unwrap_or_default();
            let object = pictures
                .iter()
                .filter(|picture| picture.index == index)
                .map(|picture| picture.object)
                .find(|object| Some(*object) != assigned);
            format!(
                "image {index} was written to {:?}, not to {:?}",
                object.unwrap_or_default(),
                assigned.unwrap_or_default()
            )
        }
        Some(other) => return Err(Error::Corrupt(format!("refusal {other:?}"))),
    };
    Ok(Some(Invalid::job(what).into()))
}

/// What is wrong with an attempt that is none.
pub(super) fn never_given_out(report: &Report) -> String {
    format!("attempt {} of shard {} was never given out", report.lease.attempt, report.lease.shard)
}

/// What is wrong with errors of an attempt that is somebody else's.
pub(super) fn given_to_another(report: &Report) -> String {
    format!("attempt {} of shard {} was given to another worker", report.lease.attempt, report.lease.shard)
}

/// What is wrong with an image of another shard.
pub(super) fn not_in_this_shard(index: i64) -> String {
    format!("image {index} is not in this shard")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_is_json_that_postgres_can_read() {
        for good in ["{}", r#"{"a":"\u00fc \\u0000"}"#, r#"{"a":"\ud83d\ude00"}"#] {
            assert!(is_json(good), "{good}");
        }
        for wrong in ["", "{", r#"{"a":"\u0000"}"#, r#"{"\u0000":1}"#, r#"{"a":"\ud83d"}"#] {
            assert!(!is_json(wrong), "{wrong}");
        }
    }

    #[test]
    fn a_hash_is_64_digits() {
        assert_eq!(hash(&"0aF".repeat(22)[..64]).map(|bytes| (bytes.len(), bytes[0])), Some((32, 0x0a)));
        for wrong in ["", "zz", "0a", &"ü".repeat(32), &"+1".repeat(32)] {
            assert_eq!(hash(wrong), None, "{wrong}");
        }
    }
}

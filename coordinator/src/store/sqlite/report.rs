//! Committing results.

use jiff::Timestamp;
use sqlx::{Connection, Row, SqliteConnection};

use super::SqliteStore;
use super::archives::{self, Standing};
use super::codec::{signed, small, time_text, word};
use super::shard_state::{Failure, HeldBy, Shard, fail_image};
use super::{session, standing};
use crate::domain::Invalid;
use crate::domain::blame::{Caps, Verdict, after_error};
use crate::domain::form::Layout;
use crate::domain::state::JobState;
use crate::store::records::{ImageReport, LeaseRef, Outcome, Report, Reported};
use crate::store::{Error, Result};

/// Who reports, from which attempt.
struct Reporter {
    session: Option<i64>,
    attempt: u32,
    caps: Caps,
    now: Timestamp,
}

pub(super) async fn report_results(
    store: &SqliteStore,
    reports: &[Report],
    caps: Caps,
    now: Timestamp,
) -> Result<Vec<Result<Reported>>> {
    let mut tx = store.write().await?;
    let mut answers = Vec::with_capacity(reports.len());
    for report in reports {
        // What is refused leaves nothing behind.
        let mut savepoint = tx.begin().await?;
        answers.push(match commit_report(&mut savepoint, report, caps, now).await {
            Ok(reported) => {
                savepoint.commit().await?;
                Ok(reported)
            }
            Err(error @ (Error::Invalid(_) | Error::NotFound { .. })) => {
                savepoint.rollback().await?;
                Err(error)
            }
            Err(error) => return Err(error),
        });
    }
    tx.commit().await?;
    Ok(answers)
}

async fn commit_report(
    db: &mut SqliteConnection,
    report: &Report,
    caps: Caps,
    now: Timestamp,
) -> Result<Reported> {
    let Report { session, lease, results, .. } = report;
    let archive = report.checked_archive()?;
    let known_session = session::find(db, session).await?;
    if let Some((key, true)) = known_session {
        session::seen(db, key, now).await?;
    }
    let mut shard = Shard::find(db, &lease.shard).await?;
    let given_out = sqlx::query("SELECT 1 FROM leases WHERE shard = ? AND attempt = ?")
        .bind(shard.key)
        .bind(lease.attempt)
        .fetch_optional(&mut *db)
        .await?;
    if given_out.is_none() {
        let what = format!("attempt {} of shard {} was never given out", lease.attempt, lease.shard);
        return Err(Invalid::job(what).into());
    }
    let has_pictures = results.iter().any(|result| matches!(result.outcome, Outcome::Done { .. }));
    if has_pictures && archive.is_some() != (layout(db, shard.job).await? == Layout::Webdataset) {
        return Err(report.wrong_layout().into());
    }
    let stands = match archive {
        Some(archive) => Some(archives::standing(db, &shard, report, archive).await?),
        None => None,
    };
    let nothing_new = match stands {
        Some(Standing::Known) => Some((results.len() as u64, Vec::new())),
        Some(Standing::Taken(taken)) => Some((0, taken)),
        Some(Standing::New) | None => None,
    };
    if let Some((known, taken)) = nothing_new {
        let held = holds(db, &shard, lease, known_session.map(|(key, _)| key)).await?;
        let job_complete = job_complete(db, shard.job).await?;
        return Ok(Reported { accepted: 0, known, held, job_complete, taken, failed: Vec::new() });
    }
    if report.has_errors() {
        let Some((key, _)) = known_session else {
            return Err(Error::NotFound { what: "session", id: session.to_string() });
        };
        check_holder(db, &shard, report, key).await?;
    }
    let reporter = Reporter { session: known_session.map(|(key, _)| key), attempt: lease.attempt, caps, now };
    let (mut accepted, mut failed) = (0, Vec::new());
    for result in results {
        let mut cut_off = shard.cut_off(db, signed(result.index, "index")?).await?;
        match commit(db, &shard, cut_off.as_ref().unwrap_or(&shard), &reporter, result).await? {
            Committed::Known => {}
            Committed::New => accepted += 1,
            Committed::Failed => {
                accepted += 1;
                failed.push(result.index);
            }
        }
        if let Some(shard) = &mut cut_off {
            shard.settle(db, now).await?;
        }
    }
    if let Some(archive) = archive {
        archives::insert(db, &shard, report, archive, now).await?;
    }
    if let Some(session) = reporter.session {
        standing::judge(db, &shard, session, report, now).await?;
    }
    shard.settle(db, now).await?;
    keep_logs(db, &shard, &reporter, report).await?;
    let held = holds(db, &shard, lease, reporter.session).await?;
    let job_complete = job_complete(db, shard.job).await?;
    let known = results.len() as u64 - accepted;
    Ok(Reported { accepted, known, held, job_complete, taken: Vec::new(), failed })
}

/// Whether the session holds the lease.
async fn holds(
    db: &mut SqliteConnection,
    shard: &Shard,
    lease: &LeaseRef,
    session: Option<i64>,
) -> Result<bool> {
    let held = HeldBy::find(db, shard.key).await?;
    Ok(held.is_some_and(|held| held.attempt == lease.attempt && Some(held.session) == session))
}

async fn layout(db: &mut SqliteConnection, job: i64) -> Result<Layout> {
    let row = sqlx::query("SELECT layout FROM jobs WHERE key = ?").bind(job).fetch_one(db).await?;
    word(&row, "layout")
}

/// Keeps what the worker logged. A report that is sent twice counts once.
async fn keep_logs(
    db: &mut SqliteConnection,
    shard: &Shard,
    reporter: &Reporter,
    report: &Report,
) -> Result<()> {
    for result in report.logged() {
        sqlx::query(
            "INSERT INTO image_logs (job, idx, attempt, session, device, log, at) VALUES (?, ?, ?, ?, ?, ?, ?) \
             ON CONFLICT (job, idx, attempt) DO NOTHING",
        )
        .bind(shard.job)
        .bind(signed(result.index, "index")?)
        .bind(reporter.attempt)
        .bind(reporter.session)
        .bind(&result.device)
        .bind(&result.log)
        .bind(time_text(reporter.now))
        .execute(&mut *db)
        .await?;
    }
    Ok(())
}

/// Refuses errors of anybody but the worker that the attempt was given to: they count against its images. It may have
/// another session by now.
async fn check_holder(db: &mut SqliteConnection, shard: &Shard, report: &Report, session: i64) -> Result<()> {
    let holds: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM leases AS l JOIN sessions AS h ON h.key = l.session \
         JOIN sessions AS w ON w.worker = h.worker WHERE l.shard = ? AND l.attempt = ? AND w.key = ?)",
    )
    .bind(shard.key)
    .bind(report.lease.attempt)
    .bind(session)
    .fetch_one(db)
    .await?;
    if holds {
        return Ok(());
    }
    let LeaseRef { shard, attempt } = &report.lease;
    Err(Invalid::job(format!("attempt {attempt} of shard {shard} was given to another worker")).into())
}

/// What became of a result or an error.
enum Committed {
    /// It was there already.
    Known,
    New,
    /// It was new, and its image has failed for good with it.
    Failed,
}

/// Commits one result or error, of an image that was leased with `shard` and that `holding` has now.
async fn commit(
    db: &mut SqliteConnection,
    shard: &Shard,
    holding: &Shard,
    reporter: &Reporter,
    result: &ImageReport,
) -> Result<Committed> {
    let index = signed(result.index, "index")?;
    let image = sqlx::query(
        "SELECT i.object, i.errors, EXISTS (SELECT 1 FROM results AS r WHERE r.job = i.job AND r.idx = i.idx) \
         AS known, EXISTS (SELECT 1 FROM requeued_results AS q WHERE q.job = i.job AND q.idx = i.idx \
         AND q.attempt >= ?6) AS requeued FROM images AS i \
         WHERE i.job = ?1 AND i.group_no = ?2 AND i.idx = ?3 AND i.idx BETWEEN ?4 AND ?5",
    )
    .bind(shard.job)
    .bind(shard.group)
    .bind(index)
    .bind(holding.first)
    .bind(holding.last)
    .bind(reporter.attempt)
    .fetch_optional(&mut *db)
    .await?;
    let Some(image) = image else {
        return Err(Invalid::job(format!("image {index} is not in this shard")).into());
    };
    match &result.outcome {
        Outcome::Done { object, bytes, sha256, recipe, quality } => {
            let assigned: &str = image.try_get("object")?;
            check_done(index, assigned, object, sha256, recipe)?;
            // The object of a picture that was taken back is not where an attempt of that time put it.
            if image.try_get("known")? || image.try_get("requeued")? {
                return Ok(Committed::Known);
            }
            sqlx::query(
                "INSERT INTO results (job, idx, state, shard, attempt, session, device, object, bytes, sha256, \
                 recipe, render_seconds, decode_seconds, finished_at, entropy, clipped) \
                 VALUES (?, ?, 'done', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )
            .bind(shard.job)
            .bind(index)
            .bind(shard.key)
            .bind(reporter.attempt)
            .bind(reporter.session)
            .bind(&result.device)
            .bind(object)
            .bind(signed(*bytes, "bytes")?)
            .bind(sha256)
            .bind(recipe)
            .bind(result.render_seconds)
            .bind(result.decode_seconds)
            .bind(time_text(reporter.now))
            .bind(quality.map(|quality| quality.entropy))
            .bind(quality.map(|quality| quality.clipped))
            .execute(&mut *db)
            .await?;
            sqlx::query("UPDATE jobs SET done = done + 1 WHERE key = ?")
                .bind(shard.job)
                .execute(&mut *db)
                .await?;
            Ok(Committed::New)
        }
        Outcome::Failed { class, message } => {
            if image.try_get("known")? {
                return Ok(Committed::Known);
            }
            let inserted = sqlx::query(
                "INSERT INTO image_errors (job, idx, attempt, session, device, error_class, error, at) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (job, idx, attempt) DO NOTHING",
            )
            .bind(shard.job)
            .bind(index)
            .bind(reporter.attempt)
            .bind(reporter.session)
            .bind(&result.device)
            .bind(class.word())
            .bind(message)
            .bind(time_text(reporter.now))
            .execute(&mut *db)
            .await?;
            if inserted.rows_affected() == 0 {
                return Ok(Committed::Known);
            }
            sqlx::query("UPDATE images SET errors = errors + 1 WHERE job = ? AND idx = ?")
                .bind(shard.job)
                .bind(index)
                .execute(&mut *db)
                .await?;
            let errors = small(&image, "errors")? + 1;
            let workers = failing_workers(db, shard.job, index).await?;
            match after_error(*class, errors, workers, reporter.caps) {
                Verdict::Again => {}
                Verdict::Failed => {
                    let failure = Failure {
                        index,
                        attempt: reporter.attempt,
                        session: reporter.session,
                        device: &result.device,
                        class: *class,
                        error: message,
                        render_seconds: Some(result.render_seconds),
                        by: None,
                    };
                    fail_image(db, shard, &failure, reporter.now).await?;
                    return Ok(Committed::Failed);
                }
            }
            Ok(Committed::New)
        }
    }
}

/// Different workers that failed an image since it was last tried anew. Errors of sessions that nobody knows count as
/// those of one worker.
async fn failing_workers(db: &mut SqliteConnection, job: i64, index: i64) -> Result<u32> {
    let row = sqlx::query(
        "SELECT count(DISTINCT coalesce(w.worker, '')) AS workers FROM image_errors AS e \
         LEFT JOIN sessions AS w ON w.key = e.session WHERE e.job = ?1 AND e.idx = ?2 AND e.attempt > \
         (SELECT coalesce(max(t.attempt), 0) FROM (SELECT t.attempt FROM retried_results AS t WHERE t.job = ?1 AND t.idx = ?2 \
         UNION ALL SELECT t.attempt FROM requeued_results AS t WHERE t.job = ?1 AND t.idx = ?2) AS t)",
    )
    .bind(job)
    .bind(index)
    .fetch_one(db)
    .await?;
    small(&row, "workers")
}

fn check_done(
    index: i64,
    assigned: &str,
    object: &str,
    sha256: &str,
    recipe: &str,
) -> std::result::Result<(), Invalid> {
    if object != assigned {
        return Err(Invalid::job(format!("image {index} was written to {object:?}, not to {assigned:?}")));
    }
    check_sha256(&format!("image {index}"), sha256)?;
    if serde_json::from_str::<serde::de::IgnoredAny>(recipe).is_err() {
        return Err(Invalid::job(format!("the recipe of image {index} is no JSON")));
    }
    Ok(())
}

/// Refuses what is no hash in hex.
pub(super) fn check_sha256(whose: &str, sha256: &str) -> std::result::Result<(), Invalid> {
    if sha256.len() == 64 && sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(());
    }
    Err(Invalid::job(format!("{whose} has the sha256 {sha256:?}, which is none in hex")))
}

/// Every image of the job has its result, but the job has not ended.
pub(super) async fn job_complete(db: &mut SqliteConnection, job: i64) -> Result<bool> {
    let row = sqlx::query("SELECT state, done + failed = images AS complete FROM jobs WHERE key = ?")
        .bind(job)
        .fetch_one(db)
        .await?;
    let state: JobState = word(&row, "state")?;
    Ok(row.try_get("complete")? && !state.has_ended())
}

//! Reports with errors: what an error costs an image is for the domain to say, so that each is a transaction that
//! reads, decides and writes.

use jiff::Timestamp;
use sqlx::{PgConnection, Row};

use super::PostgresStore;
use super::codec::{Time, clean, signed, small};
use super::pictures::{Picture, commit_pictures, given_to_another, never_given_out, not_in_this_shard};
use super::report::keep_logs;
use super::session::{attempt, find, not_found};
use super::shard_state::{Failure, Shard, fail_image, settle};
use super::standing;
use crate::domain::Invalid;
use crate::domain::blame::{Caps, ErrorClass, Verdict, after_error};
use crate::store::Result;
use crate::store::records::{ImageReport, Outcome, Report, Reported};

/// Who reports, from which attempt.
struct Reporter {
    session: Option<i64>,
    attempt: i32,
    caps: Caps,
    now: Timestamp,
}

/// Commits a report that has errors. Its pictures go in first.
pub(super) async fn commit(
    store: &PostgresStore,
    report: &Report,
    pictures: &[Picture<'_>],
    caps: Caps,
    now: Timestamp,
) -> Result<Reported> {
    let mut tx = store.begin(now).await?;
    let session = find(&mut tx, &report.session, now).await?.map(|(key, _)| key);
    let shard = Shard::lock_with_job(&mut tx, &report.lease.shard).await?;
    let reporter = Reporter { session, attempt: attempt(report.lease.attempt), caps, now };
    let given_out = sqlx::query("SELECT FROM leases WHERE shard = $1 AND attempt = $2")
        .bind(shard.key)
        .bind(reporter.attempt)
        .fetch_optional(&mut *tx)
        .await?;
    if given_out.is_none() {
        return Err(Invalid::job(never_given_out(report)).into());
    }
    if report.has_errors() {
        let Some(session) = session else { return Err(not_found(&report.session)) };
        check_holder(&mut tx, &shard, report, session).await?;
    }
    let before = match session {
        Some(session) => standing::lock(&mut tx, session).await?,
        None => None,
    };
    let (mut accepted, mut failed) = (0, Vec::new());
    if !pictures.is_empty() {
        for answer in commit_pictures(&mut tx, &[(report, pictures)], now).await? {
            accepted += answer?.accepted;
        }
    }
    for result in &report.results {
        let Outcome::Failed { class, message } = &result.outcome else { continue };
        let holding = shard.holding(&mut tx, signed(result.index, "index")?).await?;
        match commit_error(&mut tx, &shard, &holding, &reporter, result, *class, message).await? {
            None => {}
            Some(Verdict::Again) => accepted += 1,
            Some(Verdict::Failed) => {
                accepted += 1;
                failed.push(result.index);
            }
        }
        settle(&mut tx, holding.key, now).await?;
    }
    if let Some(before) = before {
        standing::judge(&mut tx, &shard, before, report, now).await?;
    }
    settle(&mut tx, shard.key, now).await?;
    let row = sqlx::query(
        "SELECT EXISTS (SELECT FROM leases WHERE shard = $2 AND attempt = $3 AND session = $4 AND ended_at IS NULL) \
         AS held, done + failed = images AND state IN ('pending', 'running', 'paused') AS complete \
         FROM jobs WHERE key = $1",
    )
    .bind(shard.job)
    .bind(shard.key)
    .bind(reporter.attempt)
    .bind(reporter.session)
    .fetch_one(&mut *tx)
    .await?;
    let (held, job_complete) = (row.try_get("held")?, row.try_get("complete")?);
    keep_logs(&mut tx, &[report], now).await?;
    tx.commit().await?;
    let known = report.results.len() as u64 - accepted;
    Ok(Reported { accepted, known, held, job_complete, taken: Vec::new(), failed })
}

/// Refuses errors of anybody but the worker that the attempt was given to: they count against its images. It may have
/// another session by now.
async fn check_holder(db: &mut PgConnection, shard: &Shard, report: &Report, session: i64) -> Result<()> {
    let holds: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM leases AS l JOIN sessions AS h ON h.key = l.session \
         JOIN sessions AS w ON w.worker = h.worker WHERE l.shard = $1 AND l.attempt = $2 AND w.key = $3)",
    )
    .bind(shard.key)
    .bind(attempt(report.lease.attempt))
    .bind(session)
    .fetch_one(db)
    .await?;
    if holds { Ok(()) } else { Err(Invalid::job(given_to_another(report)).into()) }
}

/// Commits one error, of an image that was leased with `shard` and that `holding` has now: what follows from it when it is new.
async fn commit_error(
    db: &mut PgConnection,
    shard: &Shard,
    holding: &Shard,
    reporter: &Reporter,
    result: &ImageReport,
    class: ErrorClass,
    message: &str,
) -> Result<Option<Verdict>> {
    let index = signed(result.index, "index")?;
    let image = sqlx::query(
        "SELECT EXISTS (SELECT FROM results AS r WHERE r.job = $1 AND r.idx = $3) AS known FROM images AS i \
         WHERE i.job = $1 AND i.group_no = $2 AND i.idx = $3 AND i.idx BETWEEN $4 AND $5",
    )
    .bind(shard.job)
    .bind(shard.group)
    .bind(index)
    .bind(holding.first)
    .bind(holding.last)
    .fetch_optional(&mut *db)
    .await?;
    let Some(image) = image else { return Err(Invalid::job(not_in_this_shard(index)).into()) };
    if image.try_get("known")? {
        return Ok(None);
    }
    // A report that is sent twice counts once.
    let errors = sqlx::query(
        "WITH told AS (INSERT INTO image_errors (job, idx, attempt, session, device, error_class, error, at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (job, idx, attempt) DO NOTHING RETURNING job, idx), \
         counted AS (UPDATE leases SET errors = errors + 1 WHERE shard = $9 AND attempt = $3 \
         AND EXISTS (SELECT FROM told)) \
         INSERT INTO image_faults AS o (job, idx, errors) SELECT job, idx, 1 FROM told \
         ON CONFLICT (job, idx) DO UPDATE SET errors = o.errors + 1 RETURNING errors",
    )
    .bind(shard.job)
    .bind(index)
    .bind(reporter.attempt)
    .bind(reporter.session)
    .bind(&*clean(&result.device))
    .bind(class.word())
    .bind(&*clean(message))
    .bind(Time(reporter.now))
    .bind(shard.key)
    .fetch_optional(&mut *db)
    .await?;
    let Some(errors) = errors else { return Ok(None) };
    let workers = failing_workers(db, shard.job, index).await?;
    let verdict = after_error(class, small(&errors, "errors")?, workers, reporter.caps);
    match verdict {
        Verdict::Again => {}
        Verdict::Failed => {
            let failure = Failure {
                index,
                shard: shard.key,
                attempt: reporter.attempt,
                session: reporter.session,
                device: &result.device,
                class,
                error: message,
                render_seconds: Some(result.render_seconds),
                by: None,
            };
            fail_image(db, holding, &failure, reporter.now).await?;
        }
    }
    Ok(Some(verdict))
}

/// Different workers that failed an image since it was last tried anew. Errors of sessions that nobody knows count as
/// those of one worker.
async fn failing_workers(db: &mut PgConnection, job: i64, index: i64) -> Result<u32> {
    let row = sqlx::query(
        "SELECT count(DISTINCT coalesce(w.worker, ''))::integer AS workers FROM image_errors AS e \
         LEFT JOIN sessions AS w ON w.key = e.session WHERE e.job = $1 AND e.idx = $2 AND e.attempt > \
         (SELECT coalesce(max(t.attempt), 0) FROM (SELECT t.attempt FROM retried_results AS t WHERE t.job = $1 AND t.idx = $2 \
         UNION ALL SELECT t.attempt FROM requeued_results AS t WHERE t.job = $1 AND t.idx = $2) AS t)",
    )
    .bind(job)
    .bind(index)
    .fetch_one(db)
    .await?;
    small(&row, "workers")
}

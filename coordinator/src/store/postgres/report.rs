//! Committing results.

use jiff::Timestamp;
use sqlx::PgConnection;

use super::PostgresStore;
use super::codec::{Time, clean, signed, uuid};
use super::pictures::{Given, commit_pictures, pictures};
use super::session::attempt;
use super::trouble::retried;
use super::{archives, faults};
use crate::domain::blame::Caps;
use crate::store::records::{Report, Reported};
use crate::store::{Error, Result};

/// Pictures of all reports go in by one statement; a report with errors or with a tar is a transaction of its own.
pub(super) async fn report_results(
    store: &PostgresStore,
    reports: &[Report],
    caps: Caps,
    now: Timestamp,
) -> Result<Vec<Result<Reported>>> {
    let mut answers: Vec<Option<Result<Reported>>> = reports.iter().map(|_| None).collect();
    let (mut plain, mut faulty) = (Vec::new(), Vec::new());
    for (number, report) in reports.iter().enumerate() {
        let archive = match report.checked_archive() {
            Ok(archive) => archive,
            Err(invalid) => {
                answers[number] = Some(Err(invalid.into()));
                continue;
            }
        };
        match pictures(&report.results) {
            Ok(pictures) if let Some(archive) = archive => {
                answers[number] =
                    Some(refused(retried!(archives::commit(store, report, archive, &pictures, now)))?);
            }
            Ok(pictures) if !pictures.is_empty() && pictures.len() == report.results.len() => {
                plain.push((number, report, pictures))
            }
            Ok(pictures) => faulty.push((number, report, pictures)),
            Err(invalid) => answers[number] = Some(Err(invalid)),
        }
    }
    if !plain.is_empty() {
        let given: Vec<_> =
            plain.iter().map(|(_, report, pictures)| (*report, pictures.as_slice())).collect();
        let committed = retried!(commit_at_once(store, &given, now))?;
        for ((number, ..), answer) in plain.iter().zip(committed) {
            answers[*number] = Some(answer);
        }
    }
    for (number, report, pictures) in &faulty {
        answers[*number] = Some(refused(retried!(faults::commit(store, report, pictures, caps, now)))?);
    }
    answers
        .into_iter()
        .map(|answer| answer.ok_or_else(|| Error::Corrupt("a report without an answer".to_owned())))
        .collect()
}

/// Tells an answer to one report, its refusal included, from an error that is about all of them.
fn refused(answer: Result<Reported>) -> Result<Result<Reported>> {
    match answer {
        Err(error @ (Error::Invalid(_) | Error::NotFound { .. })) => Ok(Err(error)),
        answer => Ok(Ok(answer?)),
    }
}

/// One statement, and another one only when something was logged.
async fn commit_at_once(
    store: &PostgresStore,
    reports: &[Given<'_>],
    now: Timestamp,
) -> Result<Vec<Result<Reported>>> {
    if reports.iter().all(|(report, _)| report.logged().next().is_none()) {
        let mut db = store.writer(now).await?.acquire().await?;
        return commit_pictures(&mut db, reports, now).await;
    }
    let mut tx = store.begin(now).await?;
    let answers = commit_pictures(&mut tx, reports, now).await?;
    let committed = reports.iter().zip(&answers).filter(|(_, answer)| answer.is_ok());
    keep_logs(&mut tx, &committed.map(|((report, _), _)| *report).collect::<Vec<_>>(), now).await?;
    tx.commit().await?;
    Ok(answers)
}

/// Keeps what workers logged about images of reports that were not refused. A report that is sent twice counts once.
pub(super) async fn keep_logs(db: &mut PgConnection, reports: &[&Report], now: Timestamp) -> Result<()> {
    let logged = || reports.iter().flat_map(|report| report.logged().map(move |result| (report, result)));
    if logged().next().is_none() {
        return Ok(());
    }
    let indices = logged().map(|(_, result)| signed(result.index, "index"));
    sqlx::query(
        "INSERT INTO image_logs (job, idx, attempt, session, device, log, at) \
         SELECT s.job, l.idx, l.attempt, w.key, l.device, l.log, $7 \
         FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::integer[], $5::text[], $6::text[]) \
         AS l (session, shard, idx, attempt, device, log) \
         JOIN shards AS s ON s.id = l.shard LEFT JOIN sessions AS w ON w.id = l.session ON CONFLICT DO NOTHING",
    )
    .bind(logged().map(|(report, _)| uuid(report.session.as_str())).collect::<Vec<_>>())
    .bind(logged().map(|(report, _)| uuid(report.lease.shard.as_str())).collect::<Vec<_>>())
    .bind(indices.collect::<Result<Vec<_>>>()?)
    .bind(logged().map(|(report, _)| attempt(report.lease.attempt)).collect::<Vec<_>>())
    .bind(logged().map(|(_, result)| clean(&result.device)).collect::<Vec<_>>())
    .bind(logged().map(|(_, result)| clean(&result.log)).collect::<Vec<_>>())
    .bind(Time(now))
    .execute(db)
    .await?;
    Ok(())
}

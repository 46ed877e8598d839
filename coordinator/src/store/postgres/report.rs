//! Committing results.

use jiff::Timestamp;

use super::PostgresStore;
use super::faults;
use super::pictures::{Given, commit_pictures, pictures};
use super::trouble::retried;
use crate::domain::blame::Caps;
use crate::store::records::{Report, Reported};
use crate::store::{Error, Result};

/// Pictures of all reports go in by one statement; a report with errors is a transaction of its own.
pub(super) async fn report_results(
    store: &PostgresStore,
    reports: &[Report],
    caps: Caps,
    now: Timestamp,
) -> Result<Vec<Result<Reported>>> {
    let mut answers: Vec<Option<Result<Reported>>> = reports.iter().map(|_| None).collect();
    let (mut plain, mut faulty) = (Vec::new(), Vec::new());
    for (number, report) in reports.iter().enumerate() {
        match pictures(&report.results) {
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
        answers[*number] = Some(match retried!(faults::commit(store, report, pictures, caps, now)) {
            Err(error @ (Error::Invalid(_) | Error::NotFound { .. })) => Err(error),
            answer => Ok(answer?),
        });
    }
    answers
        .into_iter()
        .map(|answer| answer.ok_or_else(|| Error::Corrupt("a report without an answer".to_owned())))
        .collect()
}

async fn commit_at_once(
    store: &PostgresStore,
    reports: &[Given<'_>],
    now: Timestamp,
) -> Result<Vec<Result<Reported>>> {
    let mut db = store.writer(now).await?.acquire().await?;
    commit_pictures(&mut db, reports, now).await
}

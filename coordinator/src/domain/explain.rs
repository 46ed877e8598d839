//! Why the parts of a job wait.

use jiff::Timestamp;

use super::blame::{ErrorClass, FAILURES_IN_A_ROW};
use super::id::JobId;
use super::schedule::{Lack, Needs, OpenJob, Worker};
use super::state::JobState;
use super::waiting::Awaited;
use super::word::words;

/// The shards of a job at one moment, and what else decides about them.
#[derive(Clone, Debug, PartialEq)]
pub struct Backlog {
    /// Where the job stands.
    pub state: JobState,
    /// Its owner's jobs are held back.
    pub owner_held: bool,
    /// Shards that may be leased now.
    pub ready: u64,
    /// Shards that wait after errors.
    pub delayed: u64,
    /// When the first of these may be leased.
    pub next_at: Option<Timestamp>,
    /// Shards that somebody holds.
    pub leased: u64,
    /// The most frequent error of images that are tried again.
    pub error: Option<(ErrorClass, String)>,
    /// Why its output cannot be written.
    pub output_error: Option<String>,
}

words! {
    /// Why a part of a job waits, or does not.
    Cause, "cause" {
        /// The job has ended.
        Ended = "ended",
        /// Somebody paused it.
        Paused = "paused",
        /// Its owner's jobs are held back.
        OwnerHeld = "owner_held",
        /// Other jobs must have ended before.
        After = "after",
        /// There is no time left for it.
        DeadlinePassed = "deadline_passed",
        /// A worker has it.
        Leased = "leased",
        /// It is tried again after a pause.
        Delayed = "delayed",
        /// No worker is there at all.
        NoWorkers = "no_workers",
        /// No worker has what the job needs.
        NoneFits = "none_fits",
        /// The workers that have it were taken out for a while.
        Excluded = "excluded",
        /// The workers that have it cannot write to its output, or not load its model.
        Refused = "refused",
        /// Other jobs come first.
        Behind = "behind",
        /// It comes next: the workers that fit are busy.
        Next = "next",
        /// All images have their result; the manifest is being written.
        Finishing = "finishing",
        /// All images have their result, but the output cannot be written.
        OutputError = "output_error",
    }
}

/// What is said about some shards of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// How many; 0 when it is about the job as a whole.
    pub shards: u64,
    /// Why.
    pub cause: Cause,
    /// In words.
    pub text: String,
    /// When it may change by itself.
    pub at: Option<Timestamp>,
}

/// A worker that is there.
#[derive(Clone, Copy, Debug)]
pub struct Present<'a> {
    /// Its lasting name.
    pub name: &'a str,
    /// What it offers.
    pub offers: Worker<'a>,
    /// It was taken out and gets nothing before.
    pub excluded_until: Option<Timestamp>,
}

/// A worker that refuses the job.
#[derive(Clone, Copy, Debug)]
pub struct Refusing<'a> {
    /// Its lasting name.
    pub worker: &'a str,
    /// What it said.
    pub why: &'a str,
    /// It gets nothing of the job before.
    pub until: Timestamp,
}

/// Why a job waits, part by part.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// All parts of it that are not done.
    pub parts: Vec<Part>,
    /// Workers that are there.
    pub workers: u64,
    /// Those that have what the job needs and may work now.
    pub fitting: u64,
}

/// The job that is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Names it.
    pub id: &'a JobId,
    /// What a worker must have.
    pub needs: &'a Needs,
    /// The jobs that hold it back now.
    pub held_by: &'a [&'a Awaited],
    /// Workers that refuse it now.
    pub refused_by: &'a [Refusing<'a>],
    /// What is not rendered by then is not rendered.
    pub deadline: Option<Timestamp>,
    /// Why it was cancelled.
    pub end_reason: Option<&'a str>,
    /// Whose jobs whoever asks may hear of; none when of all.
    pub only_owner: Option<&'a str>,
}

/// `open` are all jobs with shards that are ready, in the order in which a worker that fits looks at them.
pub fn explain(
    job: &Asked<'_>,
    backlog: &Backlog,
    open: &[&OpenJob],
    workers: &[Present<'_>],
    now: Timestamp,
) -> Explanation {
    let lacks: Vec<(&str, Vec<Lack>)> =
        workers.iter().map(|worker| (worker.name, job.needs.lacks(&worker.offers))).collect();
    let able =
        workers.iter().zip(&lacks).filter(|(_, (_, lacks))| lacks.is_empty()).map(|(worker, _)| worker);
    let (out, in_now): (Vec<&Present<'_>>, Vec<&Present<'_>>) =
        able.partition(|worker| worker.excluded_until.is_some_and(|until| now < until));
    let (refusing, in_now): (Vec<&Present<'_>>, Vec<&Present<'_>>) = in_now
        .into_iter()
        .partition(|worker| job.refused_by.iter().any(|refusing| refusing.worker == worker.name));
    let fitting = in_now.len() as u64;
    let whole = |cause, text: String| Part { shards: 0, cause, text, at: None };
    let mut parts = Vec::new();
    if backlog.leased > 0 {
        let text = format!("{} being rendered", shards(backlog.leased));
        parts.push(Part { shards: backlog.leased, cause: Cause::Leased, text, at: None });
    }
    if backlog.delayed > 0 {
        parts.push(delayed(backlog));
    }
    if backlog.state.has_ended() {
        let why = job.end_reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        parts.push(whole(Cause::Ended, format!("the job is {}{why}", backlog.state)));
    } else if backlog.ready + backlog.delayed + backlog.leased == 0 {
        parts.push(match &backlog.output_error {
            Some(error) => whole(Cause::OutputError, format!("the output cannot be written: {error}")),
            None => {
                whole(Cause::Finishing, "all images have their result; the manifest comes next".to_owned())
            }
        });
    } else if job.deadline.is_some_and(|deadline| deadline <= now) {
        let text = "the deadline has passed; what is left is cancelled within seconds";
        parts.push(whole(Cause::DeadlinePassed, text.to_owned()));
    } else if backlog.state == JobState::Paused {
        parts
            .push(whole(Cause::Paused, "the job is paused; nothing new is leased until `resume`".to_owned()));
    } else if backlog.owner_held {
        let text = "the jobs of its owner are held; nothing new is leased until `owner --release`";
        parts.push(whole(Cause::OwnerHeld, text.to_owned()));
    } else if !job.held_by.is_empty() {
        parts.push(held(backlog, job.held_by));
    } else if backlog.ready > 0 {
        let back_at = out.iter().filter_map(|worker| worker.excluded_until).min();
        let (cause, text, at) = match back_at.filter(|_| in_now.is_empty()) {
            _ if in_now.is_empty() && out.is_empty() && !refusing.is_empty() => {
                (Cause::Refused, "no other worker has what it needs".to_owned(), None)
            }
            Some(at) => {
                let names: Vec<_> = out.iter().take(3).map(|worker| worker.name).collect();
                let text = format!(
                    "{} failed {FAILURES_IN_A_ROW} images in a row and was taken out until {at:.0}",
                    names.join(", ")
                );
                (Cause::Excluded, text, Some(at))
            }
            None => {
                let (cause, text) = waits(job, open, &lacks, fitting, now);
                (cause, text, None)
            }
        };
        let text = format!("{} ready: {text}", shards(backlog.ready));
        parts.push(Part { shards: backlog.ready, cause, text, at });
    }
    if !backlog.state.has_ended() {
        parts.extend(refused(job.refused_by));
    }
    Explanation { parts, workers: workers.len() as u64, fitting }
}

fn shards(count: u64) -> String {
    if count == 1 { "1 shard".to_owned() } else { format!("{count} shards") }
}

fn delayed(backlog: &Backlog) -> Part {
    let mut text = format!("{} tried again after errors", shards(backlog.delayed));
    if let Some(at) = backlog.next_at {
        text.push_str(&format!(", the first at {at:.0}"));
    }
    if let Some((class, error)) = &backlog.error {
        text.push_str(&format!("; most often {class}: {error}"));
    }
    Part { shards: backlog.delayed, cause: Cause::Delayed, text, at: backlog.next_at }
}

fn held(backlog: &Backlog, by: &[&Awaited]) -> Part {
    let each: Vec<String> = by
        .iter()
        .take(3)
        .map(|awaited| format!("{awaited}{}", if awaited.any_end { " to end" } else { "" }))
        .collect();
    let others = by.len().saturating_sub(3);
    let others = if others > 0 { format!(", and {others} others") } else { String::new() };
    let text = format!("{} ready: waits for {}{others}", shards(backlog.ready), each.join(", "));
    Part { shards: backlog.ready, cause: Cause::After, text, at: None }
}

/// What those say who refuse the job, the first to ask again first.
fn refused(by: &[Refusing<'_>]) -> Option<Part> {
    let mut by = by.to_vec();
    by.sort_by_key(|refusing| refusing.until);
    let first = *by.first()?;
    let each: Vec<String> = by
        .iter()
        .take(3)
        .map(|Refusing { worker, why, until }| format!("{worker} does not take it before {until:.0}: {why}"))
        .collect();
    let others = by.len().saturating_sub(3);
    let others = if others > 0 { format!("; and {others} others") } else { String::new() };
    let text = format!("{}{others}", each.join("; "));
    Some(Part { shards: 0, cause: Cause::Refused, text, at: Some(first.until) })
}

/// Why shards that are ready are not leased.
fn waits(
    job: &Asked<'_>,
    open: &[&OpenJob],
    lacks: &[(&str, Vec<Lack>)],
    fitting: u64,
    now: Timestamp,
) -> (Cause, String) {
    if lacks.is_empty() {
        return (Cause::NoWorkers, "no worker is connected".to_owned());
    }
    if fitting == 0 {
        let each: Vec<String> = lacks
            .iter()
            .take(3)
            .map(|(name, lacks)| {
                let lacks: Vec<String> = lacks.iter().map(ToString::to_string).collect();
                format!("{name} has {}", lacks.join(", "))
            })
            .collect();
        let others = lacks.len().saturating_sub(3);
        let others = if others > 0 { format!(", and {others} others") } else { String::new() };
        return (Cause::NoneFits, format!("no worker has what it needs: {}{others}", each.join("; ")));
    }
    let place = open.iter().position(|open| open.id == *job.id).unwrap_or(0);
    match place.checked_sub(1).and_then(|before| open.get(before)) {
        Some(before) => {
            let first = open.first().unwrap_or(before);
            let (name, due) = match job.only_owner {
                Some(owner) if owner != first.owner => ("one of another owner".to_owned(), None),
                Some(_) | None => (first.id.to_string(), first.pressing(now)),
            };
            let text = format!(
                "behind {place} other job{}, first {name} with priority {}{}",
                if place == 1 { "" } else { "s" },
                first.effective_priority(now),
                due.map(|deadline| format!(", due at {deadline:.0}")).unwrap_or_default()
            );
            (Cause::Behind, text)
        }
        None if fitting == 1 => (Cause::Next, "comes next; the worker that fits is busy".to_owned()),
        None => (Cause::Next, format!("comes next; the {fitting} workers that fit are busy")),
    }
}

#[cfg(test)]
mod tests;

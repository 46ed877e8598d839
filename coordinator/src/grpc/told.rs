//! What is told about results besides the answer: how many of each kind there were, and spans of the images that are traced.

use std::time::SystemTime;

use sanafarm_telemetry::coordinator::RESULTS;
use sanafarm_telemetry::trace;

use crate::store::Result;
use crate::store::records::{ImageReport, LeaseRef, Outcome, Reported};

/// The results of one call, as far as they are told.
pub(super) struct Told {
    job: String,
    lease: LeaseRef,
    results: Vec<Kind>,
    start: SystemTime,
}

struct Kind {
    index: u64,
    /// None of a picture.
    error: Option<String>,
}

impl Told {
    /// Of a report that is to be committed now.
    pub fn new(job: String, lease: LeaseRef, results: &[ImageReport]) -> Self {
        let kind = |result: &ImageReport| Kind {
            index: result.index,
            error: match &result.outcome {
                Outcome::Done { .. } => None,
                Outcome::Failed { message, .. } => Some(message.clone()),
            },
        };
        Self { job, lease, results: results.iter().map(kind).collect(), start: SystemTime::now() }
    }

    /// Tells what became of them.
    pub fn tell(self, answer: &Result<Reported>) {
        let count = |outcome: &'static str, count: u64| {
            if count > 0 {
                metrics::counter!(RESULTS, "outcome" => outcome).increment(count);
            }
        };
        let all = self.results.len() as u64;
        let Ok(reported) = answer else { return count("refused", all) };
        // Which of them were known is not told: an error is sent alone or with pictures that are new.
        let errors = self.results.iter().filter(|kind| kind.error.is_some()).count() as u64;
        let errors = errors.min(reported.accepted);
        count("error", errors);
        count("picture", reported.accepted - errors);
        count("known", reported.known);
        count("taken", reported.taken.len() as u64);
        if reported.accepted > 0 && trace::is_on() && !self.job.is_empty() {
            self.trace(reported);
        }
    }

    fn trace(&self, reported: &Reported) {
        let end = SystemTime::now();
        let LeaseRef { shard, attempt } = &self.lease;
        for Kind { index, error } in &self.results {
            let Some(trace) = trace::image(&self.job, *index) else { continue };
            let commit = trace
                .child("commit", self.start, end)
                .with("shard", shard.to_string())
                .with("attempt", i64::from(*attempt));
            match error {
                Some(error) => commit.failed(error).record(),
                None => commit.record(),
            }
            // An error that is tried again is not the end.
            if error.is_none() || reported.failed.contains(index) {
                let start = trace::job_made_at(&self.job).unwrap_or(self.start);
                let root = trace
                    .root("image", start, end)
                    .of_job(&self.job)
                    .with("index", i64::try_from(*index).unwrap_or(i64::MAX));
                match error {
                    Some(error) => root.failed(error).record(),
                    None => root.record(),
                }
            }
        }
    }
}

//! Webhooks of jobs, and tries to deliver them.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Job;
use crate::domain::id::JobId;
use crate::domain::webhook::WebhookState;
use crate::store::{Error, Result};

/// What is called when a job ends, and what came of that.
#[derive(Clone, Debug, PartialEq)]
pub struct Webhook {
    /// What is called.
    pub url: String,
    /// Where it stands.
    pub state: WebhookState,
    /// Tries that were begun.
    pub attempts: u32,
    /// What was wrong with the last one.
    pub error: Option<String>,
    /// When it was delivered or given up, or is tried next.
    pub at: Option<Timestamp>,
}

/// The newest row of a job, as JSON of the database.
#[derive(Deserialize)]
struct Row {
    state: String,
    attempts: u32,
    error: Option<String>,
    at: String,
}

impl Webhook {
    /// As it is stored: the URL, and a JSON object once the job has ended.
    pub(in crate::store) fn read(url: Option<String>, row: Option<&str>) -> Result<Option<Self>> {
        let Some(url) = url else { return Ok(None) };
        let Some(row) = row else {
            return Ok(Some(Self { url, state: WebhookState::Waiting, attempts: 0, error: None, at: None }));
        };
        let corrupt = |error: &dyn std::fmt::Display| Error::Corrupt(format!("webhook {row:?}: {error}"));
        let Row { state, attempts, error, at } =
            serde_json::from_str(row).map_err(|error| corrupt(&error))?;
        let at = at.parse().map_err(|error| corrupt(&error))?;
        Ok(Some(Self { url, state: state.parse()?, attempts, error, at: Some(at) }))
    }

    /// As it is when the job has just ended.
    pub(in crate::store) fn due(&self, now: Timestamp) -> Self {
        Self { url: self.url.clone(), state: WebhookState::Pending, attempts: 0, error: None, at: Some(now) }
    }
}

/// What a webhook tells of a job that has ended.
pub(in crate::store) fn body(job: &Job, now: Timestamp) -> String {
    let time = |time: Option<Timestamp>| time.map(|time| format!("{time:.3}"));
    let told: Value = json!({
        "type": format!("job.{}", job.state),
        "timestamp": time(Some(now)),
        "data": {
            "job_id": job.id.as_str(),
            "name": job.name,
            "owner": job.owner,
            "state": job.state.word(),
            "images": job.images,
            "done": job.done,
            "failed": job.failed,
            "model": job.model,
            "output": job.output,
            "submitted_at": time(Some(job.submitted_at)),
            "started_at": time(job.started_at),
            "finished_at": time(job.finished_at),
            "error": job.error,
            "end_reason": job.end_reason,
        },
    });
    told.to_string()
}

/// One try of a webhook.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// The same in every try.
    pub id: String,
    /// Its job.
    pub job: JobId,
    /// What is called.
    pub url: String,
    /// What is told.
    pub body: String,
    /// Which try it is, counted from 1.
    pub attempt: u32,
    /// When the job ended.
    pub since: Timestamp,
}

/// What came of a try.
#[derive(Clone, Debug, PartialEq)]
pub enum Tried {
    /// It was answered well.
    Delivered,
    /// It was not, and is tried again.
    Again {
        /// What was wrong.
        error: String,
        /// Not before.
        at: Timestamp,
    },
    /// It is not tried any more.
    GivenUp {
        /// What was wrong.
        error: String,
    },
}

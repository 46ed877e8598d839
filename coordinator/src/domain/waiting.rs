//! Which jobs a job waits for, and when it is cancelled without anybody's wish.
//!
//! Nothing of a job is leased before each job that it waits for has succeeded, or has ended in any way where that will
//! do. A job that must succeed and fails or is cancelled never will by itself, so whatever waits for it is called off.
//! Once a job has started it waits for nothing any more: a retry of an earlier job does not stop it.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};

use super::Invalid;
use super::id::JobId;
use super::state::JobState;

/// A job that another one is to wait for, as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its id, or a beginning that fits one job only.
    pub job: String,
    /// Any end will do; else it must succeed.
    pub any_end: bool,
}

/// A job that another one was submitted to wait for, as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Awaited {
    /// Names it.
    #[serde(deserialize_with = "id")]
    pub job: JobId,
    /// Any end will do; else it must succeed.
    pub any_end: bool,
    /// Where it stands.
    #[serde(deserialize_with = "state")]
    pub state: JobState,
    /// All its images.
    pub images: u64,
    /// Those that have their result.
    pub finished: u64,
}

fn id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<JobId, D::Error> {
    String::deserialize(deserializer).map(JobId::from)
}

fn state<'de, D: Deserializer<'de>>(deserializer: D) -> Result<JobState, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

/// What a job may hope for of one that it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outlook {
    /// It has ended as wanted.
    Met,
    /// It may still.
    Open,
    /// It has ended, and not as wanted.
    Lost,
}

impl Awaited {
    fn outlook(&self) -> Outlook {
        match self.state {
            JobState::Pending | JobState::Running | JobState::Paused => Outlook::Open,
            JobState::Succeeded => Outlook::Met,
            JobState::Failed | JobState::Cancelled if self.any_end => Outlook::Met,
            JobState::Failed | JobState::Cancelled => Outlook::Lost,
        }
    }

    /// Whether a job that has not started waits for it now.
    pub fn holds(&self) -> bool {
        self.outlook() != Outlook::Met
    }

    /// Whether a new job may wait for it.
    pub fn check(&self) -> Result<(), Invalid> {
        if self.outlook() != Outlook::Lost {
            return Ok(());
        }
        let (job, ended) = (&self.job, ended(self.state));
        let retry =
            if self.state == JobState::Failed { "have its failed images tried again first, or " } else { "" };
        Err(Invalid::job(format!(
            "job {job} {ended}: what waits for its success would never start; {retry}wait for any end of it \
             (--after-any)"
        )))
    }
}

/// How such an end is told.
fn ended(state: JobState) -> &'static str {
    if state == JobState::Failed { "failed" } else { "was cancelled" }
}

/// `job 0199… (running, 40 of 100 images)`.
impl std::fmt::Display for Awaited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "job {} ({}, {} of {} images)", self.job, self.state, self.finished, self.images)
    }
}

/// Why a job is cancelled without anybody's wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallOff {
    /// There is no time left.
    DeadlinePassed,
    /// A job that had to succeed before it has ended like this.
    Lost(JobId, JobState),
}

/// The reason that the history tells.
impl std::fmt::Display for CallOff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::DeadlinePassed => f.write_str("deadline passed"),
            Self::Lost(job, state) => write!(f, "job {job} {}", ended(*state)),
        }
    }
}

/// What decides whether a job is called off.
#[derive(Clone, Copy, Debug)]
pub struct Standing<'a> {
    /// Where it stands.
    pub state: JobState,
    /// Something of it was leased.
    pub started: bool,
    /// All its images have their result: no time is too short for the rest.
    pub complete: bool,
    /// What is not rendered by then is not rendered.
    pub deadline: Option<Timestamp>,
    /// The jobs that it was submitted to wait for.
    pub after: &'a [Awaited],
}

impl Standing<'_> {
    /// Why the job is cancelled now; none when it goes on.
    pub fn call_off(&self, now: Timestamp) -> Option<CallOff> {
        if self.state.has_ended() {
            return None;
        }
        if !self.complete && self.deadline.is_some_and(|deadline| deadline <= now) {
            return Some(CallOff::DeadlinePassed);
        }
        let lost = |awaited: &&Awaited| !self.started && awaited.outlook() == Outlook::Lost;
        self.after.iter().find(lost).map(|lost| CallOff::Lost(lost.job.clone(), lost.state))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn awaited(any_end: bool, state: JobState) -> Awaited {
        Awaited { job: JobId::from("a".to_owned()), any_end, state, images: 100, finished: 40 }
    }

    fn now() -> Timestamp {
        "2026-11-23T12:04:00Z".parse().unwrap()
    }

    #[test]
    fn a_job_waits_for_success_or_for_any_end() {
        for state in JobState::ALL {
            let (success, end) = (awaited(false, *state), awaited(true, *state));
            assert_eq!(success.holds(), *state != JobState::Succeeded, "{state}");
            assert_eq!(end.holds(), !state.has_ended(), "{state}");
            assert!(end.check().is_ok(), "{state}");
            let lost = matches!(state, JobState::Failed | JobState::Cancelled);
            assert_eq!(success.check().is_err(), lost, "{state}");
        }
        assert_eq!(awaited(false, JobState::Running).to_string(), "job a (running, 40 of 100 images)");
        let refused = awaited(false, JobState::Failed).check().unwrap_err().to_string();
        assert!(refused.starts_with("job a failed: ") && refused.contains("--after-any"), "{refused}");
    }

    #[test]
    fn a_job_is_called_off_when_what_it_waits_for_cannot_come() {
        let after = [awaited(true, JobState::Failed), awaited(false, JobState::Cancelled)];
        let waits = Standing {
            state: JobState::Pending,
            started: false,
            complete: false,
            deadline: None,
            after: &after,
        };
        let lost = waits.call_off(now()).unwrap();
        assert_eq!(lost.to_string(), "job a was cancelled");
        assert_eq!(Standing { state: JobState::Paused, ..waits }.call_off(now()), Some(lost));
        assert_eq!(Standing { after: &after[..1], ..waits }.call_off(now()), None);
        assert_eq!(Standing { state: JobState::Cancelled, ..waits }.call_off(now()), None);
        // It started while the other one was there.
        assert_eq!(Standing { started: true, ..waits }.call_off(now()), None);
    }

    #[test]
    fn a_job_is_called_off_at_its_deadline_unless_it_is_complete() {
        let at = Standing {
            state: JobState::Running,
            started: true,
            complete: false,
            deadline: Some(now()),
            after: &[],
        };
        assert_eq!(at.call_off(now()).map(|why| why.to_string()).as_deref(), Some("deadline passed"));
        assert_eq!(at.call_off(now() - std::time::Duration::from_millis(1)), None);
        assert_eq!(Standing { complete: true, ..at }.call_off(now()), None);
        assert_eq!(Standing { deadline: None, ..at }.call_off(now()), None);
        for state in JobState::ALL {
            let called_off = Standing { state: *state, ..at }.call_off(now()).is_some();
            assert_eq!(called_off, !state.has_ended(), "{state}");
        }
    }

    #[test]
    fn an_awaited_job_is_read_from_json() {
        let text = r#"{"job":"a","any_end":true,"state":"failed","images":100,"finished":40}"#;
        assert_eq!(serde_json::from_str::<Awaited>(text).unwrap(), awaited(true, JobState::Failed));
        assert!(serde_json::from_str::<Awaited>(&text.replace("failed", "lost")).is_err());
    }
}

//! What the history tells of.

use super::state::LeaseEnd;
use super::webhook::WebhookState;
use super::word::words;

words! {
    /// What happened. Every kind that a store writes, those of the statements in `migrations` too.
    EventKind, "event kind" {
        /// Its last row was in.
        JobSubmitted = "job_submitted",
        /// Its first lease was granted.
        JobStarted = "job_started",
        /// All its images have their result and its manifest is written.
        JobFinished = "job_finished",
        /// Somebody cancelled it.
        JobCancelled = "job_cancelled",
        /// Nothing new of it is leased.
        JobPaused = "job_paused",
        /// It goes on.
        JobResumed = "job_resumed",
        /// It has another priority.
        JobPrioritised = "job_prioritised",
        /// Failures of it were taken back.
        JobRetried = "job_retried",
        /// Pictures of it were taken back, because their objects are lost or damaged.
        JobRequeued = "job_requeued",
        /// A session got a shard.
        LeaseGranted = "lease_granted",
        /// Every image of the shard has its result.
        LeaseFinished = "lease_finished",
        /// The worker handed the shard back.
        LeaseReleased = "lease_released",
        /// It expired.
        LeaseLost = "lease_lost",
        /// The job ended, or another worker took over what was left.
        LeaseRevoked = "lease_revoked",
        /// The last images of a shard that is held are a shard of their own now.
        ShardCut = "shard_cut",
        /// An image was given up.
        ImageFailed = "image_failed",
        /// A worker connected.
        SessionOpened = "session_opened",
        /// Its connection life ended.
        SessionClosed = "session_closed",
        /// The manifest could not be written.
        OutputError = "output_error",
        /// The jobs of an owner wait.
        OwnerHeld = "owner_held",
        /// They go on.
        OwnerLetGo = "owner_let_go",
        /// An owner has another share.
        OwnerWeighed = "owner_weighed",
        /// A worker failed too much and gets nothing for a while.
        WorkerExcluded = "worker_excluded",
        /// It rendered an image after it had been taken out.
        WorkerForgiven = "worker_forgiven",
        /// Somebody asked it to leave.
        WorkerDrained = "worker_drained",
        /// It said that it leaves.
        WorkerLeaving = "worker_leaving",
        /// The webhook of a job that ended was answered well.
        WebhookDelivered = "webhook_delivered",
        /// It was given up.
        WebhookFailed = "webhook_failed",
    }
}

impl From<LeaseEnd> for EventKind {
    fn from(end: LeaseEnd) -> Self {
        match end {
            LeaseEnd::Finished => Self::LeaseFinished,
            LeaseEnd::Released => Self::LeaseReleased,
            LeaseEnd::Lost => Self::LeaseLost,
            LeaseEnd::Revoked => Self::LeaseRevoked,
        }
    }
}

impl EventKind {
    /// What is told of a webhook that comes to this state, if anything.
    pub fn of_webhook(state: WebhookState) -> Option<Self> {
        match state {
            WebhookState::Waiting | WebhookState::Pending => None,
            WebhookState::Delivered => Some(Self::WebhookDelivered),
            WebhookState::Failed => Some(Self::WebhookFailed),
        }
    }
}

words! {
    /// What the story of an image tells besides: it stands in other tables than the history.
    ImageKind, "image event kind" {
        /// An attempt could not render it.
        ImageError = "image_error",
        /// Its picture was committed.
        ImageDone = "image_done",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATEMENTS: [&str; 3] = [
        include_str!("../../../migrations/postgres/0003_claims_and_commits.sql"),
        include_str!("../../../migrations/postgres/0006_cut_shards.sql"),
        include_str!("../../../migrations/postgres/0010_steering.sql"),
    ];
    const GUIDE: &str = include_str!("../../../docs/sql.md");

    #[test]
    fn statements_of_the_database_write_kinds_that_there_are() {
        let mut seen = 0;
        for quoted in STATEMENTS.iter().flat_map(|sql| sql.split("SELECT moment, '").skip(1)) {
            let word = quoted.split('\'').next().unwrap();
            assert!(word.parse::<EventKind>().is_ok(), "{word}");
            seen += 1;
        }
        assert_eq!(seen, 5);
        assert!(STATEMENTS[0].contains("VALUES (moment, 'job_started', _job.key)"));
    }

    #[test]
    fn the_guide_tells_every_kind() {
        let row = GUIDE.lines().find(|line| line.starts_with("| `kind` |")).unwrap();
        let told: Vec<&str> = row.split('`').skip(3).step_by(2).collect();
        let kinds: Vec<&str> = EventKind::ALL.iter().map(|kind| kind.word()).collect();
        assert_eq!(told, kinds);
    }

    #[test]
    fn a_lease_ends_with_the_word_of_its_outcome() {
        // Postgres makes the kind from the outcome.
        for end in LeaseEnd::ALL {
            assert_eq!(EventKind::from(*end).word(), format!("lease_{}", end.word()));
        }
    }
}

//! States and every legal move between them. What is not listed here is refused.

use super::word::words;

words! {
    /// Where a job stands.
    JobState, "job state" {
        /// Submitted, waiting for its first lease.
        Pending = "pending",
        /// At least one shard was leased.
        Running = "running",
        /// Nothing new is leased until it is resumed.
        Paused = "paused",
        /// Every image is done and the manifest is written.
        Succeeded = "succeeded",
        /// Every image has its result and at least one of them failed.
        Failed = "failed",
        /// Somebody cancelled it, or it was called off; what was done stays.
        Cancelled = "cancelled",
    }
}

words! {
    /// Where a shard stands.
    ShardState, "shard state" {
        /// Waiting for a worker.
        Ready = "ready",
        /// A session holds it.
        Leased = "leased",
        /// Every image of it has a result.
        Done = "done",
    }
}

words! {
    /// How a lease ended.
    LeaseEnd, "lease outcome" {
        /// Every image of the shard has its result.
        Finished = "finished",
        /// Handed back: costs nothing.
        Released = "released",
        /// It expired: the images being rendered then are charged a loss.
        Lost = "lost",
        /// The job ended.
        Revoked = "revoked",
    }
}

words! {
    /// Where an image stands. Only `done` and `failed` are ever stored: an image without a result is pending.
    ImageState, "image state" {
        /// No result yet.
        Pending = "pending",
        /// Its picture is stored and committed.
        Done = "done",
        /// It was given up.
        Failed = "failed",
    }
}

/// A move that the rules do not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a {what} that is {from} cannot become {to}")]
pub struct IllegalMove {
    what: &'static str,
    from: &'static str,
    to: &'static str,
}

impl JobState {
    /// Nothing can happen to the job any more.
    pub fn has_ended(self) -> bool {
        match self {
            Self::Pending | Self::Running | Self::Paused => false,
            Self::Succeeded | Self::Failed | Self::Cancelled => true,
        }
    }

    /// `to`, when the move is legal.
    pub fn become_state(self, to: Self) -> Result<Self, IllegalMove> {
        let legal = match self {
            Self::Pending => matches!(to, Self::Running | Self::Paused | Self::Cancelled),
            Self::Running => matches!(to, Self::Paused | Self::Succeeded | Self::Failed | Self::Cancelled),
            // Resumed before its first lease, it is pending as before.
            Self::Paused => {
                matches!(to, Self::Pending | Self::Running | Self::Succeeded | Self::Failed | Self::Cancelled)
            }
            // Its failed images are tried again, or pictures that are lost are rendered again.
            Self::Succeeded | Self::Failed => matches!(to, Self::Running),
            Self::Cancelled => false,
        };
        if legal { Ok(to) } else { Err(IllegalMove { what: "job", from: self.word(), to: to.word() }) }
    }
}

impl ShardState {
    /// `to`, when the move is legal. A shard that nobody holds becomes done when late results complete it.
    pub fn become_state(self, to: Self) -> Result<Self, IllegalMove> {
        let legal = match self {
            Self::Ready => matches!(to, Self::Leased | Self::Done),
            Self::Leased => matches!(to, Self::Ready | Self::Done),
            // Images of it are tried again.
            Self::Done => matches!(to, Self::Ready),
        };
        if legal { Ok(to) } else { Err(IllegalMove { what: "shard", from: self.word(), to: to.word() }) }
    }
}

/// How a job ends whose images all have their result.
pub fn outcome(failed: u64) -> JobState {
    if failed == 0 { JobState::Succeeded } else { JobState::Failed }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn of_ended_jobs_all_but_a_cancelled_one_may_run_again() {
        for from in JobState::ALL.iter().filter(|state| state.has_ended()) {
            for to in JobState::ALL {
                let again = *from != JobState::Cancelled && *to == JobState::Running;
                assert_eq!(from.become_state(*to).is_ok(), again, "{from} became {to}");
            }
        }
    }

    #[test]
    fn a_done_shard_may_only_be_retried() {
        for to in ShardState::ALL {
            assert_eq!(ShardState::Done.become_state(*to).is_ok(), *to == ShardState::Ready);
        }
    }

    #[test]
    fn a_job_ends_only_after_it_ran() {
        assert!(JobState::Pending.become_state(JobState::Succeeded).is_err());
        assert_eq!(JobState::Running.become_state(outcome(0)), Ok(JobState::Succeeded));
        assert_eq!(JobState::Running.become_state(outcome(1)), Ok(JobState::Failed));
    }

    proptest! {
        #[test]
        fn no_state_moves_to_itself_and_none_but_a_paused_one_is_pending_again(
            picks in prop::collection::vec(0usize..6, 0..20),
        ) {
            let mut state = JobState::Pending;
            for pick in picks {
                let to = JobState::ALL[pick];
                if let Ok(next) = state.become_state(to) {
                    prop_assert_ne!(next, state);
                    prop_assert!(next != JobState::Pending || state == JobState::Paused);
                    state = next;
                }
            }
        }
    }

    #[test]
    fn words_are_read_back_and_others_refused() {
        for state in JobState::ALL {
            assert_eq!(state.word().parse(), Ok(*state));
        }
        assert!("donE".parse::<ImageState>().is_err());
    }
}

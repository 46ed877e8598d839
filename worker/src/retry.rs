//! What to do about a failed call, and how long to wait before the next try.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tonic::Code;

/// What a status code asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The coordinator is away or busy: try until it is back.
    Wait,
    /// It may be a passing fault of the coordinator or a cut connection: try a few times.
    Few,
    /// It does not know the session: open a new one and try again.
    Reopen,
    /// The same call would be refused again.
    GiveUp,
}

/// How often [`Verdict::Few`] is tried in a row.
pub(crate) const FEW: u32 = 8;

/// The one place that sorts status codes.
pub(crate) fn verdict(code: Code) -> Verdict {
    match code {
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Aborted
        // A connection that broke in the middle of a call.
        | Code::Cancelled => Verdict::Wait,
        Code::Unknown | Code::Internal => Verdict::Few,
        Code::NotFound | Code::FailedPrecondition => Verdict::Reopen,
        Code::Ok
        | Code::InvalidArgument
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::DataLoss
        | Code::Unauthenticated => Verdict::GiveUp,
    }
}

/// Exponential waits with jitter, so that a thousand workers do not come back in one moment.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self { next: first, longest }
    }

    /// The next wait: between half of the planned wait and the whole.
    pub(crate) fn wait(&mut self) -> Duration {
        let planned = self.next;
        self.next = (planned * 2).min(self.longest);
        // Each `RandomState` has its own random keys: no random number crate for one number.
        let random = RandomState::new().hash_one(0_u8) >> 32;
        planned.mul_f64(0.5 + random as f64 / f64::from(u32::MAX) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_never_fall_below_half() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(350));
        for planned in [100, 200, 350, 350] {
            let wait = backoff.wait();
            let planned = Duration::from_millis(planned);
            assert!(wait >= planned / 2 && wait <= planned, "{wait:?} of {planned:?}");
        }
    }
}

//! What to do about a failed call, and how long to wait before the next try.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::Instant;
use tonic::{Code, Status};

/// What a status code asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The coordinator is away or busy: try until it is back.
    Wait,
    /// It may be a passing fault of the coordinator or a cut connection, or a disk that is full until somebody
    /// makes room: try a few times.
    Few,
    /// It does not know the session: open a new one and try again.
    Reopen,
    /// The same call would be refused again.
    GiveUp,
}

/// How often [`Verdict::Few`] is tried in a row.
const FEW: u32 = 8;
/// How long a worker that leaves waits for a coordinator that is away.
const LEAVING_PATIENCE: Duration = Duration::from_secs(20);

/// The one place that sorts status codes.
pub(crate) fn verdict(code: Code) -> Verdict {
    match code {
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Aborted
        // A connection that broke in the middle of a call.
        | Code::Cancelled => Verdict::Wait,
        Code::Unknown | Code::Internal | Code::ResourceExhausted => Verdict::Few,
        Code::NotFound => Verdict::Reopen,
        Code::Ok
        | Code::InvalidArgument
        | Code::AlreadyExists
        | Code::FailedPrecondition
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

/// Whether the worker leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// It works.
    No,
    /// As soon as all is told to the coordinator.
    Soon,
    /// At once.
    Now,
}

/// The failures of one call in a row.
#[derive(Debug)]
pub(crate) struct Tries<'a> {
    name: &'a str,
    backoff: Backoff,
    few: u32,
    leaving_since: Option<Instant>,
}

impl<'a> Tries<'a> {
    pub(crate) fn new(name: &'a str) -> Self {
        let backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        Self { name, backoff, few: 0, leaving_since: None }
    }

    /// How long to wait before the next try; the error says why there is none.
    pub(crate) fn failed(
        &mut self,
        status: &Status,
        leaving: Leaving,
        now: Instant,
    ) -> Result<Duration, String> {
        let name = self.name;
        let code = status.code();
        let refused =
            |why: &str| Err(format!("{name}: {why}: {} ({})", status.message(), code.description()));
        match verdict(code) {
            Verdict::Wait => self.few = 0,
            Verdict::Few if self.few < FEW => self.few += 1,
            Verdict::Few => return refused("the coordinator fails again and again"),
            Verdict::Reopen | Verdict::GiveUp => return refused("the coordinator refuses"),
        }
        let patience_ends = match leaving {
            Leaving::No => None,
            Leaving::Soon => Some(*self.leaving_since.get_or_insert(now) + LEAVING_PATIENCE),
            Leaving::Now => Some(now),
        };
        if patience_ends.is_some_and(|end| end <= now) {
            return refused("the coordinator did not answer while the worker left");
        }
        let wait = self.backoff.wait();
        tracing::warn!(call = name, ?code, why = status.message(), retry_in = ?wait, "call failed");
        Ok(wait)
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

    /// Tries in a row, each at the end of the wait before it: how many there are, how long they take together,
    /// and why there are no more. `None` when they have no end.
    fn tries(code: Code, leaving: Leaving) -> Option<(u32, Duration, String)> {
        let mut tries = Tries::new("report results");
        let start = Instant::now();
        let mut now = start;
        for count in 1..1000 {
            match tries.failed(&Status::new(code, "as the test says"), leaving, now) {
                Ok(wait) => now += wait,
                Err(why) => return Some((count, now - start, why)),
            }
        }
        None
    }

    #[test]
    fn a_coordinator_whose_disk_is_full_is_tried_a_few_times() {
        let (count, took, why) = tries(Code::ResourceExhausted, Leaving::No).unwrap();
        assert_eq!(count, FEW + 1);
        assert!(took < Duration::from_secs(60), "{took:?}");
        assert!(
            why.starts_with("report results: the coordinator fails again and again: as the test says ("),
            "{why}"
        );
    }

    #[test]
    fn a_coordinator_that_is_away_is_waited_for_only_by_a_worker_that_stays() {
        assert_eq!(tries(Code::Unavailable, Leaving::No), None);
        let (_, took, why) = tries(Code::Unavailable, Leaving::Soon).unwrap();
        assert!(took >= LEAVING_PATIENCE && took < 2 * LEAVING_PATIENCE, "{took:?}");
        assert!(why.contains("did not answer while the worker left"), "{why}");
        assert_eq!(tries(Code::Unavailable, Leaving::Now).unwrap().0, 1);
    }
}

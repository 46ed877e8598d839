//! How long a server is waited for, and how often it is asked.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::Instant;

/// How long a server is waited for, and how often it is asked again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Patience {
    /// Until a connection stands.
    pub connect: Duration,
    /// Between two bytes, and for an answer once all is sent.
    pub silence: Duration,
    /// Bytes a second, on the average: who is slower is cut off.
    pub slowest: u64,
    /// Tries after the first one.
    pub retries: usize,
    /// Before the second try, about; it doubles with each.
    pub first_wait: Duration,
    /// The longest wait between tries, also when a server asks for a longer one.
    pub longest_wait: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            silence: Duration::from_secs(60),
            slowest: 16 << 10,
            retries: 6,
            first_wait: Duration::from_millis(100),
            longest_wait: Duration::from_secs(30),
        }
    }
}

impl Patience {
    /// The longest that so many bytes may be on their way, with an answer to them.
    pub(crate) fn for_bytes(&self, bytes: u64) -> Duration {
        let slowest = self.slowest.max(1);
        self.silence
            + Duration::from_secs(bytes / slowest)
            + Duration::from_millis(bytes % slowest * 1000 / slowest)
    }
}

/// A wait of some part of `longest`, so that a thousand workers do not come back in one moment.
pub fn jitter(longest: Duration) -> Duration {
    // Each `RandomState` has its own random keys: no random number crate for one number.
    let random = RandomState::new().hash_one(0_u8) >> 32;
    longest.mul_f64(random as f64 / f64::from(u32::MAX))
}

/// Bytes on their way, and whether they are too slow. Only time spent waiting for the other side counts.
#[derive(Debug)]
pub(crate) struct Pace {
    patience: Patience,
    waited: Duration,
    bytes: u64,
    /// Since when it waits for the next bytes.
    since: Option<Instant>,
}

impl Pace {
    pub(crate) fn new(patience: Patience) -> Self {
        Self { patience, waited: Duration::ZERO, bytes: 0, since: None }
    }

    /// It waits for bytes; until when it may.
    pub(crate) fn wait(&mut self, now: Instant) -> Instant {
        let since = *self.since.get_or_insert(now);
        let left = self.patience.for_bytes(self.bytes).saturating_sub(self.waited);
        since + left.min(self.patience.silence)
    }

    /// Bytes came or went.
    pub(crate) fn moved(&mut self, bytes: usize, now: Instant) {
        if let Some(since) = self.since.take() {
            self.waited += now - since;
        }
        self.bytes += bytes as u64;
    }

    /// What is said of who was too slow.
    pub(crate) fn cut(&self, now: Instant) -> TooSlow {
        let waited = self.waited + self.since.map_or(Duration::ZERO, |since| now - since);
        TooSlow { bytes: self.bytes, waited }
    }
}

/// A server that is silent, or so slow that it never ends.
#[derive(Debug, thiserror::Error)]
#[error("cut off: {bytes} bytes in {waited:.1?} of waiting")]
pub(crate) struct TooSlow {
    pub(crate) bytes: u64,
    pub(crate) waited: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_drips_is_cut_and_who_is_steady_is_not() {
        let patience = Patience { silence: Duration::from_secs(60), slowest: 1000, ..Patience::default() };
        let cut_after = |bytes: usize, every: u64| {
            let mut pace = Pace::new(patience.clone());
            let mut now = Instant::now();
            (0..1000).find(|_| {
                let until = pace.wait(now);
                now += Duration::from_secs(every);
                pace.moved(bytes, now);
                until < now
            })
        };
        assert_eq!(cut_after(1, 10), Some(6), "a byte every ten seconds");
        assert_eq!(cut_after(20_000, 10), None, "2 kB a second");
        assert_eq!(cut_after(1 << 30, 61), Some(0), "silence, however fast it was before");
    }

    #[test]
    fn what_the_reader_does_meanwhile_is_no_fault_of_the_server() {
        let mut pace = Pace::new(Patience::default());
        let mut now = Instant::now();
        for _ in 0..100 {
            now += Duration::from_secs(100);
            assert_eq!(pace.wait(now), now + Duration::from_secs(60));
            pace.moved(1, now);
        }
        assert_eq!(pace.cut(now).to_string(), "cut off: 100 bytes in 0.0ns of waiting");
    }
}

//! How much one caller may ask for.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sanafarm_net::network;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::domain::access::Role;

/// A token of workers may be that of a whole fleet: it gets so many times as much.
const FLEET: u32 = 32;
/// Wrong tokens from one address at once,
const WRONG: f64 = 10.0;
/// and so many a second after that.
const WRONG_PER_SECOND: f64 = 0.2;
/// Addresses that are remembered; forgotten are those that have been good for longest.
const ADDRESSES: usize = 10_000;

/// What a coordinator grants.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Calls of one token that run at the same time.
    pub calls: u32,
    /// Calls of one token in a second, on average over some seconds.
    pub calls_per_second: u32,
    /// An answer whose reader takes nothing of it for this long is cut, with its connection.
    pub reader_patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { calls: 512, calls_per_second: 500, reader_patience: Duration::from_secs(300) }
    }
}

/// So much at once, and so much in a second after that.
#[derive(Debug)]
struct Bucket {
    left: f64,
    most: f64,
    per_second: f64,
    at: Instant,
}

impl Bucket {
    fn full(most: f64, per_second: f64, now: Instant) -> Self {
        Self { left: most, most, per_second, at: now }
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * self.per_second).min(self.most);
        self.at = now;
    }

    fn take(&mut self, now: Instant) -> bool {
        self.fill(now);
        let enough = self.left >= 1.0;
        if enough {
            self.left -= 1.0;
        }
        enough
    }
}

/// What one caller has left.
#[derive(Debug)]
pub(super) struct Allowance {
    calls: Arc<Semaphore>,
    most: u32,
    rate: Mutex<Bucket>,
}

/// A call that runs.
#[derive(Debug)]
pub(super) struct Running {
    _permit: OwnedSemaphorePermit,
}

impl Allowance {
    pub fn new(limits: &Limits, role: Role) -> Self {
        let times = if role == Role::Worker { FLEET } else { 1 };
        let (most, per_second) =
            (limits.calls.saturating_mul(times), limits.calls_per_second.saturating_mul(times));
        // A burst of some seconds is no attack.
        let rate = Bucket::full(f64::from(per_second) * 4.0, f64::from(per_second), Instant::now());
        Self { calls: Arc::new(Semaphore::new(most as usize)), most, rate: Mutex::new(rate) }
    }

    /// A call, or what there is too much of.
    pub fn take(&self) -> Result<Running, String> {
        self.take_at(Instant::now())
    }

    fn take_at(&self, now: Instant) -> Result<Running, String> {
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        if !rate.take(now) {
            let per_second = rate.per_second;
            return Err(format!("more than {per_second} calls a second with one token; slow down"));
        }
        drop(rate);
        let permit = Arc::clone(&self.calls).try_acquire_owned();
        let permit = permit.map_err(|_| {
            format!("{} calls of this token run already; try again when some have ended", self.most)
        })?;
        Ok(Running { _permit: permit })
    }
}

/// Wrong tokens by the address that they came from.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    seen: Mutex<HashMap<IpAddr, Bucket>>,
}

impl Addresses {
    /// A token of that address was wrong. False when there were too many.
    pub fn was_wrong(&self, address: IpAddr) -> bool {
        let now = Instant::now();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= ADDRESSES {
            seen.retain(|_, bucket| {
                bucket.fill(now);
                bucket.left < bucket.most
            });
            if seen.len() >= ADDRESSES {
                let oldest = seen.iter().min_by_key(|(_, bucket)| bucket.at).map(|(address, _)| *address);
                oldest.map(|oldest| seen.remove(&oldest));
            }
        }
        seen.entry(network(address)).or_insert_with(|| Bucket::full(WRONG, WRONG_PER_SECOND, now)).take(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_fills_with_time() {
        let start = Instant::now();
        let mut bucket = Bucket::full(2.0, 0.5, start);
        assert_eq!([bucket.take(start), bucket.take(start), bucket.take(start)], [true, true, false]);
        assert!(!bucket.take(start + Duration::from_secs(1)));
        assert!(bucket.take(start + Duration::from_secs(2)));
        assert!(!bucket.take(start + Duration::from_secs(2)));
    }

    #[test]
    fn no_more_calls_run_than_are_allowed() {
        let limits = Limits { calls: 2, calls_per_second: 100, ..Limits::default() };
        let allowance = Allowance::new(&limits, Role::Read);
        let (first, _second) = (allowance.take().unwrap(), allowance.take().unwrap());
        assert!(allowance.take().unwrap_err().contains("2 calls"));
        drop(first);
        assert!(allowance.take().is_ok());
        assert!(Allowance::new(&limits, Role::Worker).most > 2);
        let slow = Allowance::new(&Limits { calls_per_second: 1, ..Limits::default() }, Role::Read);
        let now = Instant::now();
        let answers: Vec<_> = (0..5).map(|_| slow.take_at(now)).collect();
        assert!(answers.last().unwrap().as_ref().unwrap_err().contains("1 calls a second"), "{answers:?}");
    }

    #[test]
    fn an_address_that_guesses_is_not_listened_to() {
        let addresses = Addresses::default();
        let (bad, good): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        for _ in 0..WRONG as u32 {
            assert!(addresses.was_wrong(bad));
        }
        assert!(!addresses.was_wrong(bad));
        assert!(!addresses.was_wrong("::ffff:10.0.0.1".parse().unwrap()));
        assert!(addresses.was_wrong(good));
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let addresses = Addresses::default();
        for last in 0..WRONG as u16 {
            addresses.was_wrong(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last).into());
        }
        assert!(!addresses.was_wrong("2001:db8::ffff".parse().unwrap()));
        assert!(addresses.was_wrong("2001:db8:0:1::1".parse().unwrap()));
    }
}

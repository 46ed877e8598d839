//! Servers that ask for fewer requests.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use tokio::time::Instant;

use crate::patience::jitter;

/// Holds back all requests to a server that asked one of them to wait.
#[derive(Debug)]
pub(crate) struct Throttle {
    until: Mutex<Option<Instant>>,
    longest: Duration,
}

impl Throttle {
    pub(crate) fn new(longest: Duration) -> Self {
        Self { until: Mutex::new(None), longest }
    }

    /// Waits as long as the server wants.
    pub(crate) async fn wait(&self) {
        while let Some(left) = self.left(Instant::now()) {
            tokio::time::sleep(left + jitter(left / 5)).await;
        }
    }

    /// How long it still wants no requests.
    fn left(&self, now: Instant) -> Option<Duration> {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        *until = until.filter(|until| *until > now);
        until.map(|until| until - now)
    }

    /// Takes note of an answer.
    pub(crate) fn heed(&self, status: StatusCode, headers: &HeaderMap, now: Instant) {
        let Some(wait) = retry_after(status, headers) else { return };
        let wanted = now + wait.min(self.longest);
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        *until = Some(until.map_or(wanted, |until| until.max(wanted)));
    }
}

/// How long an answer asks to wait, in seconds as object stores say it.
pub(crate) fn retry_after(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    if !matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        return None;
    }
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_requests_wait_as_long_as_the_server_asks_and_no_longer_than_we_want() {
        let throttle = Throttle::new(Duration::from_secs(30));
        let now = Instant::now();
        let after = |status: StatusCode, seconds: &str| {
            throttle.heed(status, &HeaderMap::from_iter([(RETRY_AFTER, seconds.parse().unwrap())]), now);
        };
        assert_eq!(throttle.left(now), None);
        after(StatusCode::SERVICE_UNAVAILABLE, "10");
        after(StatusCode::SERVICE_UNAVAILABLE, "1");
        after(StatusCode::INTERNAL_SERVER_ERROR, "20");
        after(StatusCode::SERVICE_UNAVAILABLE, "soon");
        assert_eq!(throttle.left(now), Some(Duration::from_secs(10)));
        assert_eq!(throttle.left(now + Duration::from_secs(10)), None);
        after(StatusCode::TOO_MANY_REQUESTS, "9999");
        assert_eq!(throttle.left(now), Some(Duration::from_secs(30)));
    }
}

//! The time that all coordinators go by: the database's.

use std::sync::atomic::{AtomicI64, Ordering};

use jiff::{SignedDuration, Timestamp};
use sqlx::PgPool;

use super::codec::Time;
use crate::store::Result;

/// A difference below this may be the time that the question took.
const NOISE: SignedDuration = SignedDuration::from_millis(500);

/// How far the database's clock is from that of this machine.
#[derive(Debug, Default)]
pub(super) struct Clock {
    ahead_millis: AtomicI64,
}

impl Clock {
    /// The database's time, as far as it is known.
    pub fn now(&self) -> Timestamp {
        let ahead = SignedDuration::from_millis(self.ahead_millis.load(Ordering::Relaxed));
        let now = Timestamp::now();
        now.checked_add(ahead).unwrap_or(now)
    }

    /// Asks the database for its time.
    pub async fn compare(&self, pool: &PgPool) -> Result<()> {
        let mut connection = pool.acquire().await?;
        let asked = Timestamp::now();
        let Time(told) = sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&mut *connection).await?;
        let answered = Timestamp::now();
        let ahead = told.duration_since(asked) - answered.duration_since(asked) / 2;
        let ahead = if ahead.abs() < NOISE { SignedDuration::ZERO } else { ahead };
        let before =
            SignedDuration::from_millis(self.ahead_millis.swap(ahead.as_millis() as i64, Ordering::Relaxed));
        if (ahead - before).abs() >= NOISE {
            tracing::warn!(
                seconds = ahead.as_secs_f64(),
                "the database's clock is ahead of this machine's by so much: going by the database's"
            );
        }
        Ok(())
    }
}

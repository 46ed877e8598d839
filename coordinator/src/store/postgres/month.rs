//! Room in the history: a part of its table for each month.

use std::sync::atomic::Ordering;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::PostgresStore;
use super::codec::Time;
use crate::store::Result;

/// No month at all.
pub(super) const NO_MONTH: i64 = i64::MIN;

impl PostgresStore {
    /// Makes room in the history for the month of this moment, and for the next one.
    pub(super) async fn months(&self, now: Timestamp) -> Result<()> {
        let date = now.to_zoned(TimeZone::UTC);
        let month = i64::from(date.year()) * 12 + i64::from(date.month());
        if self.month.load(Ordering::Relaxed) != month {
            sqlx::query("SELECT make_events_part($1), make_events_part($1 + interval '1 month')")
                .bind(Time(now))
                .execute(&self.pool)
                .await?;
            self.month.store(month, Ordering::Relaxed);
        }
        Ok(())
    }
}

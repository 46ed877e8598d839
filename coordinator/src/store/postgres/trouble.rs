//! Errors of this database: which are worth another try, and when connections broke.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::store::{Error, Result};

/// serialization_failure, deadlock_detected, and exclusion_violation when two insert the same at the same moment:
/// another transaction was in the way, and this one left no trace.
const CONFLICTS: [&str; 3] = ["40001", "40P01", "23P01"];
/// lock_not_available, too_many_connections, and a server that starts or stops.
const BUSY: [&str; 3] = ["55P03", "53300", "57P03"];
/// disk_full.
const FULL: &str = "53100";
/// admin_shutdown, crash_shutdown, idle_in_transaction_session_timeout and idle_session_timeout: the server ended the
/// connection.
const ENDED: [&str; 4] = ["57P01", "57P02", "25P03", "57P05"];

/// query_canceled.
const STOPPED: &str = "57014";

/// How often a transaction is tried that others get in the way of.
pub(super) const TRIES: u32 = 5;

/// Runs a call, which is one transaction, again when another one was in its way.
macro_rules! retried {
    ($call:expr) => {{
        let mut tries = 1;
        loop {
            match $call.await {
                Err(error)
                    if tries < $crate::store::postgres::trouble::TRIES
                        && $crate::store::postgres::trouble::is_conflict(&error) =>
                {
                    tracing::debug!(%error, tries, "another transaction was in the way");
                    tries += 1;
                }
                answer => break answer,
            }
        }
    }};
}
pub(super) use retried;

/// SQLSTATE of an error that the server told.
fn code(error: &sqlx::Error) -> Option<&str> {
    Some(error.as_database_error()?.try_downcast_ref::<sqlx::postgres::PgDatabaseError>()?.code())
}

fn source(error: &Error) -> Option<&sqlx::Error> {
    match error {
        Error::Database(source) => source.downcast_ref(),
        _ => None,
    }
}

/// Another transaction was in the way; the next try may succeed.
pub(super) fn is_conflict(error: &Error) -> bool {
    source(error).and_then(code).is_some_and(|code| CONFLICTS.contains(&code))
}

/// The server has more to do than it can.
pub(in crate::store) fn is_busy(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| BUSY.contains(&code))
}

/// The server stopped the statement, which ran too long.
pub(super) fn is_stopped(error: &sqlx::Error) -> bool {
    code(error) == Some(STOPPED)
}

/// The constraint that the statement would have broken.
pub(super) fn broken_constraint(error: &Error) -> Option<&str> {
    source(error)?.as_database_error()?.constraint()
}

/// The connection is of no use any more.
fn is_broken(error: &sqlx::Error) -> bool {
    is_lost(error) || matches!(error, sqlx::Error::Protocol(_) | sqlx::Error::Tls(_))
}

/// The server, or the way to it, went away: a new connection may do.
fn is_lost(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Io(_)) || code(error).is_some_and(|code| ENDED.contains(&code))
}

/// When a connection broke last: those that have been idle since before are tested before they are used.
#[derive(Debug)]
pub(super) struct Trouble {
    start: Instant,
    /// Microseconds after the start; 0 for never.
    last: AtomicU64,
}

impl Trouble {
    pub fn new() -> Self {
        Self { start: Instant::now(), last: AtomicU64::new(0) }
    }

    /// A connection broke after this moment.
    pub fn was_after(&self, moment: Instant) -> bool {
        let last = self.last.load(Ordering::Relaxed);
        last > 0 && moment.saturating_duration_since(self.start).as_micros() <= u128::from(last)
    }

    /// A connection is broken.
    pub fn note(&self) {
        let now = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.last.store(now.max(1), Ordering::Relaxed);
    }

    /// What came of a call, with its error in the words of this store.
    pub fn heard<T>(&self, answer: Result<T>, place: &str, connected: bool) -> Result<T> {
        let error = match answer {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        if source(&error).is_some_and(is_broken) {
            self.note();
        }
        let unreachable = Error::Unreachable { place: place.to_owned() };
        Err(match error {
            error if source(&error).is_some_and(is_lost) => {
                tracing::warn!(%error, place, "lost a connection to the database");
                unreachable
            }
            Error::Busy if !connected => unreachable,
            error if is_conflict(&error) => Error::Busy,
            error if source(&error).and_then(code) == Some(FULL) => Error::Full { file: place.to_owned() },
            error => error,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn connections_from_before_a_trouble_are_doubted() {
        let trouble = Trouble::new();
        let before = Instant::now();
        assert!(!trouble.was_after(before));
        let broken = sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
        let error = trouble.heard::<()>(Err(Error::from(broken)), "here", true).unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
        assert!(trouble.was_after(before));
        assert!(!trouble.was_after(Instant::now() + Duration::from_millis(1)));
        let error = trouble.heard::<()>(Err(Error::Busy), "here", false).unwrap_err();
        assert!(error.to_string().contains("here"), "{error}");
    }
}

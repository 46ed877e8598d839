//! Why a store did not do what it was asked.

use std::sync::Arc;
use std::time::Duration;

use super::records::LeaseRef;
use crate::domain::append::NoPlace;
use crate::domain::id::{JobId, SessionId};
use crate::domain::state::IllegalMove;
use crate::domain::statement::Refused;
use crate::domain::{Invalid, UnknownWord};

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The input breaks a rule.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// There is no such thing.
    #[error("no {what} {id}")]
    NotFound {
        /// `job`, `shard` or `session`.
        what: &'static str,
        /// As it was asked for.
        id: String,
    },
    /// More than one job begins like this.
    #[error("more than one job id begins with {0}; give more of it")]
    Ambiguous(String),
    /// The session was closed or given up.
    #[error("session {0} is closed; open a new one")]
    SessionClosed(SessionId),
    /// Another submission with the same client token took over.
    #[error("job {0} was replaced by another submission with its client token; submit again")]
    Replaced(JobId),
    /// The server stopped before it had written them all to its disk.
    #[error("the database lost rows of job {0} when its server stopped; submit again")]
    RowsLost(JobId),
    /// The output cannot be added to.
    #[error("job {job} in output {output} {why}")]
    NoAppend {
        /// Folder or URL.
        output: String,
        /// An earlier job there.
        job: JobId,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Pictures of two jobs in one place would mix, and one manifest replace the other.
    #[error(
        "output {output} holds the pictures of job {job}; choose another output, or add to it with --append"
    )]
    OutputTaken {
        /// Folder or URL.
        output: String,
        /// The job that it belongs to.
        job: JobId,
    },
    /// The attempt was never given to the session's worker.
    #[error("attempt {} of shard {} was not given to this worker", .0.attempt, .0.shard)]
    NotYours(LeaseRef),
    /// The state does not allow it.
    #[error(transparent)]
    Move(#[from] IllegalMove),
    /// The database was opened to look only.
    #[error("the database is open read-only; run this against a coordinator (--coordinator ADDRESS)")]
    ReadOnly,
    /// The SQL is not one that may be run.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The database does not accept the analyst's SQL.
    #[error("{0}")]
    Query(String),
    /// There is nobody whom the analyst's SQL could run as.
    #[error(
        "sql runs as the role sanafarm_reader, which this coordinator cannot take on ({0}); an administrator of the \
         database says: CREATE ROLE sanafarm_reader NOLOGIN; GRANT sanafarm_reader TO the role of the coordinator"
    )]
    NoReader(String),
    /// The analyst's SQL ran too long.
    #[error("the statement ran longer than {} seconds and was stopped", .0.as_secs())]
    TimedOut(Duration),
    /// As many analysts' statements run as may run at the same time.
    #[error("other sql statements are running; try again when one of them has ended")]
    Crowded,
    /// The database was written by a newer program.
    #[error(
        "database {file} has version {found}, this program knows up to {known}; use the newer program that wrote it"
    )]
    Newer {
        /// Where it is.
        file: String,
        /// Its newest migration.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// The database was written by an older program and may not be changed here.
    #[error(
        "database {file} has version {found}, this program wants {known}; open it once with `sanafarm coordinator`"
    )]
    Older {
        /// Where it is.
        file: String,
        /// Its newest migration.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// The database could not be opened.
    #[error("open database {file}: {reason}")]
    Open {
        /// Where it should be.
        file: String,
        /// What the database said.
        reason: String,
    },
    /// A value in the database is none that this program writes.
    #[error("unexpected value in the database: {0}")]
    Corrupt(String),
    /// No room is left for the database.
    #[error("write database {file}: the disk is full; free some space, then try again")]
    Full {
        /// Where it is.
        file: String,
    },
    /// The server of the database does not answer.
    #[error("database {place} cannot be reached; it is tried again with the next call")]
    Unreachable {
        /// Where it should be.
        place: String,
    },
    /// Another program holds the database, or more wants it than it can do.
    #[error("the database is busy; try again, and see that no other program holds it")]
    Busy,
    /// The store was closed.
    #[error("the database is closed")]
    Closed,
    /// One call for many failed: each of them gets this.
    #[error(transparent)]
    Shared(Arc<Error>),
    /// Anything else the database says.
    #[error("database: {0}")]
    Database(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::PoolClosed => Self::Closed,
            sqlx::Error::PoolTimedOut => Self::Busy,
            error if super::sqlite::codec::is_busy(&error) || super::postgres::trouble::is_busy(&error) => {
                Self::Busy
            }
            error => Self::Database(Box::new(error)),
        }
    }
}

impl Error {
    /// Why a job has no place in its output.
    pub(super) fn no_place(output: &str, why: NoPlace) -> Self {
        let output = output.to_owned();
        match why {
            NoPlace::Taken(job) => Self::OutputTaken { output, job },
            NoPlace::Unlike(job, why) => Self::NoAppend { output, job, why },
        }
    }
}

impl From<UnknownWord> for Error {
    fn from(word: UnknownWord) -> Self {
        Self::Corrupt(word.to_string())
    }
}

/// What a store answers.
pub type Result<T> = std::result::Result<T, Error>;

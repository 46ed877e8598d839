//! Why a measurement ended without figures.

/// Why a measurement ended without figures.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What went wrong.
        source: std::io::Error,
    },
    /// A coordinator answered with an error, or not at all.
    #[error("{what}: {} ({})", status.message(), status.code().description())]
    Call {
        /// What was asked.
        what: &'static str,
        /// Its answer.
        status: Box<tonic::Status>,
    },
    /// No connection to a coordinator.
    #[error("connect to coordinator {address}: {source}")]
    Connect {
        /// Where it should be.
        address: String,
        /// What went wrong.
        source: tonic::transport::Error,
    },
    /// A coordinator in this process.
    #[error("run a coordinator: {0}")]
    Coordinator(#[from] sanafarm_coordinator::Error),
    /// The database, asked by the benchmark itself.
    #[error("{what}: {source}")]
    Database {
        /// What was asked.
        what: &'static str,
        /// What went wrong.
        source: sqlx::Error,
    },
    /// A child did something else than it should.
    #[error("{0}")]
    Child(String),
    /// The farm did not do its work.
    #[error("{0}")]
    Farm(String),
    /// A task of this process broke down.
    #[error("a task ended early: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl Error {
    /// What was tried when the system said no.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// What was asked of a coordinator.
    pub fn call(what: &'static str) -> impl FnOnce(tonic::Status) -> Self {
        move |status| Self::Call { what, status: Box::new(status) }
    }

    /// What was asked of the database.
    pub fn database(what: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Database { what, source }
    }
}

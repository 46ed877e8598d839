//! Sanafarm's coordinator: jobs, shards, leases, results and history.

pub mod domain;
pub mod store;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

/// How a coordinator runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// The SQLite file; it is created when absent.
    pub database: PathBuf,
    /// A lease ends this long after its last renewal.
    pub lease_duration: Duration,
    /// What a shard should take on the workers seen so far.
    pub target_shard_duration: Duration,
    /// How often expired leases are taken back and ended jobs are finished.
    pub sweep_interval: Duration,
    /// An image that failed this often has failed for good.
    pub max_errors: u32,
    /// An image that was being rendered this often when its worker was lost has failed for good.
    pub max_losses: u32,
}

impl Options {
    /// The defaults, with this database.
    pub fn new(database: PathBuf) -> Self {
        Self {
            database,
            lease_duration: Duration::from_secs(60),
            target_shard_duration: Duration::from_secs(120),
            sweep_interval: Duration::from_secs(5),
            max_errors: 3,
            max_losses: 5,
        }
    }
}

/// Why a coordinator could not be opened or served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something else went wrong.
    #[error("{0}")]
    Other(String),
}

/// A running coordinator: cheap to clone.
#[derive(Clone, Debug)]
pub struct Coordinator {}

impl Coordinator {
    /// Opens the database, brings its tables up to date and starts the sweep.
    pub async fn open(_options: Options) -> Result<Self, Error> {
        todo!()
    }
    /// Opens an existing database to look only: all calls that change something are refused.
    pub async fn open_read_only(_database: &Path) -> Result<Self, Error> {
        todo!()
    }
    /// A channel to this coordinator inside the process, with no port.
    pub async fn local_channel(&self) -> Result<Channel, Error> {
        todo!()
    }
    /// Serves gRPC until `shutdown` is cancelled.
    pub async fn serve(&self, _listener: TcpListener, _shutdown: CancellationToken) -> Result<(), Error> {
        todo!()
    }
    /// Stops the sweep, ends open calls and closes the database.
    pub async fn close(self) {
        todo!()
    }
}

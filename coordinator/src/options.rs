//! How a coordinator runs.

use std::path::PathBuf;
use std::time::Duration;

use crate::domain::blame::Caps;

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

    /// How often an image may go wrong.
    pub(crate) fn caps(&self) -> Caps {
        Caps { errors: self.max_errors, losses: self.max_losses }
    }
}

//! How a coordinator runs.

use std::path::PathBuf;
use std::time::Duration;

use sanafarm_net::Secret;

use crate::domain::blame::Caps;
use crate::services::webhook::Webhooks;

/// Where the truth is.
#[derive(Clone, PartialEq, Eq)]
pub enum Database {
    /// A SQLite file, for one coordinator; it is created when absent.
    File(PathBuf),
    /// The URL of a PostgreSQL database, for any number of coordinators.
    Server(String),
}

/// Nothing of the URL: it may hold a password.
impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(file) => f.debug_tuple("File").field(file).finish(),
            Self::Server(_) => f.debug_tuple("Server").finish_non_exhaustive(),
        }
    }
}

/// How a coordinator runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the truth is.
    pub database: Database,
    /// Folder for manifests on their way to the output, of this coordinator alone; emptied when it starts.
    pub scratch: PathBuf,
    /// Redis for hints between coordinators, as a URL; they find out later without.
    pub redis: Option<Secret>,
    /// Workers get signed URLs for the objects of their leases, and need no keys of the object store.
    pub presign: bool,
    /// A lease ends this long after its last renewal.
    pub lease_duration: Duration,
    /// What a shard should take on the workers seen so far.
    pub target_shard_duration: Duration,
    /// How often expired leases are taken back and ended jobs are finished.
    pub sweep_interval: Duration,
    /// An image that failed this often has failed for good.
    pub max_errors: u32,
    /// An image that failed on this many different workers has failed for good.
    pub max_failing_workers: u32,
    /// An image that was being rendered this often when its worker was lost has failed for good.
    pub max_losses: u32,
    /// Rows of a prompt list.
    pub max_prompts: u64,
    /// Where webhooks may go; nowhere when none, and then this coordinator calls none.
    pub webhooks: Option<Webhooks>,
}

impl Options {
    /// The defaults, with this SQLite file and a scratch folder beside it.
    pub fn file(file: PathBuf) -> Self {
        let mut scratch = file.clone().into_os_string();
        scratch.push("-scratch");
        Self::new(Database::File(file), scratch.into())
    }

    /// The defaults.
    pub fn new(database: Database, scratch: PathBuf) -> Self {
        Self {
            database,
            scratch,
            redis: None,
            presign: false,
            lease_duration: Duration::from_secs(60),
            target_shard_duration: Duration::from_secs(120),
            sweep_interval: Duration::from_secs(5),
            max_errors: 6,
            max_failing_workers: 3,
            max_losses: 5,
            max_prompts: 10_000_000,
            webhooks: None,
        }
    }

    /// How often an image may go wrong.
    pub(crate) fn caps(&self) -> Caps {
        Caps { errors: self.max_errors, workers: self.max_failing_workers, losses: self.max_losses }
    }
}

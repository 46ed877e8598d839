//! What calls and duties share.

use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::live::Live;
use crate::options::Options;
use crate::store::Store;

/// One coordinator from the inside.
#[derive(Debug)]
pub(crate) struct Farm {
    pub store: Arc<dyn Store>,
    pub live: Live,
    pub options: Options,
    /// Duties, submissions and connections inside the process; all of them end after `stop`.
    pub tasks: TaskTracker,
    pub stop: CancellationToken,
}

impl Farm {
    pub fn new(store: Arc<dyn Store>, options: Options) -> Self {
        Self { store, live: Live::new(), options, tasks: TaskTracker::new(), stop: CancellationToken::new() }
    }

    /// Folder for manifests on their way to the output; emptied when the database is opened.
    pub fn scratch(&self) -> PathBuf {
        let mut name = self.options.database.clone().into_os_string();
        name.push("-scratch");
        name.into()
    }
}

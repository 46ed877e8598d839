//! Sanafarm's worker: leases shards, renders and publishes pictures.

use std::path::PathBuf;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

pub mod models;

/// How a worker runs.
#[derive(Debug)]
pub struct Options {
    /// Lasting name of this worker.
    pub name: String,
    /// Folder for unpacked and downloaded models.
    pub cache: PathBuf,
    /// Says what the device is doing right now, for a progress display.
    pub activity: Option<watch::Sender<Activity>>,
}

/// What a device is doing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Activity {
    /// Index of the image in its job.
    pub index: u64,
    /// `load`, `text`, `denoise` or `decode`.
    pub stage: &'static str,
    /// Denoising steps done.
    pub step: u32,
    /// Denoising steps to do.
    pub steps: u32,
}

/// Two-step shutdown.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Finish the image in hand, hand the rest back, leave.
    pub soft: CancellationToken,
    /// Stop at the next denoising step, hand everything back, leave.
    pub hard: CancellationToken,
}

/// What a worker did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Images rendered and published.
    pub done: u64,
    /// Errors reported.
    pub failed: u64,
}

/// Why a worker ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The output cannot be written.
    #[error("{0}")]
    Storage(String),
    /// Something else went wrong.
    #[error("{0}")]
    Other(String),
}

/// Leases, renders and reports until told to leave.
pub async fn run(_channel: Channel, _options: Options, _shutdown: Shutdown) -> Result<Summary, Error> {
    todo!()
}

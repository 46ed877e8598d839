//! Sanafarm's worker: leases shards, renders and publishes pictures.
//!
//! One async side and two threads. The async side (`shift`) leases shards ahead, publishes finished pictures
//! and reports results; the engine thread owns the model and never waits for anything but work; the encoder
//! thread turns rows into a PNG while the engine is at its next picture. All channels between them are bounded.
//!
//! ```text
//! session ── lease ──> shift ── command ──> engine ── rows ──> encoder ── picture ──> publish ──> report
//! ```
//!
//! - [`run`]: the worker, until it is told to leave by [`Shutdown`].
//! - [`models`]: where models are found; the bundled one is inside the program.

use std::collections::BTreeMap;
use std::path::PathBuf;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

mod device;
mod engine;
mod follow;
mod leases;
pub mod models;
mod picture;
mod publish;
mod recipe;
mod report;
mod retry;
mod session;
mod shift;

#[cfg(test)]
mod tests;

/// How a worker runs.
#[derive(Debug)]
pub struct Options {
    /// Lasting name of this worker.
    pub name: String,
    /// Folder for unpacked and downloaded models.
    pub cache: PathBuf,
    /// The only job to work for; any when absent.
    pub job: Option<String>,
    /// The device to render on, `cpu` or `cuda:N`; when absent the first CUDA device of a build that has them, or else the
    /// CPU.
    pub device: Option<String>,
    /// What its operator says about it, for jobs that ask for labels.
    pub labels: BTreeMap<String, String>,
    /// Says what the device is doing right now, for a progress display.
    pub activity: Option<watch::Sender<Activity>>,
}

/// What a device is doing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Activity {
    /// Its job; empty while it waits for work.
    pub job: String,
    /// Index of the image in its job.
    pub index: u64,
    /// `load`, `text`, `denoise` or `decode`; empty before the first image and while it waits for work.
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

/// Why a worker ended before it was told to. Its leases were handed back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The output cannot be written: full, refused or out of reach.
    #[error("{0}; {hint}", hint = .0.hint())]
    Storage(sanafarm_storage::Error),
    /// The coordinator refuses what this worker asks, or cannot be reached while it leaves.
    #[error("{0}")]
    Coordinator(String),
    /// The engine or the encoder broke down: this process cannot render any more.
    #[error("{0}")]
    Engine(String),
}

/// Leases, renders and reports until told to leave.
///
/// A coordinator that is away is waited for. Dropping the future stops the engine at its next step.
pub async fn run(channel: Channel, options: Options, shutdown: Shutdown) -> Result<Summary, Error> {
    let wanted = options.device.clone();
    let chosen = tokio::task::spawn_blocking(move || device::choose(wanted.as_deref())).await;
    let chosen = chosen.map_err(|error| Error::Engine(format!("probe devices: {error}")))?;
    let (device, placement) = chosen.map_err(Error::Engine)?;
    shift::run(channel, options, shutdown, Box::new(engine::SanaEngine::new(placement)), device).await
}

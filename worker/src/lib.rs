//! Sanafarm's worker: leases shards, renders and publishes pictures.
//!
//! One async side, and two threads for each device. The async side (`shift`) leases shards ahead, keeps finished pictures in
//! the outbox on local disk, stores and reports them; an engine thread owns the model on its device and never waits for
//! anything but work and room in the outbox; its encoder thread turns rows into a file while the engine is at its next
//! picture. All engines take their work from one queue. What waits between two stages is bounded.
//!
//! ```text
//! session ── lease ──> shift ── command ──> engines ── rows ──> encoders ── picture ──> outbox ──> store ──> report
//! ```
//!
//! - [`run`]: the worker, until it is told to leave by [`Shutdown`].
//! - [`Devices`]: what it renders on.
//! - [`Monitor`]: how it stands, for whoever watches its process.
//! - [`models`]: where models are found and how they are kept; the bundled one is inside the program.
//! - [`picture`]: picture files and the recipes in them.
//! - [`reproduce`]: a picture rendered again from its recipe.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use sanafarm_net::Channel;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

mod device;
mod engine;
mod follow;
mod leases;
mod leave;
pub mod models;
mod monitor;
mod notice;
mod outbox;
pub mod picture;
mod recipe;
mod report;
pub mod reproduce;
mod retry;
mod session;
mod shift;
mod stats;
mod store;
mod told;
mod urls;

#[cfg(test)]
mod tests;

pub use device::Devices;
pub use monitor::Monitor;
pub use notice::{Notices, Spot};
pub use outbox::Settings as OutboxSettings;
pub use shift::Limits;

/// How a worker runs.
#[derive(Debug)]
pub struct Options {
    /// Lasting name of this worker.
    pub name: String,
    /// Where models come from and where they are kept.
    pub models: models::Options,
    /// The only job to work for; any when absent.
    pub job: Option<String>,
    /// What it renders on.
    pub devices: Devices,
    /// What its operator says about it, for jobs that ask for labels.
    pub labels: BTreeMap<String, String>,
    /// Says what each device is doing right now, for a progress display.
    pub activity: Option<watch::Sender<Vec<Activity>>>,
    /// Watches it.
    pub monitor: Monitor,
    /// Where finished images are kept until they are acknowledged.
    pub outbox: OutboxSettings,
    /// Uploads at once.
    pub uploads: usize,
    /// When it leaves by itself.
    pub limits: Limits,
    /// What makes it leave from outside.
    pub notices: Notices,
    /// How long finished images may still be uploaded when it leaves; the others stay in the outbox.
    pub drain_timeout: Duration,
    /// How long it waits for others when it is to stop at once.
    pub patience: Patience,
}

/// What a worker that is to stop at once waits for, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// The coordinator's answer to a call.
    pub answer: Duration,
    /// The engines, which stop at their next step, and the disk, which takes what is rendered.
    pub stop: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { answer: Duration::from_secs(2), stop: Duration::from_secs(5) }
    }
}

/// Bytes that an outbox may hold unless told otherwise.
pub const OUTBOX_BYTES: u64 = 10_000_000_000;
/// Uploads at once unless told otherwise.
pub const UPLOADS: usize = 8;
/// How long a worker that leaves uploads unless told otherwise.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(25);

impl Options {
    /// A worker of that name with all else as usual; models and outboxes lie below `cache`.
    pub fn new(name: impl Into<String>, cache: PathBuf) -> Self {
        let outbox = OutboxSettings { folder: cache.join("outbox"), limit: OUTBOX_BYTES };
        Self {
            name: name.into(),
            models: models::Options::new(cache),
            job: None,
            devices: Devices::default(),
            labels: BTreeMap::new(),
            activity: None,
            monitor: Monitor::default(),
            outbox,
            uploads: UPLOADS,
            limits: Limits::default(),
            notices: Notices::default(),
            drain_timeout: DRAIN_TIMEOUT,
            patience: Patience::default(),
        }
    }
}

/// What a device is doing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Activity {
    /// `cpu` or `cuda:0`.
    pub device: String,
    /// Its job; empty while it waits for work.
    pub job: String,
    /// Index of the image in its job; one of those that are denoised together.
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
    /// Images published and acknowledged.
    pub done: u64,
    /// Errors reported.
    pub failed: u64,
    /// Finished images that wait in the outbox for the next worker of this name.
    pub kept: u64,
}

/// Why a worker ended before it was told to. Its leases were handed back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The output cannot be written: full, refused or out of reach.
    #[error("{0}; {hint}", hint = .0.hint())]
    Storage(sanafarm_storage::Error),
    /// The coordinator refuses what this worker asks.
    #[error("{0}")]
    Coordinator(String),
    /// The outbox cannot be opened, or does not take what is finished.
    #[error("{0}")]
    Outbox(String),
    /// Another process of this machine works under the same name, or on the same outbox.
    #[error("{0}")]
    OutboxInUse(String),
    /// The devices that were asked for cannot be used.
    #[error("{0}")]
    Devices(String),
    /// Every device broke: this process cannot render any more.
    #[error("no device is left to render on: {0}")]
    NoDevice(String),
    /// A part of the worker broke down.
    #[error("{0}")]
    Engine(String),
}

/// Leases, renders and reports until told to leave.
///
/// A coordinator that is away is waited for. Dropping the future stops the engine at its next step.
pub async fn run(channel: Channel, options: Options, shutdown: Shutdown) -> Result<Summary, Error> {
    let wanted = options.devices.clone();
    let chosen = tokio::task::spawn_blocking(move || device::choose(&wanted)).await;
    let chosen = chosen.map_err(|error| Error::Engine(format!("probe devices: {error}")))?;
    let chosen = chosen.map_err(Error::Devices)?;
    options.monitor.watch(&chosen);
    let engine = |(device, placement)| {
        let engine: Box<dyn engine::Engine> = Box::new(engine::SanaEngine::new(placement));
        (device, engine)
    };
    let engines = chosen.into_iter().map(engine).collect();
    shift::run(channel, options, shutdown, engines).await
}

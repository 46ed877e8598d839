//! How a worker spends its time, as it tells with its renewals.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Shares of the last minute, between 0 and 1. Stored as JSON, which analysts read too.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Each device.
    pub devices: Vec<DeviceStats>,
    /// How busy each stage behind the devices was.
    pub busy: BTreeMap<String, f64>,
    /// Images that are finished and not acknowledged.
    pub outbox_images: u64,
    /// Their bytes.
    pub outbox_bytes: u64,
    /// Why finished images are kept back; empty while they are not.
    pub trouble: String,
}

/// One device of a worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceStats {
    /// `cpu` or `cuda:0`.
    pub id: String,
    /// Without work.
    pub idle: f64,
    /// How busy it was with each part of the work.
    pub busy: BTreeMap<String, f64>,
    /// Images that are denoised at once.
    pub batch: u32,
    /// All parts of the model stay on it.
    pub resident: bool,
    /// Why nothing is rendered on it any more; empty while it is well.
    pub broken: String,
    /// Times that it had too little memory and less was tried.
    pub steps_down: u32,
}

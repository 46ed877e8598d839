//! A worker as others see it who watch its process: how it stands, and what it measures of itself as metrics.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use sana::Placement;
use sanafarm_proto::v1::Device;
use sanafarm_telemetry::http::Watched;
use sanafarm_telemetry::worker::{
    DEVICE_IDLE, DEVICE_MEMORY, OUTBOX_BYTES, OUTBOX_IMAGES, STAGE_BUSY, TROUBLE,
};

use crate::device;
use crate::stats::Stats;

/// Watches a worker that is given a clone of it.
#[derive(Clone, Debug, Default)]
pub struct Monitor {
    stats: Arc<Stats>,
    devices: Arc<Mutex<Vec<(Device, Placement)>>>,
}

impl Monitor {
    pub(crate) fn stats(&self) -> Arc<Stats> {
        self.stats.clone()
    }

    /// The worker renders on these.
    pub(crate) fn watch(&self, devices: &[(Device, Placement)]) {
        *self.devices.lock().unwrap_or_else(PoisonError::into_inner) = devices.to_vec();
    }

    /// Asks each device for its memory. Blocks.
    fn measure_memory(&self) {
        let devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (device, placement) in devices {
            let memory = match placement.device_memory() {
                Ok(Some(memory)) => Some(memory),
                Ok(None) => device::cpu_memory_free().map(|free| (free, device.memory_bytes)),
                Err(error) => {
                    tracing::debug!(device = %device.id, %error, "device does not tell its memory");
                    None
                }
            };
            let Some((free, total)) = memory else { continue };
            for (kind, bytes) in [("free", free), ("total", total)] {
                metrics::gauge!(DEVICE_MEMORY, "device" => device.id.clone(), "kind" => kind)
                    .set(bytes as f64);
            }
        }
    }
}

#[async_trait]
impl Watched for Monitor {
    async fn measure(&self) {
        let told = self.stats.snapshot();
        for (stage, share) in told.busy {
            metrics::gauge!(STAGE_BUSY, "stage" => stage).set(share);
        }
        for device in told.devices {
            metrics::gauge!(DEVICE_IDLE, "device" => device.device_id).set(device.idle);
        }
        metrics::gauge!(OUTBOX_IMAGES).set(told.outbox_images as f64);
        metrics::gauge!(OUTBOX_BYTES).set(told.outbox_bytes as f64);
        metrics::gauge!(TROUBLE).set(if told.trouble.is_empty() { 0.0 } else { 1.0 });
        let monitor = self.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || monitor.measure_memory()).await {
            tracing::warn!(%error, "the memory of devices is not measured");
        }
    }

    async fn troubles(&self) -> Vec<String> {
        self.stats.troubles()
    }
}

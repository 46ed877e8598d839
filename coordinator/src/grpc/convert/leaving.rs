//! How workers spend their time, and that they leave.

use std::collections::{BTreeMap, HashMap};

use sanafarm_proto::v1;

use crate::domain::leaving::Drain;
use crate::live::Notice;
use crate::store::records::{DeviceStats, Stats};

/// Of a text that a worker says of itself, what is kept.
const TEXT_CHARS: usize = 1000;
/// Devices and stages that are kept.
const MOST: usize = 64;

/// A text of a worker as it is kept.
pub(in crate::grpc) fn bounded(text: String) -> String {
    text.chars().map(|c| if c == '\0' { '\u{fffd}' } else { c }).take(TEXT_CHARS).collect()
}

/// A share as it is kept: analysts reckon with it.
fn share(share: f64) -> f64 {
    if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) }
}

fn shares(shares: HashMap<String, f64>) -> BTreeMap<String, f64> {
    shares.into_iter().take(MOST).map(|(stage, busy)| (bounded(stage), share(busy))).collect()
}

pub(in crate::grpc) fn stats(stats: v1::WorkerStats) -> Stats {
    let devices = stats.devices.into_iter().take(MOST).map(|device| DeviceStats {
        id: bounded(device.device_id),
        idle: share(device.idle),
        busy: shares(device.busy),
        batch: device.batch,
        resident: device.resident,
        broken: bounded(device.broken),
        steps_down: device.steps_down,
    });
    Stats {
        devices: devices.collect(),
        busy: shares(stats.busy),
        outbox_images: stats.outbox_images,
        outbox_bytes: stats.outbox_bytes,
        trouble: bounded(stats.trouble),
    }
}

pub(super) fn stats_message(stats: Stats) -> v1::WorkerStats {
    let devices = stats.devices.into_iter().map(|device| v1::DeviceStats {
        device_id: device.id,
        idle: device.idle,
        busy: device.busy.into_iter().collect(),
        batch: device.batch,
        resident: device.resident,
        broken: device.broken,
        steps_down: device.steps_down,
    });
    v1::WorkerStats {
        devices: devices.collect(),
        busy: stats.busy.into_iter().collect(),
        outbox_images: stats.outbox_images,
        outbox_bytes: stats.outbox_bytes,
        trouble: stats.trouble,
    }
}

/// Whoever does not say how wants it gentle.
pub(in crate::grpc) fn drain(drain: v1::Drain) -> Drain {
    match drain {
        v1::Drain::Now => Drain::Now,
        v1::Drain::Soon | v1::Drain::Unspecified => Drain::Soon,
    }
}

pub(in crate::grpc) fn drain_message(drain: Option<Drain>) -> v1::Drain {
    match drain {
        None => v1::Drain::Unspecified,
        Some(Drain::Soon) => v1::Drain::Soon,
        Some(Drain::Now) => v1::Drain::Now,
    }
}

/// What a session is told of a notice; nothing when that is for another one.
pub(in crate::grpc) fn notice_for(session: &str, notice: Notice) -> Option<v1::Notice> {
    match notice {
        Notice::Ended(ended_job) => Some(v1::Notice { ended_job, ..v1::Notice::default() }),
        Notice::Drain { session: asked, drain } if asked == session => {
            Some(v1::Notice { drain: drain_message(Some(drain)).into(), ..v1::Notice::default() })
        }
        Notice::Drain { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_worker_says_of_itself_is_bounded() {
        let device = v1::DeviceStats { idle: f64::NAN, broken: "a\0b".to_owned(), ..Default::default() };
        let busy = HashMap::from([("encode".to_owned(), 7.5)]);
        let told = v1::WorkerStats {
            devices: vec![device; 100],
            busy,
            trouble: "ü".repeat(5000),
            ..Default::default()
        };
        let kept = stats(told);
        assert_eq!((kept.devices.len(), kept.devices[0].idle), (64, 0.0));
        assert_eq!(kept.devices[0].broken, "a\u{fffd}b");
        assert_eq!((kept.busy["encode"], kept.trouble.chars().count()), (1.0, 1000));
    }
}

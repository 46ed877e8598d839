//! What a worker counts.

use crate::metric::{Kind, Label, Metric, WORK, open};

/// 1, with the version and the role as labels.
pub const BUILD_INFO: &str = "sanafarm_build_info";
/// How busy each stage behind the devices is.
pub const STAGE_BUSY: &str = "sanafarm_worker_stage_busy_ratio";
/// How idle each device is.
pub const DEVICE_IDLE: &str = "sanafarm_worker_device_idle_ratio";
/// How long an image is in each stage.
pub const STAGE_SECONDS: &str = "sanafarm_worker_stage_seconds";
/// Images that are acknowledged or failed.
pub const IMAGES: &str = "sanafarm_worker_images_total";
/// Memory of a device.
pub const DEVICE_MEMORY: &str = "sanafarm_worker_device_memory_bytes";
/// Bytes uploaded.
pub const UPLOAD_BYTES: &str = "sanafarm_worker_upload_bytes_total";
/// Uploads.
pub const UPLOADS: &str = "sanafarm_worker_uploads_total";
/// Images in the outbox.
pub const OUTBOX_IMAGES: &str = "sanafarm_worker_outbox_images";
/// Their bytes.
pub const OUTBOX_BYTES: &str = "sanafarm_worker_outbox_bytes";
/// Too little memory.
pub const OUT_OF_MEMORY: &str = "sanafarm_worker_out_of_memory_total";
/// Whether finished images are kept back.
pub const TROUBLE: &str = "sanafarm_worker_trouble";

/// All of them.
pub const TABLE: &[Metric] = &[
    Metric {
        name: BUILD_INFO,
        kind: Kind::Gauge,
        labels: &[open("version"), open("role")],
        help: "Always 1: which program this is.",
    },
    Metric {
        name: STAGE_BUSY,
        kind: Kind::Gauge,
        labels: &[Label { name: "stage", values: &["encode", "store", "report"] }],
        help: "Share of the last minute that a stage behind the devices was at work.",
    },
    Metric {
        name: DEVICE_IDLE,
        kind: Kind::Gauge,
        labels: &[open("device")],
        help: "Share of the last minute that a device had nothing to do.",
    },
    Metric {
        name: STAGE_SECONDS,
        kind: Kind::Histogram(WORK),
        labels: &[Label {
            name: "stage",
            values: &["text", "denoise", "decode", "encode", "upload", "report"],
        }],
        help: "Seconds that an image was in a stage; images that are denoised together are in it together.",
    },
    Metric {
        name: IMAGES,
        kind: Kind::Counter,
        labels: &[Label { name: "outcome", values: &["picture", "error"] }],
        help: "Images whose result the coordinator has acknowledged.",
    },
    Metric {
        name: DEVICE_MEMORY,
        kind: Kind::Gauge,
        labels: &[open("device"), open("kind")],
        help: "Memory of a device, `total` and `free`; of the CPU that of the machine or its container.",
    },
    Metric {
        name: UPLOAD_BYTES,
        kind: Kind::Counter,
        labels: &[],
        help: "Bytes of pictures and tars that are stored.",
    },
    Metric {
        name: UPLOADS,
        kind: Kind::Counter,
        labels: &[Label { name: "outcome", values: &["stored", "late", "refused"] }],
        help: "Tries to store a picture or a tar: those that are stored, those that are tried again later, and those that were refused for good.",
    },
    Metric {
        name: OUTBOX_IMAGES,
        kind: Kind::Gauge,
        labels: &[],
        help: "Finished images that no coordinator has acknowledged yet.",
    },
    Metric { name: OUTBOX_BYTES, kind: Kind::Gauge, labels: &[], help: "Their bytes on disk." },
    Metric {
        name: OUT_OF_MEMORY,
        kind: Kind::Counter,
        labels: &[open("device")],
        help: "Times that a device had too little memory.",
    },
    Metric {
        name: TROUBLE,
        kind: Kind::Gauge,
        labels: &[],
        help: "1 while something keeps finished images back.",
    },
];

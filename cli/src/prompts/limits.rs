//! What a row of a list may hold: the coordinator's own limits, checked here so that a bad row is told with its
//! file and line before anything is sent.

use std::ops::RangeInclusive;

use sanafarm_coordinator::domain::{seed, settings};

pub use sanafarm_coordinator::domain::settings::MAX_STEPS;
pub use sanafarm_coordinator::domain::spec::{MAX_EXTRA, MAX_IMAGES_PER_PROMPT, MAX_PROMPT};
pub use sanafarm_coordinator::domain::submission::{MAX_COLUMNS, MAX_GROUPS};

/// Longest row id, in bytes: `MAX_TEXT` of the coordinator's `domain/spec.rs`.
pub const MAX_ID: usize = 4096;
/// Width and height, in pixels.
pub const SIDE: RangeInclusive<u64> = 1..=settings::MAX_SIDE as u64;
/// Denoising steps.
pub const STEPS: RangeInclusive<u64> = 1..=MAX_STEPS as u64;
/// Guidance scale.
pub const GUIDANCE: RangeInclusive<f64> = 0.0..=settings::MAX_GUIDANCE;
/// Seeds that every database can hold.
pub const SEED: RangeInclusive<u64> = 0..=seed::MAX_SEED;

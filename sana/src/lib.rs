//! The Sana text-to-image pipeline on candle.
//!
//! [`Pipeline::load`] takes a checkpoint in the diffusers folder layout unchanged; [`Pipeline::encode`],
//! [`Pipeline::denoise`] and [`Pipeline::decode`] take a [`Recipe`] to a picture whose rows are handed out as soon
//! as they are final. A picture depends on its recipe and the weights alone: not on the number of threads, nor on
//! what is rendered before, after or beside it.
//!
//! The parts mirror the reference pipeline: [`prompt`], [`text_encoder`], [`noise`], [`scheduler`],
//! [`transformer`], [`autoencoder`], [`size`] and [`postprocess`]. [`check`] compares each of them with fixtures
//! of the reference.

pub mod autoencoder;
pub mod bench;
pub mod check;
pub mod config;
mod cpu;
mod cuda;
mod error;
mod files;
mod memory;
mod model;
pub mod noise;
pub mod ops;
mod pipeline;
mod placement;
pub mod postprocess;
pub mod prompt;
mod recipe;
pub mod scheduler;
pub mod size;
pub mod text_encoder;
pub mod transformer;
pub mod weights;

pub use error::Error;
pub use memory::keep_freed_memory;
pub use model::{ModelInfo, inspect};
pub use pipeline::{Latent, Pipeline, TextEmbedding};
pub use placement::{Placement, Precision};
pub use recipe::{BinMode, DecodeMode, Recipe};

//! The Sana text-to-image pipeline on candle.
//!
//! Runs the released checkpoints of [Sana](https://arxiv.org/abs/2410.10629),
//! [Sana 1.5](https://arxiv.org/abs/2501.18427) and [Sana Sprint](https://arxiv.org/abs/2503.09641) in the diffusers
//! folder layout, unchanged and without Python. Synchronous: no runtime, no network.
//!
//! ```
//! use std::fs::File;
//! use std::io::Write;
//! use std::path::Path;
//!
//! use sana::{Cancel, Pipeline, Recipe};
//!
//! fn draw(model: &Path, prompt: &str, file: File) -> Result<(), Box<dyn std::error::Error>> {
//!     let pipeline = Pipeline::load(model)?;
//!     let recipe = Recipe { seed: 7, width: 256, height: 256, ..Recipe::new(prompt, pipeline.info()) };
//!     let mut png = png::Encoder::new(file, recipe.width, recipe.height);
//!     png.set_color(png::ColorType::Rgb);
//!     let mut writer = png.write_header()?;
//!     let mut stream = writer.stream_writer()?;
//!     pipeline.render(&recipe, &Cancel::default(), &mut |rows: &[u8]| stream.write_all(rows))?;
//!     Ok(stream.finish()?)
//! }
//! # let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/sana-tiny");
//! # draw(&model, "a red circle on a white background", tempfile::tempfile().unwrap()).unwrap();
//! ```
//!
//! [`Pipeline::render_all`] takes many recipes, and tells a [`Sink`] how far each is and hands it the rows as soon as
//! they are final; a [`Cancel`] token stops it from any thread. [`Pipeline::encode`], [`Pipeline::denoise`] and
//! [`Pipeline::decode`] are the same step by step. With [`Memory::Sequential`] only the part at work is in memory. A
//! picture depends on its [`Recipe`] and the weights alone: not on the memory mode, the number of threads, nor on what
//! is rendered before, after or beside it.
//!
//! The parts mirror [the reference pipeline](https://huggingface.co/docs/diffusers/api/pipelines/sana): [`prompt`],
//! [`text_encoder`], [`noise`], [`scheduler`], [`transformer`], [`autoencoder`], [`size`] and [`postprocess`].
//! [`check`] compares each of them with fixtures of the reference.

pub mod autoencoder;
pub mod bench;
pub mod check;
mod checksum;
pub mod config;
mod cpu;
mod cuda;
mod denoise;
mod error;
mod files;
mod memory;
mod model;
pub mod noise;
pub mod ops;
mod pipeline;
mod placement;
pub mod plan;
pub mod postprocess;
mod progress;
pub mod prompt;
mod recipe;
mod render;
pub mod scheduler;
pub mod size;
pub mod text_encoder;
pub mod transformer;
pub mod weights;

pub use config::Family;
pub use error::Error;
pub use memory::{Memory, keep_freed_memory};
pub use model::{ModelInfo, Outline, inspect, outline};
pub use pipeline::{Latent, Pipeline, TextEmbedding};
pub use placement::{Placement, Precision};
pub use progress::{Cancel, Progress, Sink};
pub use recipe::{BinMode, DecodeMode, Recipe};

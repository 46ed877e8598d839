//! The Sana text-to-image pipeline on candle.

use std::ops::ControlFlow;
use std::path::Path;

pub mod linear;

/// Whether a wanted size is rendered as asked or at the nearest trained size, then resized and cropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BinMode {
    /// A multiple of 32 as asked, any other size at the nearest bin.
    Auto,
    /// At the nearest bin.
    Always,
    /// As asked; a size that is no multiple of 32 is refused.
    Never,
}

/// How a latent becomes a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecodeMode {
    /// In row bands, equal to the whole decode.
    Exact,
    /// Overlapping tiles blended as diffusers does it.
    Blend,
    /// All at once.
    Whole,
}

/// All that a picture depends on, besides the weights.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Recipe {
    /// What to show.
    pub prompt: String,
    /// What not to show; used when `guidance` is above 1.
    pub negative_prompt: String,
    /// Seed of the starting noise; its low 32 bits count.
    pub seed: u64,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Denoising steps.
    pub steps: u32,
    /// Classifier-free guidance scale.
    pub guidance: f64,
    /// How the size is met.
    pub bin: BinMode,
    /// How the latent is decoded.
    pub decode: DecodeMode,
}

/// What a model folder holds.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelInfo {
    /// Folder name.
    pub name: String,
    /// Over the names and bytes of all weight files and configurations, in hex.
    pub weights_sha256: String,
    /// Side in pixels of the square that it was trained for.
    pub native_size: u32,
    /// Bytes of weights on disk.
    pub weights_bytes: u64,
    /// Such as `flow-dpm-solver++`.
    pub scheduler: &'static str,
}

/// Why a model could not be loaded or a picture not be rendered. Every text names the file, the tensor or
/// the setting and says what to try.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the model is missing, broken or not of a Sana model.
    #[error("{0}")]
    Model(String),
    /// The prompt cannot be rendered.
    #[error("{0}")]
    Prompt(String),
    /// The size cannot be rendered.
    #[error("{0}")]
    Size(String),
    /// Another setting is out of its range.
    #[error("{0}")]
    Setting(String),
    /// A latent is not finite, or the picture has one colour.
    #[error("{0}")]
    Numeric(String),
    /// The device is out of memory.
    #[error("{0}")]
    OutOfMemory(String),
    /// Told to stop.
    #[error("cancelled")]
    Cancelled,
    /// Whoever takes the rows could not.
    #[error("write picture rows: {0}")]
    Sink(#[source] std::io::Error),
    /// Anything else from the tensor library.
    #[error("{0}")]
    Tensor(#[from] candle_core::Error),
}

/// Reads configurations and headers of a model folder and checks that all parts are there and whole,
/// without reading the weights into memory. The checksum reads every file once.
pub fn inspect(_dir: &Path) -> Result<ModelInfo, Error> {
    todo!()
}

/// Text of a prompt pair as the transformer takes it.
#[derive(Debug)]
pub struct TextEmbedding {}

/// A denoised latent.
#[derive(Debug)]
pub struct Latent {}

/// A loaded model.
#[derive(Debug)]
pub struct Pipeline {}

impl Pipeline {
    /// Loads a folder in the diffusers layout, on the CPU in f32.
    pub fn load(_dir: &Path) -> Result<Self, Error> {
        todo!()
    }
    /// What was loaded.
    pub fn info(&self) -> &ModelInfo {
        todo!()
    }
    /// Width and height that the recipe is rendered at before it is resized and cropped.
    pub fn compute_size(&self, _recipe: &Recipe) -> Result<(u32, u32), Error> {
        todo!()
    }
    /// Encodes the prompt, and the negative prompt when guidance is above 1.
    pub fn encode(&self, _recipe: &Recipe) -> Result<TextEmbedding, Error> {
        todo!()
    }
    /// Runs all denoising steps; `on_step(done)` is called after each and stops the work with `Break`.
    pub fn denoise(
        &self,
        _recipe: &Recipe,
        _text: &TextEmbedding,
        _on_step: &mut dyn FnMut(u32) -> ControlFlow<()>,
    ) -> Result<Latent, Error> {
        todo!()
    }
    /// Decodes into `recipe.height` rows of `recipe.width * 3` bytes RGB, handed out in order as soon as they
    /// are final, one or more whole rows a call.
    pub fn decode(
        &self,
        _recipe: &Recipe,
        _latent: &Latent,
        _rows: &mut dyn FnMut(&[u8]) -> std::io::Result<()>,
    ) -> Result<(), Error> {
        todo!()
    }
}

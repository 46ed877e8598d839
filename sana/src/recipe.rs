//! All that a picture depends on, besides the weights.

use crate::ModelInfo;
use crate::autoencoder::Tiling;

/// Whether a wanted size is rendered as asked or at the nearest trained size, then resized and cropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecodeMode {
    /// In row bands, equal to the whole decode.
    Exact,
    /// Overlapping tiles blended as diffusers does it.
    Blend,
    /// All at once.
    Whole,
}

impl From<DecodeMode> for Tiling {
    fn from(mode: DecodeMode) -> Self {
        match mode {
            DecodeMode::Exact => Self::Bands(None),
            DecodeMode::Blend => Self::BLEND,
            DecodeMode::Whole => Self::Whole,
        }
    }
}

/// All that a picture depends on, besides the weights.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Recipe {
    /// What to show.
    pub prompt: String,
    /// What not to show; used when `guidance` is above 1. Sprint models take none and ignore it.
    pub negative_prompt: String,
    /// Seed of the starting noise; its low 32 bits count.
    pub seed: u64,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Denoising steps.
    pub steps: u32,
    /// Guidance scale, 0 or more: of classifier-free guidance, or as a Sprint model is told it.
    pub guidance: f64,
    /// How the size is met.
    pub bin: BinMode,
    /// How the latent is decoded.
    pub decode: DecodeMode,
}

impl Recipe {
    /// A picture of the model's native size with its default steps and guidance, seed 0, no negative prompt.
    pub fn new(prompt: &str, model: &ModelInfo) -> Self {
        Self {
            prompt: prompt.to_owned(),
            negative_prompt: String::new(),
            seed: 0,
            width: model.native_size,
            height: model.native_size,
            steps: model.family.steps(),
            guidance: model.family.guidance(),
            bin: BinMode::Auto,
            decode: DecodeMode::Exact,
        }
    }
}

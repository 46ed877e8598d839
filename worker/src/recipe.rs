//! From a leased image to its recipe, and from a failure to its class.

use sana::{BinMode, DecodeMode, ModelInfo, Recipe};
use sanafarm_proto::v1::{self, ErrorClass, LeasedImage, Settings};
use serde::{Deserialize, Serialize};

/// All that is needed to render a picture again. Written into the picture and into the history.
///
/// Nothing in it tells when, where or by whom the picture was rendered: the same recipe gives the same file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// `sanafarm`.
    pub program: String,
    /// Of the program.
    pub version: String,
    /// Name of the model's folder.
    pub model: String,
    /// Over the model's files, in hex.
    pub weights_sha256: String,
    /// As the list gave it.
    pub prompt: String,
    /// Empty for none.
    pub negative_prompt: String,
    /// Of the noise that the picture began as.
    pub seed: u64,
    /// Of the picture, in pixels.
    pub width: u32,
    /// Of the picture, in pixels.
    pub height: u32,
    /// Width that was rendered before the picture was resized and cropped.
    pub compute_width: u32,
    /// Height that was rendered before the picture was resized and cropped.
    pub compute_height: u32,
    /// Denoising steps.
    pub steps: u32,
    /// Scale of the guidance.
    pub guidance: f64,
    /// `flow-dpm-solver++`, `flow-euler` or `scm`.
    pub scheduler: String,
    /// What the device computed in: `f32` or `bf16`.
    pub dtype: String,
    /// How the rendered size follows from the size of the picture.
    pub bin: BinMode,
    /// How the latent became a picture.
    pub decode: DecodeMode,
    /// Of a lossy file, 1 to 100; none where no pixel was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<u8>,
}

impl Provenance {
    pub(crate) fn new(recipe: &Recipe, model: &ModelInfo, compute: (u32, u32), dtype: &str) -> Self {
        Self {
            program: "sanafarm".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            model: model.name.clone(),
            weights_sha256: model.weights_sha256.clone(),
            prompt: recipe.prompt.clone(),
            negative_prompt: recipe.negative_prompt.clone(),
            seed: recipe.seed,
            width: recipe.width,
            height: recipe.height,
            compute_width: compute.0,
            compute_height: compute.1,
            steps: recipe.steps,
            guidance: recipe.guidance,
            scheduler: model.scheduler.into(),
            dtype: dtype.into(),
            bin: recipe.bin,
            decode: recipe.decode,
            quality: None,
        }
    }

    /// What a model renders it with.
    pub(crate) fn recipe(&self) -> Recipe {
        Recipe {
            prompt: self.prompt.clone(),
            negative_prompt: self.negative_prompt.clone(),
            seed: self.seed,
            width: self.width,
            height: self.height,
            steps: self.steps,
            guidance: self.guidance,
            bin: self.bin,
            decode: self.decode,
        }
    }

    /// As one line of JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers always serialize")
    }

    /// Whether the other picture was made from the same recipe, by whatever version of the program.
    pub fn same_recipe(&self, other: &Self) -> bool {
        Self { version: other.version.clone(), ..self.clone() } == *other
    }
}

/// What a leased image is rendered with; the failure names the field that came from a newer coordinator.
pub(crate) fn recipe(settings: &Settings, image: &LeasedImage) -> Result<Recipe, Failure> {
    let unknown = |field: &str, value: i32| {
        let message =
            format!("the coordinator sent {field} {value}, unknown to this worker: update the worker");
        Failure::new(ErrorClass::Internal, message)
    };
    let bin = v1::BinMode::try_from(settings.bin).map_err(|_| unknown("bin mode", settings.bin))?;
    let bin = match bin {
        v1::BinMode::Auto => BinMode::Auto,
        v1::BinMode::Always => BinMode::Always,
        v1::BinMode::Never => BinMode::Never,
        v1::BinMode::Unspecified => return Err(unknown("bin mode", settings.bin)),
    };
    let decode =
        v1::DecodeMode::try_from(settings.decode).map_err(|_| unknown("decode mode", settings.decode))?;
    let decode = match decode {
        v1::DecodeMode::Exact => DecodeMode::Exact,
        v1::DecodeMode::Blend => DecodeMode::Blend,
        v1::DecodeMode::Whole => DecodeMode::Whole,
        v1::DecodeMode::Unspecified => return Err(unknown("decode mode", settings.decode)),
    };
    Ok(Recipe {
        prompt: image.prompt.clone(),
        negative_prompt: image.negative_prompt.clone(),
        seed: image.seed,
        width: settings.width,
        height: settings.height,
        steps: settings.steps,
        guidance: settings.guidance,
        bin,
        decode,
    })
}

/// Why an image failed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Failure {
    pub(crate) class: ErrorClass,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into() }
    }
}

impl From<&sana::Error> for Failure {
    fn from(error: &sana::Error) -> Self {
        let class = match error {
            sana::Error::Model(_) => ErrorClass::Model,
            sana::Error::Prompt(_) => ErrorClass::Prompt,
            sana::Error::Size(_) => ErrorClass::Size,
            sana::Error::Numeric(_) | sana::Error::NotFinite { .. } => ErrorClass::BadImage,
            sana::Error::OutOfMemory(_) => ErrorClass::OutOfMemory,
            sana::Error::Sink(_) => ErrorClass::Encode,
            // The coordinator checks settings at submission, and whoever cancels asks for no result.
            sana::Error::Setting(_)
            | sana::Error::Cancelled
            | sana::Error::Device(_)
            | sana::Error::Tensor(_) => ErrorClass::Internal,
        };
        Self::new(class, error.to_string())
    }
}

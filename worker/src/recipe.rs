//! From a leased image to its recipe, and from a failure to its class.

use sana::{BinMode, DecodeMode, ModelInfo, Recipe};
use sanafarm_proto::v1::{self, ErrorClass, LeasedImage, Settings};
use serde::{Deserialize, Serialize};

/// All that is needed to render a picture again. Written into the picture and into the history.
///
/// Nothing in it tells when, where or by whom the picture was rendered: the same recipe gives the same file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Provenance {
    pub(crate) program: String,
    pub(crate) version: String,
    pub(crate) model: String,
    pub(crate) weights_sha256: String,
    pub(crate) prompt: String,
    pub(crate) negative_prompt: String,
    pub(crate) seed: u64,
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// Size that was rendered before the picture was resized and cropped.
    pub(crate) compute_width: u32,
    pub(crate) compute_height: u32,
    pub(crate) steps: u32,
    pub(crate) guidance: f64,
    pub(crate) scheduler: String,
    pub(crate) dtype: String,
    pub(crate) bin: BinMode,
    pub(crate) decode: DecodeMode,
}

impl Provenance {
    pub(crate) fn new(recipe: &Recipe, model: &ModelInfo, compute: (u32, u32)) -> Self {
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
            dtype: "f32".into(),
            bin: recipe.bin,
            decode: recipe.decode,
        }
    }

    /// As one line of JSON.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers always serialize")
    }

    /// Whether the other picture was made from the same recipe, by whatever version of the program.
    pub(crate) fn same_recipe(&self, other: &Self) -> bool {
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

impl From<sana::Error> for Failure {
    fn from(error: sana::Error) -> Self {
        let class = match &error {
            sana::Error::Model(_) => ErrorClass::Model,
            sana::Error::Prompt(_) => ErrorClass::Prompt,
            sana::Error::Size(_) => ErrorClass::Size,
            sana::Error::Numeric(_) | sana::Error::NotFinite { .. } => ErrorClass::Numeric,
            sana::Error::OutOfMemory(_) => ErrorClass::OutOfMemory,
            sana::Error::Sink(_) => ErrorClass::Encode,
            // The coordinator checks settings at submission, and whoever cancels asks for no result.
            sana::Error::Setting(_) | sana::Error::Cancelled | sana::Error::Tensor(_) => ErrorClass::Internal,
        };
        Self::new(class, error.to_string())
    }
}

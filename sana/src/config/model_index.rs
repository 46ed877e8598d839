use std::path::Path;

use serde_json::Value;

use super::{Keys, read_json};
use crate::Error;

/// Which of the released families a model is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Sana 1.0 and 1.5: many steps, guided by the difference of two calls.
    Sana,
    /// Sana Sprint: 1 to 4 steps; the model is told the guidance scale and takes no negative prompt.
    Sprint,
}

impl Family {
    /// Denoising steps that its pictures are made with by default.
    pub fn steps(self) -> u32 {
        match self {
            Self::Sana => 20,
            Self::Sprint => 2,
        }
    }

    /// Guidance scale that its pictures are made with by default.
    pub fn guidance(self) -> f64 {
        4.5
    }

    /// Whether a negative prompt changes its pictures.
    pub fn takes_negative_prompt(self) -> bool {
        self == Self::Sana
    }
}

/// `model_index.json`: which pipeline a folder holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelIndex {
    /// Of `SanaPipeline` or `SanaSprintPipeline`.
    pub family: Family,
    /// Class of the scheduler, such as `DPMSolverMultistepScheduler`.
    pub scheduler: String,
}

impl ModelIndex {
    /// Reads the file of this name in `model` and refuses what is no Sana pipeline.
    pub fn open(model: &Path) -> Result<Self, Error> {
        let path = model.join("model_index.json");
        if !path.is_file() {
            return Err(Error::Model(format!(
                "{} is missing; {} is no model folder in the diffusers layout",
                path.display(),
                model.display()
            )));
        }
        let keys = Keys::new(read_json(&path)?, &path)?;
        let pipeline = keys.or("_class_name", Value::Null)?;
        let (family, schedulers): (_, &[&str]) = match pipeline.as_str() {
            Some("SanaPipeline") => {
                (Family::Sana, &["DPMSolverMultistepScheduler", "FlowMatchEulerDiscreteScheduler"])
            }
            Some("SanaSprintPipeline") => (Family::Sprint, &["SCMScheduler"]),
            Some(_) | None => {
                let why = "this is no Sana model; only SanaPipeline and SanaSprintPipeline are supported";
                return Err(keys.error("_class_name", &pipeline, why));
            }
        };
        let class = |part: &str, wanted: &[&str]| {
            let value = keys.or(part, Value::Null)?;
            match value.get(1).and_then(Value::as_str) {
                Some(class) if wanted.contains(&class) => Ok(class.to_owned()),
                Some(_) | None => {
                    Err(keys.error(part, &value, format!("only {} is supported", wanted.join(" or "))))
                }
            }
        };
        class("transformer", &["SanaTransformer2DModel"])?;
        class("vae", &["AutoencoderDC"])?;
        let scheduler = class("scheduler", schedulers)?;
        // What these two are is told by their own files.
        keys.finish(&["text_encoder", "tokenizer"])?;
        Ok(Self { family, scheduler })
    }
}

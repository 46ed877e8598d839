use std::path::Path;

use serde_json::Value;

use super::{Keys, read_json};
use crate::Error;

/// `model_index.json`: which pipeline a folder holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelIndex {
    /// Such as `SanaPipeline`.
    pub class_name: String,
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
        if keys.raw("_class_name").is_some_and(|name| name == "SanaSprintPipeline") {
            return Err(Error::Model(format!(
                "{} is a Sana Sprint model; Sprint comes in a later version, use a Sana 1.0 or 1.5 model",
                model.display()
            )));
        }
        keys.only("_class_name", Value::Null, "SanaPipeline")?;
        for (part, class) in [
            ("transformer", "SanaTransformer2DModel"),
            ("vae", "AutoencoderDC"),
            ("scheduler", "DPMSolverMultistepScheduler"),
        ] {
            let value = keys.or(part, Value::Null)?;
            if value.get(1).is_none_or(|name| name != class) {
                return Err(keys.error(part, &value, format!("only {class} is supported")));
            }
        }
        Ok(Self { class_name: "SanaPipeline".to_owned() })
    }
}

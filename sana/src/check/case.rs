use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::config::read_json;
use crate::weights::Weights;
use crate::{Error, Placement};

/// Allowed where a fixture states neither a tolerance nor its own noise.
const DEFAULT_TOLERANCE: f64 = 1e-4;

/// A fixture folder in memory.
pub(super) struct Case {
    pub(super) dir: PathBuf,
    /// Where models are loaded to.
    pub(super) placement: Placement,
    pub(super) config: Value,
    tensors: BTreeMap<String, Tensor>,
}

/// What reports call a fixture: the name of its folder.
pub(super) fn name(dir: &Path) -> String {
    dir.file_name().unwrap_or(dir.as_os_str()).to_string_lossy().into_owned()
}

impl Case {
    pub(super) fn open(dir: &Path, placement: &Placement) -> Result<Self, Error> {
        let config = read_json(&dir.join("config.json"))?;
        let path = dir.join("io.safetensors");
        let tensors = candle_core::safetensors::load(&path, &Device::Cpu)
            .map_err(|e| Error::Model(format!("read fixture tensors {}: {e}", path.display())))?;
        let tensors = tensors.into_iter().collect();
        Ok(Self { dir: dir.to_path_buf(), placement: placement.clone(), config, tensors })
    }

    /// File that errors about the configuration name.
    pub(super) fn config_path(&self) -> PathBuf {
        self.dir.join("config.json")
    }

    /// A key of the configuration.
    pub(super) fn config<T: DeserializeOwned>(&self, key: &str) -> Result<T, Error> {
        let value = self.config.get(key).unwrap_or(&Value::Null);
        T::deserialize(value)
            .map_err(|e| Error::Model(format!("{key} in {}: {e}", self.config_path().display())))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    pub(super) fn tensor(&self, name: &str) -> Result<&Tensor, Error> {
        self.tensors.get(name).ok_or_else(|| {
            Error::Model(format!("tensor {name} is missing in {}", self.dir.join("io.safetensors").display()))
        })
    }

    /// The middle parts of all names `start` + middle + `end`.
    pub(super) fn names_between<'a>(
        &'a self,
        start: &'a str,
        end: &'a str,
    ) -> impl Iterator<Item = &'a str> + 'a {
        self.tensors.keys().filter_map(move |name| name.strip_prefix(start)?.strip_suffix(end))
    }

    pub(super) fn weights(&self) -> Result<Weights, Error> {
        Ok(Weights::from_file(&self.dir.join("weights.safetensors"))?.placed(&self.placement))
    }

    /// The tolerance of a module's result inside the network. The stated noise is that of the output; inside, where
    /// values are larger, rounding is larger in proportion. (In a fixture of seed 7 the library itself is 7.9e-5 from
    /// f64 at values of 72, with a noise of 2.9e-6 at outputs of 2.)
    pub(super) fn tolerance_inside(&self, key: &str, want: &Tensor) -> Result<f64, Error> {
        let tolerance = self.tolerance(key);
        let stated = self.config.pointer(&format!("/tolerance/{key}")).is_some();
        match self.config.pointer("/noise/max_abs_output").and_then(Value::as_f64) {
            Some(output) if !stated && output > 0.0 => {
                let largest = f64::from(want.abs()?.max_all()?.to_scalar::<f32>()?);
                Ok(tolerance * (largest / output).max(1.0))
            }
            Some(_) | None => Ok(tolerance),
        }
    }

    /// The tolerance that the fixture gives under `key`; else what follows from its noise; else a default.
    pub(super) fn tolerance(&self, key: &str) -> f64 {
        let given = match self.config.pointer(&format!("/tolerance/{key}")) {
            Some(Value::Number(number)) => number.as_f64(),
            // Such as "exact", "bit exact" or "2.4e-7 absolute: …".
            Some(Value::String(text)) if text.contains("exact") => Some(0.0),
            Some(Value::String(text)) => text.split_whitespace().next().and_then(|word| word.parse().ok()),
            Some(Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_)) | None => None,
        };
        let noise = self.config.pointer("/noise/max_abs_f32_vs_f64").and_then(Value::as_f64);
        given.or(noise.map(|noise| 20.0 * noise)).unwrap_or(DEFAULT_TOLERANCE)
    }
}

/// The values of a fixture's tensor in order.
pub(super) fn values(tensor: &Tensor) -> Result<Vec<f32>, Error> {
    Ok(tensor.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?)
}

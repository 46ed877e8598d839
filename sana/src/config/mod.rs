//! Configurations of a model folder in the diffusers layout.
//!
//! Keys may have their older or newer spelling and may be absent when the library has a default. A value that changes
//! the arithmetic in a way that is not implemented is refused, since a wrong picture would be the only other sign of it.
//! For the same reason a key that nobody knows is refused, unless its name starts with `_`: such keys are notes of the
//! library.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::Error;
use crate::error::short;

mod autoencoder;
mod known;
mod model_index;
mod scheduler;
mod text_encoder;
mod transformer;

pub use autoencoder::{ActivationKind, AutoencoderConfig, BlockKind, NormKind, StageConfig};
pub use model_index::{Family, ModelIndex};
pub use scheduler::{FlowConfig, SchedulerConfig, ScmConfig};
pub use text_encoder::TextEncoderConfig;
pub use transformer::TransformerConfig;

/// Real ones have a few thousand.
const MAX_BYTES: u64 = 1 << 20;

/// Reads a JSON file, also one with the bare `-Infinity`, `Infinity` and `NaN` that Python writes (read as
/// null).
pub(crate) fn read_json(path: &Path) -> Result<Value, Error> {
    let text = crate::files::read_text(path, MAX_BYTES)
        .map_err(|e| Error::Model(format!("read configuration {}: {e}", path.display())))?;
    serde_json::from_str(&without_bare_numbers(&text))
        .map_err(|e| Error::Model(format!("configuration {} is no JSON: {e}", path.display())))
}

/// Replaces the number names that JSON does not have by `null`, outside strings.
fn without_bare_numbers(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let (mut in_string, mut escaped) = (false, false);
    while let Some(c) = rest.chars().next() {
        if !in_string
            && let Some(name) = ["-Infinity", "Infinity", "NaN"].iter().find(|n| rest.starts_with(**n))
        {
            out.push_str("null");
            rest = &rest[name.len()..];
            continue;
        }
        if c == '"' && !escaped {
            in_string = !in_string;
        }
        escaped = in_string && c == '\\' && !escaped;
        out.push(c);
        rest = &rest[c.len_utf8()..];
    }
    out
}

/// Largest count that a configuration may name: far above every model, and low enough that products of three counts
/// cannot overflow.
const LARGEST_COUNT: usize = 1 << 20;

/// Most layers that a configuration may name.
const MOST_LAYERS: usize = 1024;

/// The keys of one configuration; errors name the file and the key.
struct Keys {
    origin: PathBuf,
    map: Map<String, Value>,
    /// Keys that were asked for, whether they are there or not.
    asked: RefCell<BTreeSet<String>>,
}

impl Keys {
    /// `origin` is the file that errors name.
    fn new(value: Value, origin: &Path) -> Result<Self, Error> {
        match value {
            Value::Object(map) => Ok(Self { origin: origin.to_path_buf(), map, asked: RefCell::default() }),
            other
            @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
                let other = short(other);
                Err(Error::Model(format!("configuration {} is {other} and not an object", origin.display())))
            }
        }
    }

    /// The value as it stands; null counts as absent.
    fn raw(&self, key: &str) -> Option<&Value> {
        self.written(key).filter(|value| !value.is_null())
    }

    /// The value as it stands, also null.
    fn written(&self, key: &str) -> Option<&Value> {
        self.asked.borrow_mut().insert(key.to_owned());
        self.map.get(key)
    }

    /// Refuses a key that nobody asked for. Call it last. `harmless` are further keys, whose values do not change what
    /// is computed here.
    fn finish(&self, harmless: &[&str]) -> Result<(), Error> {
        let asked = self.asked.borrow();
        let unknown = |key: &&String| {
            !key.starts_with('_') && !asked.contains(*key) && !harmless.contains(&key.as_str())
        };
        let Some(key) = self.map.keys().find(unknown) else { return Ok(()) };
        let names = asked.iter().map(String::as_str).chain(harmless.iter().copied());
        let hint = match known::nearest(key, names) {
            Some(name) => format!("did you mean {name}?"),
            None => {
                "it may change the pictures, so it is not passed over; if it does not, remove it".to_owned()
            }
        };
        Err(Error::Model(format!("unknown key {} in {}: {hint}", short(key), self.origin.display())))
    }

    fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Error> {
        self.raw(key)
            .map(|value| T::deserialize(value).map_err(|e| self.error(key, value, short(e))))
            .transpose()
    }

    fn or<T: DeserializeOwned>(&self, key: &str, default: T) -> Result<T, Error> {
        Ok(self.get(key)?.unwrap_or(default))
    }

    /// A count from 1 to [`LARGEST_COUNT`].
    fn count(&self, key: &str, default: usize) -> Result<usize, Error> {
        self.count_to(key, default, LARGEST_COUNT)
    }

    /// A count from 1 to `most`.
    fn count_to(&self, key: &str, default: usize, most: usize) -> Result<usize, Error> {
        match self.or(key, default)? {
            n if (1..=most).contains(&n) => Ok(n),
            n => Err(self.error(key, &Value::from(n), format!("must be 1 to {most}"))),
        }
    }

    /// A finite number above zero, or none.
    fn positive_or_none(&self, key: &str) -> Result<Option<f64>, Error> {
        self.raw(key).is_some().then(|| self.positive(key, 1.0)).transpose()
    }

    /// A finite number above zero.
    fn positive(&self, key: &str, default: f64) -> Result<f64, Error> {
        let value = self.or(key, default)?;
        if value.is_finite() && value > 0.0 {
            return Ok(value);
        }
        Err(self.error(key, &Value::from(value), "must be above 0"))
    }

    /// One value for all of `count` stages, or a list with one for each.
    fn per_stage<T: DeserializeOwned + Clone>(
        &self,
        key: &str,
        default: T,
        count: usize,
    ) -> Result<Vec<T>, Error> {
        let list = match self.raw(key) {
            Some(Value::Array(_)) => self.or(key, Vec::new())?,
            Some(_) | None => vec![self.or(key, default)?; count],
        };
        self.check_stages(key, list, count)
    }

    fn check_stages<T>(&self, key: &str, list: Vec<T>, count: usize) -> Result<Vec<T>, Error> {
        if list.len() == count {
            return Ok(list);
        }
        let value = self.raw(key).cloned().unwrap_or_default();
        Err(self.error(key, &value, format!("must have {count} entries, one for each stage")))
    }

    /// Refuses a value other than `wanted`; an absent one counts as `default`.
    fn only(&self, key: &str, default: impl Into<Value>, wanted: impl Into<Value>) -> Result<(), Error> {
        let value = self.raw(key).cloned().unwrap_or_else(|| default.into());
        let wanted = wanted.into();
        if value == wanted {
            return Ok(());
        }
        let wanted = if wanted.is_null() { "no value".to_owned() } else { wanted.to_string() };
        Err(self.error(key, &value, format!("only {wanted} is supported")))
    }

    fn error(&self, key: &str, value: &Value, why: impl Display) -> Error {
        let value = short(value);
        Error::Model(format!("{key} is {value} in {}: {why}", self.origin.display()))
    }
}

#[cfg(test)]
mod absurd;
#[cfg(test)]
mod tests;

use std::path::Path;

use serde_json::Value;

use super::{Keys, MOST_LAYERS, known, read_json};
use crate::Error;

/// `text_encoder/config.json` of a Gemma-2 model.
#[derive(Clone, Debug, PartialEq)]
pub struct TextEncoderConfig {
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Channels of the model.
    pub hidden_size: usize,
    /// Channels of the feed-forward part.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Heads of queries.
    pub num_attention_heads: usize,
    /// Heads of keys and values, shared by neighbouring query heads.
    pub num_key_value_heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// Of the RMS norms.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Scores are divided by the root of this.
    pub query_pre_attn_scalar: f64,
    /// Scores are bent to stay below this.
    pub attn_logit_softcapping: Option<f64>,
    /// For each layer, how many positions back a token sees, itself included; `None` is all.
    pub windows: Vec<Option<usize>>,
}

impl TextEncoderConfig {
    /// Reads the file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::from_value(read_json(path)?, path)
    }

    /// `origin` is the file that errors name.
    pub fn from_value(value: Value, origin: &Path) -> Result<Self, Error> {
        let keys = Keys::new(value, origin)?;
        keys.only("model_type", Value::Null, "gemma2")?;
        keys.only("attention_bias", false, false)?;
        keys.only("use_bidirectional_attention", false, false)?;
        // Older files have both names; the model reads the second only.
        let activation =
            if keys.raw("hidden_activation").is_some() { "hidden_activation" } else { "hidden_act" };
        keys.only(activation, "gelu_pytorch_tanh", "gelu_pytorch_tanh")?;
        if let Some(scaling) = keys.raw("rope_scaling") {
            return Err(keys.error("rope_scaling", scaling, "only unscaled positions are supported"));
        }
        let config = Self {
            vocab_size: keys.count("vocab_size", 256_000)?,
            hidden_size: keys.count("hidden_size", 2304)?,
            intermediate_size: keys.count("intermediate_size", 9216)?,
            num_hidden_layers: keys.count_to("num_hidden_layers", 26, MOST_LAYERS)?,
            num_attention_heads: keys.count("num_attention_heads", 8)?,
            num_key_value_heads: keys.count("num_key_value_heads", 4)?,
            head_dim: keys.count("head_dim", 256)?,
            rms_norm_eps: keys.positive("rms_norm_eps", 1e-6)?,
            rope_theta: rope_theta(&keys)?,
            query_pre_attn_scalar: keys.positive("query_pre_attn_scalar", 256.0)?,
            attn_logit_softcapping: soft_cap(&keys)?,
            windows: windows(&keys)?,
        };
        if !config.head_dim.is_multiple_of(2) {
            return Err(keys.error("head_dim", &config.head_dim.into(), "must be even for rotary positions"));
        }
        if !config.num_attention_heads.is_multiple_of(config.num_key_value_heads) {
            let why = format!("{} query heads cannot share them evenly", config.num_attention_heads);
            return Err(keys.error("num_key_value_heads", &config.num_key_value_heads.into(), why));
        }
        keys.finish(known::TEXT_ENCODER)?;
        Ok(config)
    }
}

/// The newer place of the base, else the older.
fn rope_theta(keys: &Keys) -> Result<f64, Error> {
    let Some(parameters) = keys.raw("rope_parameters") else {
        return keys.positive("rope_theta", 10_000.0);
    };
    let inner = Keys::new(parameters.clone(), &keys.origin)?;
    inner.only("rope_type", "default", "default")?;
    let theta = inner.positive("rope_theta", keys.positive("rope_theta", 10_000.0)?)?;
    inner.finish(&[])?;
    Ok(theta)
}

/// An absent key means the library's default, a null no cap at all.
fn soft_cap(keys: &Keys) -> Result<Option<f64>, Error> {
    let key = "attn_logit_softcapping";
    if keys.written(key).is_some_and(Value::is_null) {
        return Ok(None);
    }
    keys.positive(key, 50.0).map(Some)
}

fn windows(keys: &Keys) -> Result<Vec<Option<usize>>, Error> {
    let layers = keys.count_to("num_hidden_layers", 26, MOST_LAYERS)?;
    let window = match keys.written("sliding_window") {
        Some(Value::Null) => None,
        Some(_) | None => Some(keys.count("sliding_window", 4096)?),
    };
    let Some(types) = keys.get::<Vec<String>>("layer_types")? else {
        return Ok((0..layers).map(|layer| if layer % 2 == 0 { window } else { None }).collect());
    };
    keys.check_stages("layer_types", types, layers)?
        .into_iter()
        .map(|kind| match kind.as_str() {
            "sliding_attention" => Ok(window),
            "full_attention" => Ok(None),
            _ => Err(keys.error("layer_types", &kind.into(), "is no kind of attention that Gemma-2 has")),
        })
        .collect()
}

use std::path::Path;

use serde_json::Value;

use super::{Keys, LARGEST_COUNT, MOST_LAYERS, read_json};
use crate::Error;

/// `transformer/config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct TransformerConfig {
    /// Latent channels that go in.
    pub in_channels: usize,
    /// Latent channels that come out.
    pub out_channels: usize,
    /// Heads of the linear self-attention.
    pub num_attention_heads: usize,
    /// Channels of such a head.
    pub attention_head_dim: usize,
    /// Blocks.
    pub num_layers: usize,
    /// Heads of the cross-attention to the text.
    pub num_cross_attention_heads: usize,
    /// Channels of such a head.
    pub cross_attention_head_dim: usize,
    /// Channels of a text embedding.
    pub caption_channels: usize,
    /// Channels of the feed-forward part over the channels of the model.
    pub mlp_ratio: f64,
    /// Of the layer norms.
    pub norm_eps: f64,
    /// Side of the latent that it was trained for, in latent pixels; 1 latent pixel is 32 pixels.
    pub sample_size: usize,
    /// Scale of the positional table; without one there is no table.
    pub interpolation_scale: Option<f64>,
    /// Whether queries and keys pass an RMS norm over all heads (Sana 1.5 and Sprint).
    pub qk_norm: bool,
    /// Factor on the timestep.
    pub timestep_scale: f64,
    /// Factor on the guidance scale, of a model that is told it (Sprint).
    pub guidance_scale: Option<f64>,
}

impl TransformerConfig {
    /// Reads the file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::from_value(read_json(path)?, path)
    }

    /// `origin` is the file that errors name.
    pub fn from_value(value: Value, origin: &Path) -> Result<Self, Error> {
        let keys = Keys::new(value, origin)?;
        keys.only("_class_name", "SanaTransformer2DModel", "SanaTransformer2DModel")?;
        keys.only("patch_size", 1, 1)?;
        keys.only("attention_bias", false, false)?;
        keys.only("norm_elementwise_affine", false, false)?;
        let guidance_embeds = keys.or("guidance_embeds", false)?;
        let guidance_scale = keys.positive("guidance_embeds_scale", 0.1)?;
        let timestep_scale = keys.positive("timestep_scale", 1.0)?;
        if guidance_embeds && timestep_scale != 1.0 {
            // The library does not use it on the times that such a model is told.
            let why = "only 1 is supported with guidance_embeds";
            return Err(keys.error("timestep_scale", &timestep_scale.into(), why));
        }
        let qk_norm = keys.raw("qk_norm").is_some();
        if qk_norm {
            keys.only("qk_norm", Value::Null, "rms_norm_across_heads")?;
        }
        let in_channels = keys.count("in_channels", 32)?;
        let config = Self {
            in_channels,
            out_channels: keys.count("out_channels", in_channels)?,
            num_attention_heads: keys.count("num_attention_heads", 70)?,
            attention_head_dim: keys.count("attention_head_dim", 32)?,
            num_layers: keys.count_to("num_layers", 20, MOST_LAYERS)?,
            num_cross_attention_heads: keys.count("num_cross_attention_heads", 20)?,
            cross_attention_head_dim: keys.count("cross_attention_head_dim", 112)?,
            caption_channels: keys.count("caption_channels", 2304)?,
            mlp_ratio: keys.positive("mlp_ratio", 2.5)?,
            norm_eps: keys.positive("norm_eps", 1e-6)?,
            sample_size: keys.count("sample_size", 32)?,
            interpolation_scale: keys.positive_or_none("interpolation_scale")?,
            qk_norm,
            timestep_scale,
            guidance_scale: guidance_embeds.then_some(guidance_scale),
        };
        // The projected text and the latent share their width in the cross-attention.
        let width = config.width();
        keys.only("cross_attention_dim", width, width)?;
        let cross = config.num_cross_attention_heads * config.cross_attention_head_dim;
        if cross != width {
            let why = format!("with {} heads that is {cross}, not {width}", config.num_cross_attention_heads);
            return Err(keys.error("cross_attention_head_dim", &config.cross_attention_head_dim.into(), why));
        }
        if config.mlp_ratio * width as f64 >= LARGEST_COUNT as f64 {
            let why = format!("the feed-forward part must have less than {LARGEST_COUNT} channels");
            return Err(keys.error("mlp_ratio", &config.mlp_ratio.into(), why));
        }
        keys.finish(&["dropout"])?;
        Ok(config)
    }

    /// Channels of the model.
    pub fn width(&self) -> usize {
        self.num_attention_heads * self.attention_head_dim
    }

    /// Channels of the feed-forward part, of which the expanding convolution makes twice as many.
    pub fn hidden_width(&self) -> usize {
        (self.mlp_ratio * self.width() as f64) as usize
    }
}

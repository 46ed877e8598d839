use std::path::Path;

use serde_json::Value;

use super::{Keys, known, read_json};
use crate::Error;

/// What the blocks of a stage are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
pub enum BlockKind {
    /// Two 3x3 convolutions.
    ResBlock,
    /// Linear attention at several scales, then a gated convolution.
    EfficientViTBlock,
}

/// `vae/config.json`, as far as the decoder needs it. Lists go from the stage with the size of the picture to
/// the stage with the size of the latent.
#[derive(Clone, Debug, PartialEq)]
pub struct AutoencoderConfig {
    /// Channels of a picture.
    pub in_channels: usize,
    /// Channels of a latent.
    pub latent_channels: usize,
    /// Channels of an attention head.
    pub attention_head_dim: usize,
    /// Blocks of each stage.
    pub decoder_block_types: Vec<BlockKind>,
    /// Channels of each stage.
    pub decoder_block_out_channels: Vec<usize>,
    /// Number of blocks of each stage.
    pub decoder_layers_per_block: Vec<usize>,
    /// Kernel sizes of the extra attention scales of each stage.
    pub decoder_qkv_multiscales: Vec<Vec<usize>>,
    /// A latent is divided by this before it is decoded.
    pub scaling_factor: f64,
}

impl AutoencoderConfig {
    /// Reads the file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::from_value(read_json(path)?, path)
    }

    /// `origin` is the file that errors name.
    pub fn from_value(value: Value, origin: &Path) -> Result<Self, Error> {
        let keys = Keys::new(value, origin)?;
        keys.only("_class_name", "AutoencoderDC", "AutoencoderDC")?;
        keys.only("in_channels", 3, 3)?;
        keys.only("upsample_block_type", "pixel_shuffle", "interpolate")?;
        keys.only("decoder_in_shortcut", true, true)?;
        keys.only("decoder_conv_act_fn", "relu", "relu")?;
        let widths = keys.or("decoder_block_out_channels", vec![128, 256, 512, 512, 1024, 1024])?;
        let stages = widths.len();
        if stages == 0 || widths.contains(&0) {
            return Err(keys.error("decoder_block_out_channels", &widths.into(), "must all be at least 1"));
        }
        let layers = keys.or("decoder_layers_per_block", vec![3; stages])?;
        if layers.first() == Some(&0) {
            let why = "a first stage without blocks is not supported";
            return Err(keys.error("decoder_layers_per_block", &layers.into(), why));
        }
        let scales = match keys.raw("decoder_qkv_multiscales") {
            Some(_) => keys.or("decoder_qkv_multiscales", Vec::new())?,
            None => (0..stages).map(|stage| if stage < 3 { vec![] } else { vec![5] }).collect(),
        };
        for (key, wanted) in [("decoder_norm_types", "rms_norm"), ("decoder_act_fns", "silu")] {
            let values: Vec<String> = keys.per_stage(key, wanted.to_owned(), stages)?;
            if let Some(other) = values.into_iter().find(|value| value != wanted) {
                return Err(keys.error(key, &other.into(), format!("only {wanted:?} is supported")));
            }
        }
        let config = Self {
            in_channels: 3,
            latent_channels: keys.count("latent_channels", 32)?,
            attention_head_dim: keys.count("attention_head_dim", 32)?,
            decoder_block_types: keys.per_stage("decoder_block_types", BlockKind::ResBlock, stages)?,
            decoder_block_out_channels: widths,
            decoder_layers_per_block: keys.check_stages("decoder_layers_per_block", layers, stages)?,
            decoder_qkv_multiscales: keys.check_stages("decoder_qkv_multiscales", scales, stages)?,
            scaling_factor: keys.positive("scaling_factor", 1.0)?,
        };
        keys.finish(known::ENCODER)?;
        Ok(config)
    }
}

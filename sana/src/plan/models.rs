//! Configurations to plan with: those of a folder, or of a released checkpoint by its name.

use std::path::Path;

use serde_json::{Value, json};

use crate::Error;
use crate::config::{AutoencoderConfig, TextEncoderConfig, TransformerConfig};

/// What a plan needs to know of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// Its name.
    pub name: String,
    /// Text encoder.
    pub text_encoder: TextEncoderConfig,
    /// Transformer.
    pub transformer: TransformerConfig,
    /// Of which the decoder counts.
    pub autoencoder: AutoencoderConfig,
}

/// A row of the reference's table of checkpoints (section 1).
struct Released {
    /// Repository without its owner and the ending `_diffusers`.
    name: &'static str,
    layers: usize,
    heads: usize,
    cross: (usize, usize),
    sample_size: usize,
    interpolation_scale: Option<f64>,
    qk_norm: bool,
    guidance: bool,
}

const fn released(
    name: &'static str,
    (layers, heads, cross): (usize, usize, (usize, usize)),
    sample_size: usize,
    interpolation_scale: Option<f64>,
) -> Released {
    Released { name, layers, heads, cross, sample_size, interpolation_scale, qk_norm: false, guidance: false }
}

impl Released {
    const fn normed(self, guidance: bool) -> Self {
        Self { qk_norm: true, guidance, ..self }
    }
}

const SMALL: (usize, usize, (usize, usize)) = (28, 36, (16, 72));
const LARGE: (usize, usize, (usize, usize)) = (20, 70, (20, 112));
const LARGEST: (usize, usize, (usize, usize)) = (60, 70, (20, 112));

const RELEASED: &[Released] = &[
    released("Sana_600M_512px", SMALL, 16, None),
    released("Sana_600M_1024px", SMALL, 32, None),
    released("Sana_1600M_512px", LARGE, 16, None),
    released("Sana_1600M_1024px", LARGE, 32, None),
    released("Sana_1600M_2Kpx_BF16", LARGE, 64, Some(1.0)),
    released("Sana_1600M_4Kpx_BF16", LARGE, 128, Some(2.0)),
    released("SANA1.5_1.6B_1024px", LARGE, 32, None).normed(false),
    released("SANA1.5_4.8B_1024px", LARGEST, 32, None).normed(false),
    released("Sana_Sprint_0.6B_1024px", SMALL, 32, None).normed(true),
    released("Sana_Sprint_1.6B_1024px", LARGE, 32, None).normed(true),
];

/// Names that [`Model::named`] knows.
pub fn names() -> impl Iterator<Item = &'static str> {
    RELEASED.iter().map(|released| released.name)
}

impl Model {
    /// Reads the configurations of a model folder; the weights need not be there.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let part = |name: &str| dir.join(name).join("config.json");
        Ok(Self {
            name: dir.file_name().unwrap_or(dir.as_os_str()).to_string_lossy().into_owned(),
            text_encoder: TextEncoderConfig::open(&part("text_encoder"))?,
            transformer: TransformerConfig::open(&part("transformer"))?,
            autoencoder: AutoencoderConfig::open(&part("vae"))?,
        })
    }

    /// A released checkpoint. An unknown name is an error that lists those that are known.
    pub fn named(name: &str) -> Result<Self, Error> {
        let plain = name.strip_suffix("_diffusers").unwrap_or(name);
        let Some(released) = RELEASED.iter().find(|released| released.name == plain) else {
            let known: Vec<_> = names().collect();
            return Err(Error::Setting(format!(
                "no released model is called {name}; known are {}",
                known.join(", ")
            )));
        };
        let origin = Path::new(released.name);
        Ok(Self {
            name: released.name.to_owned(),
            text_encoder: TextEncoderConfig::from_value(json!({ "model_type": "gemma2" }), origin)?,
            transformer: TransformerConfig::from_value(transformer(released), origin)?,
            autoencoder: AutoencoderConfig::from_value(autoencoder(), origin)?,
        })
    }
}

fn transformer(released: &Released) -> Value {
    let width = released.heads * 32;
    json!({
        "_class_name": "SanaTransformer2DModel",
        "in_channels": 32,
        "out_channels": 32,
        "num_attention_heads": released.heads,
        "attention_head_dim": 32,
        "num_layers": released.layers,
        "num_cross_attention_heads": released.cross.0,
        "cross_attention_head_dim": released.cross.1,
        "cross_attention_dim": width,
        "caption_channels": 2304,
        "mlp_ratio": 2.5,
        "sample_size": released.sample_size,
        "interpolation_scale": released.interpolation_scale,
        "qk_norm": released.qk_norm.then_some("rms_norm_across_heads"),
        "guidance_embeds": released.guidance,
    })
}

/// DC-AE f32c32 sana-1.0 and 1.1, which all of them use.
fn autoencoder() -> Value {
    let types =
        ["ResBlock", "ResBlock", "ResBlock", "EfficientViTBlock", "EfficientViTBlock", "EfficientViTBlock"];
    let widths = [128, 256, 512, 512, 1024, 1024];
    let scales = json!([[], [], [], [5], [5], [5]]);
    json!({
        "_class_name": "AutoencoderDC",
        "in_channels": 3,
        "latent_channels": 32,
        "attention_head_dim": 32,
        "encoder_block_types": types,
        "decoder_block_types": types,
        "encoder_block_out_channels": widths,
        "decoder_block_out_channels": widths,
        "encoder_layers_per_block": [2, 2, 2, 3, 3, 3],
        "decoder_layers_per_block": [3, 3, 3, 3, 3, 3],
        "encoder_qkv_multiscales": scales,
        "decoder_qkv_multiscales": scales,
        "downsample_block_type": "Conv",
        "upsample_block_type": "interpolate",
        "decoder_norm_types": "rms_norm",
        "decoder_act_fns": "silu",
        "scaling_factor": 0.41407,
    })
}

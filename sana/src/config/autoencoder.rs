use std::path::Path;

use serde_json::Value;

use super::{Keys, read_json};
use crate::Error;

/// Stages of a side at most: a latent pixel of 512 x 512 picture pixels.
const MOST_STAGES: usize = 10;
/// Channels of a tensor at most: 64 times the released models'.
const MOST_CHANNELS: usize = 1 << 16;
/// Blocks of a stage at most.
const MOST_BLOCKS: usize = 1000;
/// Side of an attention scale's kernel at most.
const LARGEST_KERNEL: usize = 31;

/// What the blocks of a stage are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
pub enum BlockKind {
    /// Two 3x3 convolutions.
    ResBlock,
    /// Linear attention at several scales, then a gated convolution.
    EfficientViTBlock,
}

/// What the norms in the blocks of a stage are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// Over the channels of each pixel.
    RmsNorm,
    /// A factor and a summand for each channel, from the statistics of the training.
    BatchNorm,
}

/// An activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivationKind {
    /// `max(x, 0)`.
    Relu,
    /// `x / (1 + e^-x)`.
    #[serde(alias = "swish")]
    Silu,
}

/// One stage of the encoder or of the decoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageConfig {
    /// What its blocks are.
    pub block: BlockKind,
    /// Number of blocks; 0 only in the first stage (which then does not exist at the size of the picture) and in the
    /// last.
    pub layers: usize,
    /// Channels.
    pub width: usize,
    /// Kernel size of the extra attention scale.
    pub scale: Option<usize>,
    /// Norm behind the blocks.
    pub norm: NormKind,
    /// Between the convolutions of a residual block.
    pub activation: ActivationKind,
}

/// `vae/config.json` of an `AutoencoderDC`. Lists go from the stage with the size of the picture to the stage with the
/// size of the latent.
#[derive(Clone, Debug, PartialEq)]
pub struct AutoencoderConfig {
    /// Channels of a picture.
    pub in_channels: usize,
    /// Channels of a latent.
    pub latent_channels: usize,
    /// Channels of an attention head.
    pub attention_head_dim: usize,
    /// Stages of the decoder.
    pub decoder: Vec<StageConfig>,
    /// Stages of the encoder.
    pub encoder: Vec<StageConfig>,
    /// Upsampling: a convolution to four times the channels and a pixel shuffle; else nearest pixels and a convolution.
    pub pixel_shuffle: bool,
    /// Downsampling: a convolution and a pixel unshuffle; else a convolution of stride 2.
    pub pixel_unshuffle: bool,
    /// Whether the latent, its channels repeated, is added behind the decoder's first convolution.
    pub decoder_in_shortcut: bool,
    /// Whether the last stage's channels, averaged in groups, are added behind the encoder's last convolution.
    pub encoder_out_shortcut: bool,
    /// Before the decoder's last convolution.
    pub decoder_conv_act_fn: ActivationKind,
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
        let config = Self {
            in_channels: 3,
            latent_channels: channels(&keys, "latent_channels", 32)?,
            attention_head_dim: channels(&keys, "attention_head_dim", 32)?,
            decoder: stages(&keys, Side::DECODER)?,
            encoder: stages(&keys, Side::ENCODER)?,
            pixel_shuffle: one_of(&keys, "upsample_block_type", "pixel_shuffle", &["interpolate"])?,
            pixel_unshuffle: one_of(&keys, "downsample_block_type", "pixel_unshuffle", &["conv", "Conv"])?,
            decoder_in_shortcut: keys.or("decoder_in_shortcut", true)?,
            encoder_out_shortcut: keys.or("encoder_out_shortcut", true)?,
            decoder_conv_act_fn: keys.or("decoder_conv_act_fn", ActivationKind::Relu)?,
            scaling_factor: keys.positive("scaling_factor", 1.0)?,
        };
        config.fits(&keys)?;
        keys.finish(&[])?;
        Ok(config)
    }

    /// Pixels of a picture's side to each of a latent's.
    pub fn scale(&self) -> usize {
        1 << (self.decoder.len() - 1)
    }

    /// The widths of neighbours must fit each other.
    fn fits(&self, keys: &Keys) -> Result<(), Error> {
        for (side, stages, shortcut) in [
            (Side::DECODER, &self.decoder, self.decoder_in_shortcut),
            (Side::ENCODER, &self.encoder, self.encoder_out_shortcut),
        ] {
            let key = side.key("block_out_channels");
            let wrong = |why: String| {
                let widths: Vec<usize> = stages.iter().map(|stage| stage.width).collect();
                keys.error(&key, &widths.into(), why)
            };
            // An empty first stage has no tensor of its width.
            let first = usize::from(stages[0].layers == 0);
            for pair in stages[first..].windows(2) {
                let (above, below) = (pair[0].width, pair[1].width);
                let fits = match side.decodes {
                    true => (4 * above).is_multiple_of(below),
                    false => {
                        (4 * above).is_multiple_of(below)
                            && (!self.pixel_unshuffle || below.is_multiple_of(4))
                    }
                };
                if !fits {
                    return Err(wrong(format!(
                        "stages of {above} and {below} channels cannot follow each other"
                    )));
                }
            }
            if !side.decodes && first == 1 && self.pixel_unshuffle && !stages[1].width.is_multiple_of(4) {
                return Err(wrong("a pixel unshuffle makes a multiple of 4 channels".into()));
            }
            let (deepest, latent) = (stages[stages.len() - 1].width, self.latent_channels);
            if shortcut && !deepest.is_multiple_of(latent) {
                return Err(wrong(format!(
                    "{deepest} channels of the deepest stage are no multiple of the latent's {latent}"
                )));
            }
            let head = self.attention_head_dim;
            for stage in stages {
                if stage.block == BlockKind::EfficientViTBlock && !stage.width.is_multiple_of(head) {
                    return Err(wrong(format!(
                        "{} channels of a stage with attention are no multiple of attention_head_dim, {head}",
                        stage.width
                    )));
                }
            }
        }
        Ok(())
    }
}

/// The encoder or the decoder, as its keys begin.
#[derive(Clone, Copy)]
struct Side {
    decodes: bool,
    layers: [usize; 6],
}

impl Side {
    const DECODER: Self = Self { decodes: true, layers: [3; 6] };
    const ENCODER: Self = Self { decodes: false, layers: [2, 2, 2, 3, 3, 3] };

    fn key(self, rest: &str) -> String {
        format!("{}_{rest}", if self.decodes { "decoder" } else { "encoder" })
    }
}

fn stages(keys: &Keys, side: Side) -> Result<Vec<StageConfig>, Error> {
    let key = side.key("block_out_channels");
    let widths = keys.or(&key, vec![128, 256, 512, 512, 1024, 1024])?;
    let count = widths.len();
    if count == 0 || count > MOST_STAGES {
        return Err(keys.error(&key, &widths.into(), format!("must have 1 to {MOST_STAGES} entries")));
    }
    if widths.iter().any(|width| !(1..=MOST_CHANNELS).contains(width)) {
        return Err(keys.error(&key, &widths.into(), format!("must all be 1 to {MOST_CHANNELS}")));
    }
    let key = side.key("layers_per_block");
    let layers = keys.or(&key, side.layers.iter().copied().cycle().take(count).collect())?;
    let layers = keys.check_stages(&key, layers, count)?;
    for (stage, &number) in layers.iter().enumerate() {
        let why = match number {
            // Such a stage would not change the size, so all others would be of another size than their number says.
            0 if stage > 0 && stage < count - 1 => {
                "only the first and the last stage may be without blocks".to_owned()
            }
            0 if count == 1 => "the only stage must have a block".to_owned(),
            _ if number > MOST_BLOCKS => format!("must all be at most {MOST_BLOCKS}"),
            _ => continue,
        };
        return Err(keys.error(&key, &layers.into(), why));
    }
    let key = side.key("qkv_multiscales");
    let scales = match keys.raw(&key) {
        Some(_) => keys.or(&key, Vec::new())?,
        None => (0..count).map(|stage| if stage < 3 { vec![] } else { vec![5] }).collect(),
    };
    let scales: Vec<Vec<usize>> = keys.check_stages(&key, scales, count)?;
    let mut single = Vec::with_capacity(count);
    for scale in &scales {
        single.push(match scale.as_slice() {
            [] => None,
            [size] if size % 2 == 1 && *size <= LARGEST_KERNEL => Some(*size),
            [_] => {
                let why = format!("kernels must be odd and at most {LARGEST_KERNEL}");
                return Err(keys.error(&key, &scales.into(), why));
            }
            [_, _, ..] => {
                return Err(keys.error(
                    &key,
                    &scales.into(),
                    "at most 1 extra scale for a stage is supported",
                ));
            }
        });
    }
    let blocks = keys.per_stage(&side.key("block_types"), BlockKind::ResBlock, count)?;
    let (norms, activations) = match side.decodes {
        true => (
            keys.per_stage("decoder_norm_types", NormKind::RmsNorm, count)?,
            keys.per_stage("decoder_act_fns", ActivationKind::Silu, count)?,
        ),
        // The library has no choice there.
        false => (vec![NormKind::RmsNorm; count], vec![ActivationKind::Silu; count]),
    };
    Ok((0..count)
        .map(|stage| StageConfig {
            block: blocks[stage],
            layers: layers[stage],
            width: widths[stage],
            scale: single[stage],
            norm: norms[stage],
            activation: activations[stage],
        })
        .collect())
}

/// A count of channels.
fn channels(keys: &Keys, key: &str, default: usize) -> Result<usize, Error> {
    match keys.count(key, default)? {
        count if count <= MOST_CHANNELS => Ok(count),
        count => Err(keys.error(key, &count.into(), format!("must be at most {MOST_CHANNELS}"))),
    }
}

/// Whether the value is `wanted`, which an absent one is; `others` are the other values allowed.
fn one_of(keys: &Keys, key: &str, wanted: &str, others: &[&str]) -> Result<bool, Error> {
    let value: String = keys.or(key, wanted.to_owned())?;
    if value == wanted {
        return Ok(true);
    }
    if others.contains(&value.as_str()) {
        return Ok(false);
    }
    Err(keys.error(key, &value.into(), format!("only {wanted:?} and {:?} are supported", others[0])))
}

//! How much memory a model needs for a picture, phase by phase, from its configurations alone.
//!
//! Only what the code does is counted: the tensors that are alive together in its widest layer, at their full length. A
//! plan is arithmetic and no measurement; `sana-bench` prints both, and docs/performance.md compares them.

mod fit;
mod models;

use crate::Error;
use crate::autoencoder::{Tiling, decoder_tensors, plan::Plan as DecodePlan};
use crate::config::{AutoencoderConfig, TextEncoderConfig, TransformerConfig};
use crate::ops::{conv_values, upsample_values};
use crate::prompt::MAX_SEQUENCE_LENGTH;
use crate::size::{LATENT_SCALE, plan as plan_size};
use crate::{BinMode, Memory, Precision, cuda, text_encoder, transformer};

pub use fit::Fit;
pub use models::{Model, names};

/// Bytes of a value in f32, which scores, latents and solvers always have.
const F32: u64 = 4;
/// Exact ways to decode, in the order in which they are tried: bands compute nothing twice, large tiles little.
const DECODES: [Tiling; 5] =
    [Tiling::Bands(None), Tiling::Tiles(2048), Tiling::Tiles(1024), Tiling::Tiles(512), Tiling::Tiles(256)];

/// Bytes of a value.
fn bytes_of(precision: Precision) -> u64 {
    match precision {
        Precision::F32 => F32,
        Precision::Bf16 => 2,
    }
}

/// What is planned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Request {
    /// Width and height of the picture in pixels, multiples of 32.
    pub size: (u32, u32),
    /// Of weights and activations: f32 as on the CPU, bf16 as on a CUDA device.
    pub precision: Precision,
    /// Which weights are in memory.
    pub mode: Memory,
    /// Tokens of a prompt with its instruction.
    pub tokens: usize,
    /// Pictures whose texts and latents wait between the phases.
    pub pictures: usize,
    /// Bytes there are.
    pub memory: u64,
    /// Bytes that are taken by other things: the program, a device's context and libraries.
    pub reserve: u64,
}

/// A part of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartWeights {
    /// Such as `transformer`.
    pub name: &'static str,
    /// Numbers in its tensors.
    pub parameters: u64,
    /// Bytes of them in memory, in the chosen precision; of the decoder in f32 as they are packed for the CPU. The text encoder's table of tokens is not: its rows are read from
    /// the file as they are needed.
    pub bytes: u64,
}

/// A phase of a rendering, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phase {
    /// Such as `denoise`.
    pub name: &'static str,
    /// Weights in memory.
    pub weights: u64,
    /// Copies of the largest weight while it is loaded and packed; gone before the work begins.
    pub loading: u64,
    /// Values at work, at the peak.
    pub activations: u64,
    /// Texts and latents that wait.
    pub waiting: u64,
    /// [`Request::reserve`].
    pub reserve: u64,
}

impl Phase {
    /// The most that is taken at once.
    pub fn peak(&self) -> u64 {
        self.weights + self.loading.max(self.activations) + self.waiting + self.reserve
    }
}

/// A way to decode.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decode {
    /// The way.
    pub tiling: Tiling,
    /// Values at work, bytes.
    pub activations: u64,
    /// Share of the multiply-adds that are computed again.
    pub recomputed: f64,
    /// Whether the phase stays within the memory.
    pub fits: bool,
}

/// The memory of a model for pictures of one size.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Text encoder, transformer, decoder.
    pub weights: [PartWeights; 3],
    /// Encode, denoise, decode.
    pub phases: [Phase; 3],
    /// Sequences in a call of the transformer for one picture: 2 with guidance by a negative prompt.
    pub sequences: usize,
    /// Tokens of a sequence: pixels of the latent.
    pub latent: u64,
    /// Pictures that fit into one call of the transformer.
    pub pictures_a_call: u64,
    /// Exact ways to decode.
    pub decodes: Vec<Decode>,
    /// The first way that fits, else the one that needs least: the phase counts it.
    pub decode: Tiling,
    /// Whether all phases stay within the memory.
    pub fits: bool,
}

impl Plan {
    /// Plans one picture at a time. Errors: a size that is no multiple of 32, or more than 64 bits can count.
    pub fn of(model: &Model, request: &Request) -> Result<Self, Error> {
        let size = plan_size(request.size.0, request.size.1, BinMode::Never, model.transformer.sample_size)?;
        let side = |pixels: u32| u64::from(pixels / LATENT_SCALE);
        let latent = side(size.compute_width) * side(size.compute_height);
        let bytes = bytes_of(request.precision);
        let pictures = request.pictures as u64;

        let config = &model.transformer;
        let sequences = if config.guidance_scale.is_some() { 1 } else { 2 };
        let rows = MAX_SEQUENCE_LENGTH as u64;
        let texts = pictures * sequences as u64 * rows * config.caption_channels as u64 * bytes;
        let latents = pictures * latent * config.in_channels as u64 * F32;

        let (text, text_loading) = weights("text encoder", text_encoder::tensors(&model.text_encoder), bytes);
        let (dit, dit_loading) = weights("transformer", transformer::tensors(config), bytes);
        let (mut vae, vae_loading) =
            weights("decoder", decoder_tensors(&model.autoencoder).into_iter(), bytes);
        if request.precision == Precision::F32 {
            vae.bytes = packed_decoder(&model.autoencoder) * F32;
        }
        let held = |own: PartWeights| match request.mode {
            Memory::Resident => text.bytes + dit.bytes + vae.bytes,
            Memory::Sequential => own.bytes,
        };
        let phase = |name, own: PartWeights, loading, activations, waiting| Phase {
            name,
            weights: held(own),
            loading,
            activations,
            waiting,
            reserve: request.reserve,
        };
        let encode_values = encode_bytes(&model.text_encoder, request.tokens as u64, bytes);
        let encode = phase("encode", text, text_loading, encode_values, texts);
        let denoise_values = |pictures| denoise_bytes(config, sequences as u64 * pictures, latent, bytes);
        let denoise = phase("denoise", dit, dit_loading, denoise_values(1), texts + latents);

        let mut decodes = Vec::with_capacity(DECODES.len());
        let (width, height) = (size.compute_width as usize, size.compute_height as usize);
        for tiling in DECODES {
            // A device makes windows of pixels for its convolutions, and takes larger bands.
            let (cost, windows) = match request.precision {
                Precision::F32 => (DecodePlan::of(&model.autoencoder, (width, height), tiling)?, 0),
                Precision::Bf16 => (
                    DecodePlan::on_device(&model.autoencoder, (width, height), tiling)?,
                    cuda::WINDOW_BYTES as u128,
                ),
            };
            // The cost is in f32.
            let activations = u64::try_from(cost.activations * u128::from(bytes) / u128::from(F32) + windows)
                .map_err(|_| Error::Size(format!("{width}x{height} is too large to plan")))?;
            let recomputed = cost.recomputed();
            let fits = phase("decode", vae, vae_loading, activations, latents).peak() <= request.memory;
            decodes.push(Decode { tiling, activations, recomputed, fits });
        }
        let least = decodes.iter().min_by_key(|decode| decode.activations);
        let Some(chosen) = decodes.iter().find(|decode| decode.fits).or(least).copied() else {
            return Err(Error::Setting("there is no way to decode".to_owned()));
        };
        let decode = phase("decode", vae, vae_loading, chosen.activations, latents);

        let left = request.memory.saturating_sub(denoise.peak() - denoise.loading.max(denoise.activations));
        let phases = [encode, denoise, decode];
        Ok(Self {
            weights: [text, dit, vae],
            fits: phases.iter().all(|phase| phase.peak() <= request.memory),
            phases,
            sequences,
            latent,
            pictures_a_call: left / denoise_values(1).max(1),
            decodes,
            decode: chosen.tiling,
        })
    }
}

/// The weights of a part, and what loading takes besides: the largest matrix as it was read and as it is packed.
fn weights(
    name: &'static str,
    tensors: impl Iterator<Item = (String, Vec<usize>)>,
    bytes: u64,
) -> (PartWeights, u64) {
    let (mut parameters, mut held, mut largest) = (0, 0, 0);
    for (tensor, shape) in tensors {
        let count = shape.iter().map(|&side| side as u64).product();
        parameters += count;
        if tensor != "embed_tokens.weight" {
            held += count;
            largest = largest.max(count);
        }
    }
    (PartWeights { name, parameters, bytes: held * bytes }, 2 * largest * bytes)
}

/// Values of the decoder's weights as the CPU's kernels hold them.
fn packed_decoder(config: &AutoencoderConfig) -> u64 {
    let count = |(name, shape): (String, Vec<usize>)| match *shape {
        // Depthwise kernels have one input channel.
        [_, 1, _, _] => shape.iter().product::<usize>(),
        [out, input, 3, 3] if name.ends_with(".0.conv.weight") && !config.pixel_shuffle => {
            upsample_values(out, input)
        }
        [out, input, 3, 3] => conv_values(out, input),
        _ => shape.iter().product(),
    };
    decoder_tensors(config).into_iter().map(|tensor| count(tensor) as u64).sum()
}

/// Bytes of values at work for one sequence of a text encoder: of the attention its input, the norm of it, queries, keys
/// and values with a copy of each and the scores in f32; of the feed-forward part five tensors of the sequence (input,
/// attention, their sum, norms) and four wide ones (gate, its activation, the other half, the product).
pub fn encode_bytes(config: &TextEncoderConfig, tokens: u64, bytes: u64) -> u64 {
    let (hidden, inner) = (config.hidden_size as u64, config.intermediate_size as u64);
    let heads = config.num_attention_heads as u64;
    let queries = heads * config.head_dim as u64;
    let keys = (config.num_key_value_heads * config.head_dim) as u64;
    let attention = tokens * (2 * hidden + 2 * queries + 4 * keys) * bytes + heads * tokens * tokens * F32;
    attention.max(tokens * (5 * hidden + 4 * inner) * bytes)
}

/// Bytes of values at work in a call of the transformer for `sequences` of `latent` tokens each: of the feed-forward part
/// the sequence, the wide tensor with twice the inner width and the gated one with the inner width; of the attention the
/// sequence, queries, keys, values, what they give, and the result. To these come keys and values of the texts for all
/// blocks, and for each sequence noise, sample and the solver's last estimate in f32.
pub fn denoise_bytes(config: &TransformerConfig, sequences: u64, latent: u64, bytes: u64) -> u64 {
    let (width, hidden) = (config.width() as u64, config.hidden_width() as u64);
    let widest = (width + 3 * hidden).max(6 * width);
    let texts = config.num_layers as u64 * MAX_SEQUENCE_LENGTH as u64 * 2 * width;
    let samples = 3 * latent * config.in_channels as u64 * F32;
    sequences * ((latent * widest + texts) * bytes + samples)
}

#[cfg(test)]
mod tests;

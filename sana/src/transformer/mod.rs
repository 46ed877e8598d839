//! The linear diffusion transformer.
//!
//! Reference section 7. Several sequences (images, and the two halves of guidance) go through the linear layers
//! together; each keeps its own text, timestep and attention. No value depends on its companions.

mod block;
mod embed;
mod tensors;

use candle_core::{DType, Result, Tensor};
use rayon::prelude::*;

use crate::Error;
use crate::config::TransformerConfig;
use crate::ops::{Activation, Linear, Modulation, RmsNorm, layer_norm_modulated, to_cpu, to_vec};
use crate::weights::Weights;
use block::{Block, BlockText};
use embed::TimeEmbed;
pub use embed::positions;
pub use tensors::tensors;

/// Called with the name of a module and its result, in order.
pub type Observer<'a> = &'a dyn Fn(&str, &Tensor) -> Result<()>;

/// The transformer's weights.
#[derive(Debug)]
pub struct Transformer {
    config: TransformerConfig,
    patch_embed: Linear,
    time_embed: TimeEmbed,
    caption_projection: (Linear, Linear),
    caption_norm: RmsNorm,
    blocks: Vec<Block>,
    scale_shift_table: Vec<f32>,
    proj_out: Linear,
    on_device: bool,
    bytes: usize,
}

/// A text as the blocks use it: its keys and values, which are the same in every step.
#[derive(Debug)]
pub struct Text {
    blocks: Vec<BlockText>,
}

/// One of the sequences of a call.
#[derive(Clone, Copy, Debug)]
pub struct Sequence<'a> {
    /// Latent, `[height, width, channels]`; all of a call are of one size.
    pub latent: &'a Tensor,
    /// Text to follow.
    pub text: &'a Text,
    /// Timestep, before the model's own factor.
    pub timestep: f32,
    /// Guidance scale times [`TransformerConfig::guidance_scale`], of a model that has one. The product is of f32
    /// numbers: the library rounds it to the type of the text embeddings, which is f32 here (in bf16, 4.5 gives
    /// 0.44921875).
    pub guidance: Option<f32>,
}

impl Transformer {
    /// Loads all tensors.
    pub fn load(config: &TransformerConfig, weights: &Weights) -> std::result::Result<Self, Error> {
        let mut load = Load { weights, bytes: 0 };
        let width = config.width();
        let patch_embed = load.linear("patch_embed.proj", &[width, config.in_channels, 1, 1], true)?;
        let time_embed = TimeEmbed::load(&mut load, width, config.guidance_scale.is_some())?;
        let first = load.linear("caption_projection.linear_1", &[width, config.caption_channels], true)?;
        let second = load.linear("caption_projection.linear_2", &[width, width], true)?;
        let caption_norm = load.norm("caption_norm", width)?;
        let blocks = (0..config.num_layers)
            .map(|index| Block::load(&mut load, config, index))
            .collect::<std::result::Result<_, _>>()?;
        let scale_shift_table = to_vec(&weights.get("scale_shift_table", &[2, width])?)?;
        let proj_out = load.linear("proj_out", &[config.out_channels, width], true)?;
        Ok(Self {
            config: config.clone(),
            patch_embed,
            time_embed,
            caption_projection: (first.with(Activation::GeluTanh), second),
            caption_norm,
            blocks,
            scale_shift_table,
            proj_out,
            on_device: weights.placement().by_kernels(),
            bytes: load.bytes,
        })
    }

    /// Its configuration.
    pub fn config(&self) -> &TransformerConfig {
        &self.config
    }

    /// Bytes of weights held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Prepares a text: `rows` (`[tokens, caption_channels]`) without padding.
    ///
    /// Padding is masked by -10000 in the reference, whose softmax weight is exactly 0.
    pub fn prepare(&self, rows: &Tensor, observer: Option<Observer<'_>>) -> Result<Text> {
        let (first, second) = &self.caption_projection;
        let projected = second.forward(&first.forward(rows)?)?;
        let caption = self.caption_norm.forward(&projected)?;
        if let Some(observer) = observer {
            observer("caption_projection", &projected)?;
            observer("caption_norm", &caption)?;
        }
        let blocks = self.blocks.iter().map(|block| block.prepare(&caption)).collect::<Result<_>>()?;
        Ok(Text { blocks })
    }

    /// The model's output for each sequence, `[height, width, out_channels]`.
    pub fn forward(&self, sequences: &[Sequence<'_>], observer: Option<Observer<'_>>) -> Result<Vec<Tensor>> {
        if observer.is_none() && !self.on_device && rayon::current_num_threads() > 1 {
            // Threads that share a sequence wait for each other in every layer, those with one each never.
            let each = |sequence| self.forward_all(std::slice::from_ref(sequence), None);
            let outputs = sequences.par_iter().map(each).collect::<Result<Vec<_>>>()?;
            return Ok(outputs.into_iter().flatten().collect());
        }
        self.forward_all(sequences, observer)
    }

    /// All sequences through each layer together.
    fn forward_all(&self, sequences: &[Sequence<'_>], observer: Option<Observer<'_>>) -> Result<Vec<Tensor>> {
        let Some(first) = sequences.first() else { return Ok(Vec::new()) };
        let (height, width, _) = first.latent.dims3()?;
        let tokens = height * width;
        let observe = |name: &str, value: &Tensor| observer.map_or(Ok(()), |observer| observer(name, value));

        let latents =
            sequences.iter().map(|sequence| sequence.latent.flatten(0, 1)).collect::<Result<Vec<_>>>()?;
        let mut hidden = self.patch_embed.forward(&Tensor::cat(&latents, 0)?)?;
        if let Some(scale) = self.config.interpolation_scale {
            let table = positions(self.config.width(), (height, width), self.config.sample_size, scale);
            let table = Tensor::from_vec(table, (tokens, self.config.width()), hidden.device())?;
            // Added in f32, whatever the model's own type.
            let dtype = hidden.dtype();
            let tables = Tensor::cat(&vec![table; sequences.len()], 0)?;
            hidden = tables.add(&hidden.to_dtype(DType::F32)?)?.to_dtype(dtype)?;
        }
        observe("patch_embed", &hidden)?;

        let scale = self.config.timestep_scale as f32;
        let times: Vec<f32> = sequences.iter().map(|sequence| sequence.timestep * scale).collect();
        // All of them or none; the embedding refuses what does not fit the model.
        let guidance: Option<Vec<f32>> = sequences.iter().map(|sequence| sequence.guidance).collect();
        let (modulation, embedded) = self.time_embed.forward(&times, guidance.as_deref())?;
        observe("time_embed.0", &modulation)?;
        observe("time_embed.1", &embedded)?;
        let modulation: Vec<Vec<f32>> = to_cpu(&modulation)?.to_vec2()?;

        for (index, block) in self.blocks.iter().enumerate() {
            let texts: Vec<&BlockText> =
                sequences.iter().map(|sequence| &sequence.text.blocks[index]).collect();
            let name = format!("transformer_blocks.{index}");
            let inner = |part: &str, value: &Tensor| observe(&format!("{name}.{part}"), value);
            let inner = observer.is_some().then_some(&inner as Observer<'_>);
            hidden = block.forward(hidden, (height, width), &modulation, &texts, inner)?;
            observe(&name, &hidden)?;
        }

        let embedded: Vec<Vec<f32>> = to_cpu(&embedded)?.to_vec2()?;
        // Shift, then scale; both from the embedding itself and not from the blocks' modulation.
        let final_rows: Vec<Vec<f32>> = embedded
            .iter()
            .map(|time| {
                self.scale_shift_table
                    .iter()
                    .zip(time.iter().cycle())
                    .map(|(table, time)| table + time)
                    .collect()
            })
            .collect();
        let modulation = Modulation::new(final_rows, self.config.width(), &hidden)?;
        let normed = layer_norm_modulated(&hidden, &modulation, 1, 0, self.config.norm_eps as f32)?;
        observe("norm_out", &normed)?;
        let out = self.proj_out.forward(&normed)?;
        observe("proj_out", &out)?;
        // The solver and guidance work on the CPU, in f32.
        let out = to_cpu(&out)?;
        (0..sequences.len())
            .map(|index| {
                out.narrow(0, index * tokens, tokens)?.reshape((height, width, self.config.out_channels))
            })
            .collect()
    }
}

/// Loads layers and counts their bytes.
struct Load<'a> {
    weights: &'a Weights,
    bytes: usize,
}

impl Load<'_> {
    fn linear(&mut self, name: &str, shape: &[usize], bias: bool) -> std::result::Result<Linear, Error> {
        let bias = if bias { Some(self.weights.get(&format!("{name}.bias"), &shape[..1])?) } else { None };
        let linear = Linear::load(self.weights, name, shape, bias.as_ref())?;
        self.bytes += linear.bytes();
        Ok(linear)
    }

    /// Of text, queries and keys: eps 1e-5.
    fn norm(&mut self, name: &str, channels: usize) -> std::result::Result<RmsNorm, Error> {
        let weight = self.weights.get(&format!("{name}.weight"), &[channels])?;
        Ok(RmsNorm::new(&weight, None, 1e-5, Activation::None)?)
    }
}

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Result, Tensor};
use rayon::prelude::*;

use crate::Error;
use crate::config::TextEncoderConfig;
use crate::ops::Linear;
use crate::weights::Weights;

/// Causal attention in which neighbouring query heads share a head of keys and values.
#[derive(Debug)]
pub(super) struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    heads: usize,
    shared: usize,
    head_dim: usize,
    softmax: CausalSoftmax,
}

/// Cosine and sine of the rotary positions, `[tokens, head_dim / 2]` each.
#[derive(Debug)]
pub(super) struct Rotation {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rotation {
    pub(super) fn new(config: &TextEncoderConfig, tokens: usize) -> Self {
        let half = config.head_dim / 2;
        let theta = config.rope_theta as f32;
        // Frequencies and angles are rounded to f32 as in the reference; only then comes the function.
        let frequencies: Vec<f32> =
            (0..half).map(|i| 1.0 / theta.powf((2 * i) as f32 / config.head_dim as f32)).collect();
        let angles = (0..tokens).flat_map(|at| frequencies.iter().map(move |f| f64::from(at as f32 * f)));
        let (sin, cos) = angles.map(|angle| (angle.sin() as f32, angle.cos() as f32)).unzip();
        Self { cos, sin }
    }

    /// Turns `[tokens, heads * head_dim]` into rotated `[heads, tokens, head_dim]`.
    fn apply(&self, x: &Tensor, heads: usize, head_dim: usize) -> Result<Tensor> {
        let tokens = x.dim(0)?;
        let half = head_dim / 2;
        let from = x.flatten_all()?.to_vec1::<f32>()?;
        let mut to = Vec::with_capacity(from.len());
        for head in 0..heads {
            for token in 0..tokens {
                let start = (token * heads + head) * head_dim;
                let (first, second) = from[start..start + head_dim].split_at(half);
                let angles = token * half..(token + 1) * half;
                let (cos, sin) = (&self.cos[angles.clone()], &self.sin[angles]);
                to.extend((0..half).map(|i| first[i] * cos[i] - second[i] * sin[i]));
                to.extend((0..half).map(|i| second[i] * cos[i] + first[i] * sin[i]));
            }
        }
        Tensor::from_vec(to, (heads, tokens, head_dim), &Device::Cpu)
    }
}

impl Attention {
    /// Bytes of weights held.
    pub(super) fn bytes(&self) -> usize {
        [&self.q, &self.k, &self.v, &self.out].map(Linear::bytes).iter().sum()
    }

    pub(super) fn load(
        config: &TextEncoderConfig,
        weights: &Weights,
        layer: usize,
    ) -> std::result::Result<Self, Error> {
        let (heads, shared) = (config.num_attention_heads, config.num_key_value_heads);
        let name = |which: &str| format!("layers.{layer}.self_attn.{which}_proj");
        let project =
            |which, heads| linear(weights, &name(which), config.hidden_size, heads * config.head_dim);
        Ok(Self {
            q: project("q", heads)?,
            k: project("k", shared)?,
            v: project("v", shared)?,
            out: linear(weights, &name("o"), heads * config.head_dim, config.hidden_size)?,
            heads,
            shared,
            head_dim: config.head_dim,
            softmax: CausalSoftmax {
                scale: config.query_pre_attn_scalar.powf(-0.5) as f32,
                cap: config.attn_logit_softcapping.map(|cap| cap as f32),
                window: config.windows[layer],
            },
        })
    }

    /// `x` is `[tokens, hidden]`.
    pub(super) fn forward(&self, x: &Tensor, rotation: &Rotation) -> Result<Tensor> {
        let tokens = x.dim(0)?;
        let (heads, shared, dim) = (self.heads, self.shared, self.head_dim);
        let q = rotation.apply(&self.q.forward(x)?, heads, dim)?;
        let k = rotation.apply(&self.k.forward(x)?, shared, dim)?;
        let v = self.v.forward(x)?.reshape((tokens, shared, dim))?.transpose(0, 1)?.contiguous()?;
        // The query heads that share keys are one tall matrix.
        let tall = (shared, heads / shared * tokens, dim);
        let scores = q.reshape(tall)?.matmul(&k.t()?)?;
        scores.inplace_op1(&self.softmax)?;
        let y = scores.matmul(&v)?.reshape((heads, tokens, dim))?;
        self.out.forward(&y.transpose(0, 1)?.reshape((tokens, heads * dim))?)
    }
}

/// Scales, bends, masks and normalises scores `[.., tokens]` in place; row `i` is of token `i % tokens`.
#[derive(Debug)]
struct CausalSoftmax {
    scale: f32,
    cap: Option<f32>,
    window: Option<usize>,
}

impl CausalSoftmax {
    fn row(&self, token: usize, scores: &mut [f32]) {
        let first = self.window.map_or(0, |window| (token + 1).saturating_sub(window));
        scores[..first].fill(0.0);
        scores[token + 1..].fill(0.0);
        let seen = &mut scores[first..=token];
        let mut max = f32::NEG_INFINITY;
        for score in seen.iter_mut() {
            *score *= self.scale;
            if let Some(cap) = self.cap {
                *score = (*score / cap).tanh() * cap;
            }
            max = max.max(*score);
        }
        let mut sum = 0.0;
        for score in seen.iter_mut() {
            *score = (*score - max).exp();
            sum += *score;
        }
        seen.iter_mut().for_each(|score| *score /= sum);
    }
}

impl InplaceOp1 for CausalSoftmax {
    fn name(&self) -> &'static str {
        "causal-softmax"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let tokens = layout.dims().last().copied().unwrap_or_default();
        let (CpuStorage::F32(values), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
            candle_core::bail!("{} needs contiguous f32 scores", self.name());
        };
        let rows = values[start..end].par_chunks_mut(tokens.max(1)).enumerate();
        rows.for_each(|(row, scores)| self.row(row % tokens, scores));
        Ok(())
    }
}

/// Loads a linear layer without bias.
pub(super) fn linear(
    weights: &Weights,
    name: &str,
    inputs: usize,
    outputs: usize,
) -> std::result::Result<Linear, Error> {
    Linear::stored(&weights.view(&format!("{name}.weight"), &[outputs, inputs])?, None)
}

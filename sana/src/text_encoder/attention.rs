use candle_core::{Result, Tensor};

use crate::Error;
use crate::config::TextEncoderConfig;
use crate::ops::{CausalSoftmax, Linear, Rotation};
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
        self.softmax.run(&scores)?;
        let y = scores.matmul(&v)?.reshape((heads, tokens, dim))?;
        self.out.forward(&y.transpose(0, 1)?.reshape((tokens, heads * dim))?)
    }
}

/// Loads a linear layer without bias.
pub(super) fn linear(
    weights: &Weights,
    name: &str,
    inputs: usize,
    outputs: usize,
) -> std::result::Result<Linear, Error> {
    Linear::load(weights, name, &[outputs, inputs], None)
}

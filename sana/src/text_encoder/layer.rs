use candle_core::{Result, Tensor};

use super::attention::{Attention, linear};
use crate::Error;
use crate::config::TextEncoderConfig;
use crate::ops::{Linear, RmsNorm, Rotation, gelu_product};
use crate::weights::Weights;

/// Attention and feed-forward, each between two norms.
#[derive(Debug)]
pub(super) struct Layer {
    attention: Attention,
    gate: Linear,
    up: Linear,
    down: Linear,
    input_norm: RmsNorm,
    post_attention_norm: RmsNorm,
    pre_feedforward_norm: RmsNorm,
    post_feedforward_norm: RmsNorm,
}

impl Layer {
    pub(super) fn load(
        config: &TextEncoderConfig,
        weights: &Weights,
        layer: usize,
    ) -> std::result::Result<Self, Error> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let prefix = format!("layers.{layer}");
        let norm = |name: &str| norm(config, weights, &format!("{prefix}.{name}_layernorm"));
        Ok(Self {
            attention: Attention::load(config, weights, layer)?,
            gate: linear(weights, &format!("{prefix}.mlp.gate_proj"), hidden, inner)?,
            up: linear(weights, &format!("{prefix}.mlp.up_proj"), hidden, inner)?,
            down: linear(weights, &format!("{prefix}.mlp.down_proj"), inner, hidden)?,
            input_norm: norm("input")?,
            post_attention_norm: norm("post_attention")?,
            pre_feedforward_norm: norm("pre_feedforward")?,
            post_feedforward_norm: norm("post_feedforward")?,
        })
    }

    /// Bytes of weights held.
    pub(super) fn bytes(&self) -> usize {
        self.attention.bytes() + self.gate.bytes() + self.up.bytes() + self.down.bytes()
    }

    /// `x` is `[tokens, hidden]`.
    pub(super) fn forward(&self, x: &Tensor, rotation: &Rotation) -> Result<Tensor> {
        let y = self.attention.forward(&self.input_norm.forward(x)?, rotation)?;
        let x = (x + self.post_attention_norm.forward(&y)?)?;
        let y = self.pre_feedforward_norm.forward(&x)?;
        let y = gelu_product(&self.gate.forward(&y)?, &self.up.forward(&y)?)?;
        x + self.post_feedforward_norm.forward(&self.down.forward(&y)?)?
    }
}

/// Loads one of Gemma's norms: their weights are stored as the distance from 1.
pub(super) fn norm(
    config: &TextEncoderConfig,
    weights: &Weights,
    name: &str,
) -> std::result::Result<RmsNorm, Error> {
    let weight = weights.get(&format!("{name}.weight"), &[config.hidden_size])?;
    Ok(RmsNorm::beyond_one(&weight, config.rms_norm_eps)?)
}

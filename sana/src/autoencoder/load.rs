//! Layers from their place in the checkpoint and its weights.

use candle_core::Tensor;

use super::chain::Layer;
use super::layout::{Kind, Module};
use super::stream::ResBlock;
use super::vit::{Attention, GatedConv};
use crate::Error;
use crate::config::{ActivationKind, NormKind};
use crate::ops::{
    Activation, Conv, GatedDepthwise, Linear, MultiScale, PixelNorm, RmsNorm, StridedConv, UpsampleConv,
};
use crate::weights::Weights;

/// Of all norms (reference section 9).
const EPS: f64 = 1e-5;

/// Reads weights and counts their bytes.
pub struct Load<'a> {
    weights: &'a Weights,
    /// Bytes held by what was loaded so far.
    pub bytes: usize,
}

impl<'a> Load<'a> {
    /// Reads from `weights`.
    pub fn new(weights: &'a Weights) -> Self {
        Self { weights, bytes: 0 }
    }

    /// The layer of a module.
    pub fn layer(&mut self, module: &Module) -> Result<Layer, Error> {
        let name = module.name.as_str();
        Ok(match module.kind {
            Kind::Conv { input, output, shortcut } => {
                Layer::Conv(self.conv(name, [output, input], true, Activation::None)?, shortcut)
            }
            Kind::Upsample { input, output, shuffle: true, shortcut } => {
                let name = format!("{name}.conv");
                let weight = phases_first(&self.weight(&name, &[4 * output, input, 3, 3])?, output)?;
                let bias = phases_first(&self.bias(&name, 4 * output)?, output)?;
                let conv = Conv::new(&weight, Some(&bias), Activation::None)?;
                self.bytes += conv.bytes();
                Layer::Shuffle { conv, shortcut }
            }
            Kind::Upsample { input, output, shuffle: false, shortcut: true } => {
                let name = format!("{name}.conv");
                let (weight, bias) = (self.weight(&name, &[output, input, 3, 3])?, self.bias(&name, output)?);
                let layer = UpsampleConv::new(&weight, Some(&bias))?;
                self.bytes += layer.bytes();
                Layer::Upsample(layer)
            }
            Kind::Upsample { input, output, shuffle: false, shortcut: false } => {
                Layer::Nearest(self.conv(&format!("{name}.conv"), [output, input], true, Activation::None)?)
            }
            Kind::Downsample { input, output, unshuffle: true, shortcut } => {
                let name = format!("{name}.conv");
                Layer::Unshuffle {
                    conv: self.conv(&name, [output / 4, input], true, Activation::None)?,
                    channels: output,
                    shortcut,
                }
            }
            Kind::Downsample { input, output, unshuffle: false, shortcut } => {
                let name = format!("{name}.conv");
                let (weight, bias) = (self.weight(&name, &[output, input, 3, 3])?, self.bias(&name, output)?);
                let conv = StridedConv::new(&weight, Some(&bias), shortcut)?;
                self.bytes += conv.bytes();
                Layer::Strided(conv)
            }
            Kind::Residual { width, norm, activation } => {
                let conv1 = self.conv(&format!("{name}.conv1"), [width; 2], true, function(activation))?;
                let conv2 = self.conv(&format!("{name}.conv2"), [width; 2], false, Activation::None)?;
                Layer::Residual(ResBlock {
                    conv1,
                    conv2,
                    norm: self.norm(&format!("{name}.norm"), width, norm)?,
                })
            }
            Kind::Attention { width, head, scale, norm } => {
                Layer::Attention(Box::new(self.attention(name, (width, head), scale, norm)?))
            }
            Kind::Gated { width } => Layer::Gated(self.gated(&format!("{name}.conv_out"), width)?),
            Kind::Norm { width, activation } => {
                let (weight, bias) = (self.weight(name, &[width])?, self.bias(name, width)?);
                Layer::Norm(RmsNorm::new(&weight, Some(&bias), EPS, function(activation))?)
            }
        })
    }

    fn weight(&self, name: &str, shape: &[usize]) -> Result<Tensor, Error> {
        self.weights.get(&format!("{name}.weight"), shape)
    }

    fn bias(&self, name: &str, channels: usize) -> Result<Tensor, Error> {
        self.weights.get(&format!("{name}.bias"), &[channels])
    }

    fn conv(
        &mut self,
        name: &str,
        [out, input]: [usize; 2],
        bias: bool,
        activation: Activation,
    ) -> Result<Conv, Error> {
        let weight = self.weight(name, &[out, input, 3, 3])?;
        let bias = if bias { Some(self.bias(name, out)?) } else { None };
        let conv = Conv::new(&weight, bias.as_ref(), activation)?;
        self.bytes += conv.bytes();
        Ok(conv)
    }

    fn linear(&mut self, name: &str, shape: &[usize], bias: bool) -> Result<Linear, Error> {
        let weight = self.weight(name, shape)?;
        let bias = if bias { Some(self.bias(name, shape[0])?) } else { None };
        let linear = Linear::of_rows(&weight, bias.as_ref(), None)?;
        self.bytes += linear.bytes();
        Ok(linear)
    }

    fn norm(&mut self, name: &str, channels: usize, kind: NormKind) -> Result<PixelNorm, Error> {
        let (weight, bias) = (self.weight(name, &[channels])?, self.bias(name, channels)?);
        Ok(match kind {
            NormKind::RmsNorm => PixelNorm::Rms(RmsNorm::new(&weight, Some(&bias), EPS, Activation::None)?),
            NormKind::BatchNorm => {
                let statistic = |part: &str| self.weights.get(&format!("{name}.{part}"), &[channels]);
                let (mean, variance) = (statistic("running_mean")?, statistic("running_var")?);
                PixelNorm::batch(&weight, &bias, &mean, &variance, EPS)?
            }
        })
    }

    /// The library concatenates queries, keys and values, then cuts the whole into groups of three times the head's
    /// width; so what a group takes as queries may come from any of the three (reference section 9).
    fn attention(
        &mut self,
        name: &str,
        (width, head): (usize, usize),
        scale: Option<usize>,
        norm: NormKind,
    ) -> Result<Attention, Error> {
        let groups = width / head;
        let parts = ["q", "k", "v"].map(|part| self.weight(&format!("{name}.to_{part}"), &[width, width]));
        let [q, k, v] = parts;
        let all = Tensor::cat(&[q?, k?, v?], 0)?;
        // Of each three runs of `head` channels the first holds queries, the others keys and values.
        let query_runs: Vec<usize> = (0..groups).map(|group| 3 * group).collect();
        let key_value_runs: Vec<usize> =
            (0..groups).flat_map(|group| [3 * group + 1, 3 * group + 2]).collect();
        let rows = |runs: &[usize]| -> Vec<usize> {
            runs.iter().flat_map(|run| run * head..(run + 1) * head).collect()
        };
        let queries = Linear::of_rows(&all, None, Some(&rows(&query_runs)))?;
        let keys_values = Linear::of_rows(&all, None, Some(&rows(&key_value_runs)))?;
        self.bytes += queries.bytes() + keys_values.bytes();
        let second_scale = match scale {
            None => None,
            Some(size) => {
                let prefix = format!("{name}.to_qkv_multiscale.0");
                let proj_in = self.weight(&format!("{prefix}.proj_in"), &[3 * width, 1, size, size])?;
                let proj_out = self.weight(&format!("{prefix}.proj_out"), &[3 * width, head, 1, 1])?;
                let both = (
                    MultiScale::new(&proj_in, &proj_out, &query_runs)?,
                    MultiScale::new(&proj_in, &proj_out, &key_value_runs)?,
                );
                self.bytes += both.0.bytes() + both.1.bytes();
                Some(both)
            }
        };
        let scales = 1 + usize::from(second_scale.is_some());
        Ok(Attention {
            channels: width,
            width: head,
            queries,
            keys_values,
            second_scale,
            to_out: self.linear(&format!("{name}.to_out"), &[width, scales * width], false)?,
            norm: self.norm(&format!("{name}.norm_out"), width, norm)?,
        })
    }

    fn gated(&mut self, name: &str, width: usize) -> Result<GatedConv, Error> {
        let hidden = 4 * width;
        let inverted = self.linear(&format!("{name}.conv_inverted"), &[2 * hidden, width, 1, 1], true)?;
        let depth = format!("{name}.conv_depth");
        let (weight, bias) = (self.weight(&depth, &[2 * hidden, 1, 3, 3])?, self.bias(&depth, 2 * hidden)?);
        let depthwise = GatedDepthwise::new(&weight, Some(&bias))?;
        self.bytes += depthwise.bytes();
        Ok(GatedConv {
            inverted: inverted.with(Activation::Silu),
            depthwise,
            point: self.linear(&format!("{name}.conv_point"), &[width, hidden, 1, 1], false)?,
            norm: self.norm(&format!("{name}.norm"), width, NormKind::RmsNorm)?,
        })
    }
}

/// Four values of each of `channels` channels, sorted by the value instead of the channel: so a pixel shuffle moves
/// whole pixels.
fn phases_first(values: &Tensor, channels: usize) -> candle_core::Result<Tensor> {
    let rest = &values.dims()[1..];
    let split = [&[channels, 4], rest].concat();
    values.reshape(split)?.transpose(0, 1)?.contiguous()?.reshape(values.dims())
}

fn function(kind: ActivationKind) -> Activation {
    match kind {
        ActivationKind::Relu => Activation::Relu,
        ActivationKind::Silu => Activation::Silu,
    }
}

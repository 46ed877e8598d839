//! The decoder from its configuration and weights.

use candle_core::Tensor;

use super::stream::ResBlock;
use super::vit::{Attention, GatedConv};
use super::{Block, Decoder, Stage};
use crate::Error;
use crate::config::{AutoencoderConfig, BlockKind};
use crate::ops::{Activation, Conv, GatedDepthwise, Linear, MultiScale, RmsNorm, UpsampleConv};
use crate::weights::Weights;

/// Of all norms (reference section 9).
const EPS: f64 = 1e-5;

impl Decoder {
    /// Loads the tensors below `decoder.`.
    pub fn load(config: &AutoencoderConfig, weights: &Weights) -> Result<Self, Error> {
        let mut load = Load { weights, bytes: 0 };
        let widths = &config.decoder_block_out_channels;
        let deepest = widths.len() - 1;
        let (latent, first, last) = (config.latent_channels, widths[deepest], widths[0]);
        if !first.is_multiple_of(latent) {
            return Err(Error::Model(format!(
                "{first} channels of the deepest stage are no multiple of {latent} latent channels"
            )));
        }
        let conv_in = load.conv("decoder.conv_in", first, latent, true, Activation::None)?;
        let mut stages = Vec::with_capacity(widths.len());
        for number in (0..=deepest).rev() {
            stages.push(load.stage(config, number)?);
        }
        let norm_out = load.norm("decoder.norm_out", last, Activation::Relu)?;
        let conv_out = load.conv("decoder.conv_out", config.in_channels, last, true, Activation::None)?;
        Ok(Self {
            latent_channels: latent,
            conv_in,
            repeat: first / latent,
            stages,
            norm_out,
            conv_out,
            scaling_factor: config.scaling_factor,
            bytes: load.bytes,
        })
    }
}

struct Load<'a> {
    weights: &'a Weights,
    bytes: usize,
}

impl Load<'_> {
    fn weight(&self, name: &str, shape: &[usize]) -> Result<Tensor, Error> {
        self.weights.get(&format!("{name}.weight"), shape)
    }

    fn bias(&self, name: &str, channels: usize) -> Result<Tensor, Error> {
        self.weights.get(&format!("{name}.bias"), &[channels])
    }

    fn conv(
        &mut self,
        name: &str,
        out: usize,
        input: usize,
        bias: bool,
        activation: Activation,
    ) -> Result<Conv, Error> {
        let weight = self.weight(name, &[out, input, 3, 3])?;
        let bias = if bias { Some(self.bias(name, out)?) } else { None };
        let conv = Conv::new(&weight, bias.as_ref(), activation)?;
        self.bytes += conv.bytes();
        Ok(conv)
    }

    fn linear(
        &mut self,
        name: &str,
        shape: &[usize],
        bias: bool,
        rows: Option<&[usize]>,
    ) -> Result<Linear, Error> {
        let weight = self.weight(name, shape)?;
        let bias = if bias { Some(self.bias(name, shape[0])?) } else { None };
        let linear = Linear::of_rows(&weight, bias.as_ref(), rows)?;
        self.bytes += linear.bytes();
        Ok(linear)
    }

    fn norm(&mut self, name: &str, channels: usize, activation: Activation) -> Result<RmsNorm, Error> {
        let (weight, bias) = (self.weight(name, &[channels])?, self.bias(name, channels)?);
        Ok(RmsNorm::new(&weight, Some(&bias), EPS, activation)?)
    }

    fn stage(&mut self, config: &AutoencoderConfig, number: usize) -> Result<Stage, Error> {
        let widths = &config.decoder_block_out_channels;
        let width = widths[number];
        let prefix = format!("decoder.up_blocks.{number}");
        let upsample = match widths.get(number + 1) {
            None => None,
            Some(&below) => {
                if !(4 * width).is_multiple_of(below) {
                    return Err(Error::Model(format!("{prefix}: {below} channels cannot become {width}")));
                }
                let name = format!("{prefix}.0.conv");
                let (weight, bias) = (self.weight(&name, &[width, below, 3, 3])?, self.bias(&name, width)?);
                let layer = UpsampleConv::new(&weight, Some(&bias))?;
                self.bytes += layer.bytes();
                Some(layer)
            }
        };
        let first = usize::from(upsample.is_some());
        let blocks = (first..first + config.decoder_layers_per_block[number])
            .map(|block| {
                let name = format!("{prefix}.{block}");
                match config.decoder_block_types[number] {
                    BlockKind::ResBlock => Ok(Block::Residual(Box::new(self.residual(&name, width)?))),
                    BlockKind::EfficientViTBlock => {
                        let scales = &config.decoder_qkv_multiscales[number];
                        let attention = self.attention(&name, width, config.attention_head_dim, scales)?;
                        Ok(Block::Vit(Box::new((attention, self.gated(&name, width)?))))
                    }
                }
            })
            .collect::<Result<_, Error>>()?;
        Ok(Stage { upsample, blocks })
    }

    fn residual(&mut self, name: &str, width: usize) -> Result<ResBlock, Error> {
        Ok(ResBlock {
            conv1: self.conv(&format!("{name}.conv1"), width, width, true, Activation::Silu)?,
            conv2: self.conv(&format!("{name}.conv2"), width, width, false, Activation::None)?,
            norm: self.norm(&format!("{name}.norm"), width, Activation::None)?,
        })
    }

    /// The library concatenates queries, keys and values, then cuts the whole into groups of three times the head's
    /// width; so what a group takes as queries may come from any of the three (reference section 9).
    fn attention(
        &mut self,
        name: &str,
        width: usize,
        head: usize,
        scales: &[usize],
    ) -> Result<Attention, Error> {
        if !width.is_multiple_of(head) {
            return Err(Error::Model(format!(
                "{name}: {width} channels are no multiple of the head's {head}"
            )));
        }
        let groups = width / head;
        let parts =
            ["q", "k", "v"].map(|part| self.weight(&format!("{name}.attn.to_{part}"), &[width, width]));
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
        let second_scale = match scales {
            [] => None,
            [size] => {
                let prefix = format!("{name}.attn.to_qkv_multiscale.0");
                let proj_in = self.weight(&format!("{prefix}.proj_in"), &[3 * width, 1, *size, *size])?;
                let proj_out = self.weight(&format!("{prefix}.proj_out"), &[3 * width, head, 1, 1])?;
                let both = (
                    MultiScale::new(&proj_in, &proj_out, &query_runs)?,
                    MultiScale::new(&proj_in, &proj_out, &key_value_runs)?,
                );
                self.bytes += both.0.bytes() + both.1.bytes();
                Some(both)
            }
            more => {
                return Err(Error::Model(format!(
                    "{name}: {} extra attention scales, at most 1 is supported",
                    more.len()
                )));
            }
        };
        let scales = 1 + usize::from(second_scale.is_some());
        Ok(Attention {
            channels: width,
            width: head,
            queries,
            keys_values,
            second_scale,
            to_out: self.linear(&format!("{name}.attn.to_out"), &[width, scales * width], false, None)?,
            norm: self.norm(&format!("{name}.attn.norm_out"), width, Activation::None)?,
        })
    }

    fn gated(&mut self, name: &str, width: usize) -> Result<GatedConv, Error> {
        let hidden = 4 * width;
        let prefix = format!("{name}.conv_out");
        let inverted =
            self.linear(&format!("{prefix}.conv_inverted"), &[2 * hidden, width, 1, 1], true, None)?;
        let depth = format!("{prefix}.conv_depth");
        let (weight, bias) = (self.weight(&depth, &[2 * hidden, 1, 3, 3])?, self.bias(&depth, 2 * hidden)?);
        let depthwise = GatedDepthwise::new(&weight, Some(&bias))?;
        self.bytes += depthwise.bytes();
        Ok(GatedConv {
            inverted: inverted.with(Activation::Silu),
            depthwise,
            point: self.linear(&format!("{prefix}.conv_point"), &[width, hidden, 1, 1], false, None)?,
            norm: self.norm(&format!("{prefix}.norm"), width, Activation::None)?,
        })
    }
}

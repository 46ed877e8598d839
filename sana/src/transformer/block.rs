//! One block: linear self-attention, cross-attention to the text, Mix-FFN.

use candle_core::{Result, Tensor};

use super::{Load, Observer, per_sequence};
use crate::Error;
use crate::config::TransformerConfig;
use crate::ops::{
    Activation, AddGated, CrossText, GatedDepthwise, LayerNormModulated, Linear, RmsNorm, TokenAttention,
    to_vec,
};

/// Queries, keys and values of one attention, its output layer, and the norms that Sana 1.5 has on queries and keys.
#[derive(Debug)]
struct Projections {
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    norms: Option<(RmsNorm, RmsNorm)>,
}

impl Projections {
    fn load(
        load: &mut Load<'_>,
        name: &str,
        width: usize,
        bias: bool,
        norms: bool,
    ) -> std::result::Result<Self, Error> {
        let mut linear = |part: &str, bias| load.linear(&format!("{name}.{part}"), &[width, width], bias);
        let (q, k, v) = (linear("to_q", bias)?, linear("to_k", bias)?, linear("to_v", bias)?);
        let out = linear("to_out.0", true)?;
        let norms = match norms {
            false => None,
            true => Some((
                load.norm(&format!("{name}.norm_q"), width)?,
                load.norm(&format!("{name}.norm_k"), width)?,
            )),
        };
        Ok(Self { q, k, v, out, norms })
    }

    fn queries(&self, x: &Tensor) -> Result<Tensor> {
        let q = self.q.forward(x)?;
        self.norms.as_ref().map_or(Ok(q.clone()), |(norm, _)| norm.forward(&q))
    }

    fn keys(&self, x: &Tensor) -> Result<Tensor> {
        let k = self.k.forward(x)?;
        self.norms.as_ref().map_or(Ok(k.clone()), |(_, norm)| norm.forward(&k))
    }
}

/// Weights of a block.
#[derive(Debug)]
pub struct Block {
    /// Shift, scale, gate of the attention; shift, scale, gate of the feed-forward part.
    scale_shift_table: Vec<f32>,
    attention: Projections,
    self_attention: TokenAttention,
    cross: Projections,
    cross_heads: (usize, usize),
    inverted: Linear,
    depthwise: GatedDepthwise,
    point: Linear,
    width: usize,
    eps: f32,
}

/// Keys and values of one text for one block.
#[derive(Debug)]
pub struct BlockText(CrossText);

impl Block {
    pub(super) fn load(
        load: &mut Load<'_>,
        config: &TransformerConfig,
        index: usize,
    ) -> std::result::Result<Self, Error> {
        let (width, hidden) = (config.width(), config.hidden_width());
        let prefix = format!("transformer_blocks.{index}");
        let depth = format!("{prefix}.ff.conv_depth");
        let weight = load.weights.get(&format!("{depth}.weight"), &[2 * hidden, 1, 3, 3])?;
        let bias = load.weights.get(&format!("{depth}.bias"), &[2 * hidden])?;
        let depthwise = GatedDepthwise::new(&weight, Some(&bias))?;
        load.bytes += depthwise.bytes();
        let inverted =
            load.linear(&format!("{prefix}.ff.conv_inverted"), &[2 * hidden, width, 1, 1], true)?;
        Ok(Self {
            scale_shift_table: to_vec(
                &load.weights.get(&format!("{prefix}.scale_shift_table"), &[6, width])?,
            )?,
            attention: Projections::load(load, &format!("{prefix}.attn1"), width, false, config.qk_norm)?,
            self_attention: TokenAttention {
                heads: config.num_attention_heads,
                width: config.attention_head_dim,
            },
            cross: Projections::load(load, &format!("{prefix}.attn2"), width, true, config.qk_norm)?,
            cross_heads: (config.num_cross_attention_heads, config.cross_attention_head_dim),
            inverted: inverted.with(Activation::Silu),
            depthwise,
            point: load.linear(&format!("{prefix}.ff.conv_point"), &[width, hidden, 1, 1], false)?,
            width,
            eps: config.norm_eps as f32,
        })
    }

    /// Keys and values of a caption, `[tokens, width]`.
    pub fn prepare(&self, caption: &Tensor) -> Result<BlockText> {
        let (heads, width) = self.cross_heads;
        CrossText::new(&self.cross.keys(caption)?, &self.cross.v.forward(caption)?, heads, width)
            .map(BlockText)
    }

    /// `hidden` is `[sequences * height * width, channels]`, a row of `modulation` `[6 * channels]`.
    pub fn forward(
        &self,
        hidden: Tensor,
        (height, width): (usize, usize),
        modulation: &[Vec<f32>],
        texts: &[&BlockText],
        observer: Option<Observer<'_>>,
    ) -> Result<Tensor> {
        let tokens = height * width;
        let modulation: Vec<Vec<f32>> = modulation
            .iter()
            .map(|row| row.iter().zip(&self.scale_shift_table).map(|(time, table)| time + table).collect())
            .collect();
        let part = |index: usize, part: usize| &modulation[index][part * self.width..][..self.width];

        let observe = |name: &str, value: &Tensor| observer.map_or(Ok(()), |observer| observer(name, value));
        if observer.is_some() {
            // Its own module in the reference; here the modulation is part of it.
            let zero = vec![0.0; self.width];
            observe("norm1", &self.normed(&hidden, tokens, |_| (&zero, &zero))?)?;
        }

        let x = self.normed(&hidden, tokens, |index| (part(index, 0), part(index, 1)))?;
        let (q, k, v) =
            (self.attention.queries(&x)?, self.attention.keys(&x)?, self.attention.v.forward(&x)?);
        let attended = per_sequence(&q, tokens, |index, q| {
            let rows = |all: &Tensor| all.narrow(0, index * tokens, tokens);
            q.apply_op3_no_bwd(&rows(&k)?, &rows(&v)?, &self.self_attention)
        })?;
        let attended = self.attention.out.forward(&attended)?;
        observe("attn1", &attended)?;
        self.add_gated(&hidden, &attended, tokens, |index| part(index, 2))?;

        let queries = self.cross.queries(&hidden)?;
        let attended =
            per_sequence(&queries, tokens, |index, queries| queries.apply_op1_no_bwd(&texts[index].0))?;
        let attended = self.cross.out.forward(&attended)?;
        observe("attn2", &attended)?;
        let hidden = (hidden + attended)?;

        let x = self.normed(&hidden, tokens, |index| (part(index, 3), part(index, 4)))?;
        let inverted = self.inverted.forward(&x)?;
        let gated = per_sequence(&inverted, tokens, |_, rows| {
            let channels = rows.dim(1)?;
            let frame = Tensor::zeros((1, width, channels), rows.dtype(), rows.device())?;
            let rows = Tensor::cat(&[&rows.reshape((height, width, channels))?, &frame], 0)?;
            frame.apply_op2_no_bwd(&rows, &self.depthwise)?.flatten(0, 1)
        })?;
        let out = self.point.forward(&gated)?;
        observe("ff", &out)?;
        self.add_gated(&hidden, &out, tokens, |index| part(index, 5))?;
        Ok(hidden)
    }

    /// Layer norm of each sequence with its own shift and scale.
    fn normed<'a>(
        &self,
        hidden: &Tensor,
        tokens: usize,
        shift_scale: impl Fn(usize) -> (&'a [f32], &'a [f32]),
    ) -> Result<Tensor> {
        per_sequence(hidden, tokens, |index, rows| {
            let (shift, scale) = shift_scale(index);
            rows.apply_op1_no_bwd(&LayerNormModulated { scale, shift, eps: self.eps })
        })
    }

    /// `hidden += gate * y`, in place, each sequence with its own gate.
    fn add_gated<'a>(
        &self,
        hidden: &Tensor,
        y: &Tensor,
        tokens: usize,
        gate: impl Fn(usize) -> &'a [f32],
    ) -> Result<()> {
        for index in 0..hidden.dim(0)? / tokens {
            let rows = |all: &Tensor| all.narrow(0, index * tokens, tokens);
            rows(hidden)?.inplace_op2(&rows(y)?, &AddGated { gate: gate(index) })?;
        }
        Ok(())
    }
}

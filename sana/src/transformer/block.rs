//! One block: linear self-attention, cross-attention to the text, Mix-FFN.

use candle_core::{Result, Tensor};

use super::{Load, Observer};
use crate::Error;
use crate::config::TransformerConfig;
use crate::ops::{
    Activation, CrossText, GatedDepthwise, Linear, Modulation, RmsNorm, TokenAttention, add, add_gated,
    cross_attention, layer_norm_modulated, to_vec,
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
                sequences: 1,
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
        let observe = |name: &str, value: &Tensor| observer.map_or(Ok(()), |observer| observer(name, value));
        let modulation: Vec<Vec<f32>> = modulation
            .iter()
            .map(|row| row.iter().zip(&self.scale_shift_table).map(|(time, table)| time + table).collect())
            .collect();
        let sequences = modulation.len();
        if observer.is_some() {
            // Its own module in the reference; here the modulation is part of it.
            let zeros = Modulation::new(vec![vec![0.0; self.width]; sequences], self.width, &hidden)?;
            observe("norm1", &layer_norm_modulated(&hidden, &zeros, 0, 0, self.eps)?)?;
        }
        // Shift, scale, gate of the attention; the same of the feed-forward part.
        let modulation = Modulation::new(modulation, self.width, &hidden)?;

        // Each part's tensors are gone before the next makes its own: they are most of the memory of a call.
        let attended = self.attend(&hidden, &modulation, sequences)?;
        observe("attn1", &attended)?;
        add_gated(&hidden, &attended, &modulation, 2)?;
        drop(attended);

        let texts: Vec<_> = texts.iter().map(|text| &text.0).collect();
        let attended = self.cross.out.forward(&cross_attention(&self.cross.queries(&hidden)?, &texts)?)?;
        observe("attn2", &attended)?;
        add(&hidden, &attended)?;
        drop(attended);

        let out = self.feed_forward(&hidden, &modulation, (height, width))?;
        observe("ff", &out)?;
        add_gated(&hidden, &out, &modulation, 5)?;
        Ok(hidden)
    }

    /// The linear self-attention with its norm.
    fn attend(&self, hidden: &Tensor, modulation: &Modulation, sequences: usize) -> Result<Tensor> {
        let x = layer_norm_modulated(hidden, modulation, 1, 0, self.eps)?;
        let (q, k, v) =
            (self.attention.queries(&x)?, self.attention.keys(&x)?, self.attention.v.forward(&x)?);
        drop(x);
        let attention = TokenAttention { sequences, ..self.self_attention };
        self.attention.out.forward(&attention.forward(&q, &k, &v)?)
    }

    /// The Mix-FFN with its norm.
    fn feed_forward(
        &self,
        hidden: &Tensor,
        modulation: &Modulation,
        (height, width): (usize, usize),
    ) -> Result<Tensor> {
        let x = layer_norm_modulated(hidden, modulation, 4, 3, self.eps)?;
        let wide = self.inverted.forward(&x)?;
        drop(x);
        let gated = self.depthwise.pictures(&wide, height, width)?;
        drop(wide);
        self.point.forward(&gated)
    }
}

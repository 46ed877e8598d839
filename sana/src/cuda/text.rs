//! What the text encoder needs beside linear layers and norms.

use candle_core::{Result, Tensor, bail};

use super::Launch;
use super::table::{CAUSAL_SOFTMAX, GELU_PRODUCT, ROPE};

/// Threads of a block that turns a token's heads.
const THREADS: usize = 128;

/// Turns `x` `[tokens, heads * dim]` by the angles whose cosines and sines are `[tokens, dim / 2]` in f32, to
/// `[heads, tokens, dim]`.
pub(crate) fn rope(x: &Tensor, cosines: &Tensor, sines: &Tensor, heads: usize) -> Result<Tensor> {
    let (tokens, channels) = x.dims2()?;
    let dim = channels / heads;
    if channels != heads * dim || cosines.dims() != [tokens, dim / 2] || sines.dims() != cosines.dims() {
        bail!("rope: {:?} does not fit angles of {:?}", x.dims(), cosines.dims());
    }
    Launch::new(&ROPE, x.dtype(), [tokens, 1, 1], [THREADS, 1])
        .tensor(x)
        .tensor(cosines)
        .tensor(sines)
        .target()
        .ints([tokens, heads, dim])
        .make((heads, tokens, dim), x.dtype())
}

/// Scales, bends, masks and normalises scores.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CausalSoftmax {
    pub scale: f32,
    /// Scores `s` become `cap * tanh(s / cap)`.
    pub cap: Option<f32>,
    /// Tokens that one sees at most, itself included.
    pub window: Option<usize>,
}

impl CausalSoftmax {
    /// In place, on contiguous scores `[.., tokens]`; row `i` is of token `i % tokens`.
    pub fn run(self, scores: &Tensor) -> Result<()> {
        let Some(&tokens) = scores.dims().last() else { bail!("causal softmax: a single score") };
        let rows = scores.elem_count() / tokens.max(1);
        Launch::over_rows(&CAUSAL_SOFTMAX, scores.dtype(), rows)
            .target()
            .ints([rows, tokens])
            .float(self.scale)
            .float(self.cap.unwrap_or(0.0))
            .int(self.window.unwrap_or(0))
            .change(scores)
    }
}

/// `gelu(gate) * up`, tanh form, both `[rows, n]`.
pub(crate) fn gelu_product(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if up.dims() != gate.dims() {
        bail!("gelu product: {:?} does not fit {:?}", up.dims(), gate.dims());
    }
    Launch::over_values(&GELU_PRODUCT, gate.dtype(), gate.elem_count())
        .tensor(gate)
        .tensor(up)
        .target()
        .int(gate.elem_count())
        .make(gate.shape(), gate.dtype())
}

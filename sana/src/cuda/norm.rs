//! Norms over the channels of each pixel or token, and sums of two tensors.

use candle_core::{Result, Tensor, bail};

use super::table::{ADD_GATED, LAYER_NORM_MODULATED, RMS_NORM};
use super::{Launch, code, f32_of};
use crate::ops::Activation;

/// `activation(x / sqrt(mean(x^2) + eps) * weight + bias + residual)` over the last dimension.
#[derive(Debug)]
pub(crate) struct RmsNorm {
    weight: Tensor,
    bias: Option<Tensor>,
    eps: f32,
    activation: Activation,
}

impl RmsNorm {
    /// `weight` and `bias` are `[n]`.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>, eps: f32, activation: Activation) -> Result<Self> {
        if let Some(bias) = bias
            && bias.dims() != weight.dims()
        {
            bail!("rms norm: a bias of {:?} does not fit a weight of {:?}", bias.dims(), weight.dims());
        }
        Ok(Self { weight: f32_of(weight)?, bias: bias.map(f32_of).transpose()?, eps, activation })
    }

    /// Any shape `[.., n]`; the residual, of the same shape, is added.
    pub fn forward(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        let n = self.weight.dims1()?;
        let rows = rows_of("rms norm", x, n)?;
        if let Some(residual) = residual
            && residual.dims() != x.dims()
        {
            bail!("rms norm: the residual is {:?}, the input {:?}", residual.dims(), x.dims());
        }
        Launch::over_rows(&RMS_NORM, x.dtype(), rows)
            .tensor(x)
            .tensor(&self.weight)
            .optional(self.bias.as_ref())
            .optional(residual)
            .target()
            .ints([rows, n])
            .float(self.eps)
            .int(code(self.activation))
            .make(x.shape(), x.dtype())
    }
}

/// `layer_norm(x) * (1 + scale) + shift` for `x` `[sequences * tokens, n]`; scale and shift are the parts of that number of
/// `modulation`, `[sequences, parts * n]` in f32.
pub(crate) fn layer_norm_modulated(
    x: &Tensor,
    modulation: &Tensor,
    scale: usize,
    shift: usize,
    eps: f32,
) -> Result<Tensor> {
    let (rows, n) = x.dims2()?;
    let (tokens, stride) = modulated("layer norm", rows, n, modulation, scale.max(shift))?;
    Launch::over_rows(&LAYER_NORM_MODULATED, x.dtype(), rows)
        .tensor(x)
        .tensor(modulation)
        .target()
        .ints([rows, tokens, n, stride, scale * n, shift * n])
        .float(eps)
        .make(x.shape(), x.dtype())
}

/// `x += gate * y`, both `[sequences * tokens, n]`, the gate being a part of `modulation` as above.
pub(crate) fn add_gated(x: &Tensor, y: &Tensor, modulation: &Tensor, gate: usize) -> Result<()> {
    let (rows, n) = x.dims2()?;
    let (tokens, stride) = modulated("add gated", rows, n, modulation, gate)?;
    add_rows(x, y, Some(modulation), [rows, tokens, n, stride, gate * n])
}

/// `x += y`.
pub(crate) fn add(x: &Tensor, y: &Tensor) -> Result<()> {
    let (rows, n) = x.dims2()?;
    add_rows(x, y, None, [rows, rows, n, 0, 0])
}

fn add_rows(x: &Tensor, y: &Tensor, modulation: Option<&Tensor>, numbers: [usize; 5]) -> Result<()> {
    if x.dims() != y.dims() {
        bail!("add: {:?} does not fit {:?}", y.dims(), x.dims());
    }
    Launch::over_values(&ADD_GATED, x.dtype(), x.elem_count())
        .target()
        .tensor(y)
        .optional(modulation)
        .ints(numbers)
        .change(x)
}

/// Tokens of a sequence and values in a row of the modulation, which must have the part of that number.
fn modulated(name: &str, rows: usize, n: usize, modulation: &Tensor, part: usize) -> Result<(usize, usize)> {
    let (sequences, stride) = modulation.dims2()?;
    if sequences == 0 || !rows.is_multiple_of(sequences) || (part + 1) * n > stride {
        bail!("{name}: part {part} of {:?} does not fit {rows} rows of {n}", modulation.dims());
    }
    Ok((rows / sequences, stride))
}

/// Rows of `n` values.
pub(super) fn rows_of(name: &str, x: &Tensor, n: usize) -> Result<usize> {
    if x.dims().last() != Some(&n) {
        bail!("{name}: the input is {:?}, its last dimension should be {n}", x.dims());
    }
    Ok(x.elem_count() / n)
}

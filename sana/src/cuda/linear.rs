//! Linear layers and the GLU-like product behind two of them.

use candle_core::{Result, Tensor, bail};

use super::table::BIAS_ACTIVATION;
use super::{Launch, code, f32_of};
use crate::ops::Activation;

/// `activation(x W^T + b)`.
#[derive(Debug)]
pub(crate) struct Linear {
    /// `[out, in]`.
    weight: Tensor,
    bias: Option<Tensor>,
    activation: Activation,
}

impl Linear {
    /// `weight` is `[out, in]` (trailing dimensions of 1 are allowed), `bias` is `[out]`; of both only the given rows are
    /// used, in that order.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>, rows: Option<&[usize]>) -> Result<Self> {
        let weight = weight.flatten_from(1)?;
        let chosen = |tensor: &Tensor| match rows {
            None => tensor.contiguous(),
            Some(rows) => choose(tensor, rows),
        };
        let bias = bias.map(|bias| f32_of(&chosen(bias)?)).transpose()?;
        Ok(Self { weight: chosen(&weight)?, bias, activation: Activation::None })
    }

    pub fn with(mut self, activation: Activation) -> Self {
        self.activation = activation;
        self
    }

    /// `x` is `[.., in]`, the result `[.., out]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (out, input) = self.weight.dims2()?;
        let mut dims = x.dims().to_vec();
        match dims.last_mut() {
            Some(last) if *last == input => *last = out,
            _ => bail!("linear: the input is {:?}, its last dimension should be {input}", x.dims()),
        }
        let rows = x.contiguous()?.reshape(((), input))?;
        product(&rows, &self.weight, self.bias.as_ref(), self.activation)?.reshape(dims)
    }

    /// `[out, in]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// Bytes of weights held.
    pub fn bytes(&self) -> usize {
        self.weight.elem_count() * self.weight.dtype().size_in_bytes()
    }
}

/// `activation(rows W^T + b)` for `rows` `[n, in]`, `weight` `[out, in]` and an f32 bias `[out]`.
pub(super) fn product(
    rows: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    activation: Activation,
) -> Result<Tensor> {
    let result = rows.matmul(&weight.t()?)?;
    if bias.is_some() || activation != Activation::None {
        let (count, n) = result.dims2()?;
        if let Some(bias) = bias
            && bias.dims() != [n]
        {
            bail!("linear: a bias of {:?} does not fit {n} outputs", bias.dims());
        }
        Launch::over_values(&BIAS_ACTIVATION, result.dtype(), count * n)
            .target()
            .optional(bias)
            .ints([count, n, code(activation)])
            .change(&result)?;
    }
    Ok(result)
}

/// Parts of a tensor along its first dimension, in the given order.
pub(super) fn choose(tensor: &Tensor, parts: &[usize]) -> Result<Tensor> {
    let parts: Vec<u32> = parts.iter().map(|&part| part as u32).collect();
    let count = parts.len();
    tensor.contiguous()?.index_select(&Tensor::from_vec(parts, count, tensor.device())?, 0)
}

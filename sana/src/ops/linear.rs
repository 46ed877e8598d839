//! Linear layers.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::{Activation, count, made, to_vec, values};
use crate::Error;
use crate::cpu::gemm::{Packed, Place, Rows, gemm};
use crate::weights::TensorView;

/// `activation(x W^T + b)`. A row of the result depends on its own row of `x` alone.
#[derive(Debug)]
pub struct Linear {
    packed: Packed,
    activation: Activation,
}

impl Linear {
    /// `weight` is `[out, in]` (trailing dimensions of 1 are allowed), `bias` is `[out]`.
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        Self::of_rows(&weight, bias.as_ref(), None)
    }

    /// Like [`Self::new`], packed straight from the type that the weight is stored in.
    pub fn stored(weight: &TensorView<'_>, bias: Option<&Tensor>) -> std::result::Result<Self, Error> {
        let [out, inputs @ ..] = weight.shape() else {
            return Err(candle_core::Error::msg("a linear layer needs a weight of two dimensions").into());
        };
        let (input, values) = (inputs.iter().product(), weight.values());
        let bias = bias.map(to_vec).transpose()?;
        let packed = Packed::new(input, *out, bias, |k, n| values.get(n * input + k));
        weight.check()?;
        Ok(Self { packed, activation: Activation::None })
    }

    /// The layer that computes only the given outputs, in the given order.
    pub fn of_rows(weight: &Tensor, bias: Option<&Tensor>, rows: Option<&[usize]>) -> Result<Self> {
        let (out, input) = weight.flatten_from(1)?.dims2()?;
        let weight = to_vec(weight)?;
        let bias = bias.map(to_vec).transpose()?;
        let all: Vec<usize>;
        let rows = match rows {
            Some(rows) => rows,
            None => {
                all = (0..out).collect();
                &all
            }
        };
        let bias = bias.map(|bias| rows.iter().map(|&row| bias[row]).collect());
        let packed = Packed::new(input, rows.len(), bias, |k, n| weight[rows[n] * input + k]);
        Ok(Self { packed, activation: Activation::None })
    }

    /// The same layer with an activation behind it.
    pub fn with(mut self, activation: Activation) -> Self {
        self.activation = activation;
        self
    }

    /// `x` is `[.., in]`, the result `[.., out]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.contiguous()?.apply_op1_no_bwd(self)
    }

    /// Bytes of weights held.
    pub fn bytes(&self) -> usize {
        self.packed.bytes()
    }
}

impl CustomOp1 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values("linear", storage, layout)?;
        let mut dims = layout.dims().to_vec();
        let (k, n) = (self.packed.inner(), self.packed.columns());
        match dims.last_mut() {
            Some(last) if *last == k => *last = n,
            _ => candle_core::bail!(
                "linear: the input is {:?}, its last dimension should be {k}",
                layout.dims()
            ),
        }
        let pixels = x.len() / k;
        count::add(pixels * n, k);
        let mut out = vec![0.0; pixels * n];
        let rows = Rows { data: x, count: pixels, stride: k, segments: &[0], length: k };
        gemm(rows, &self.packed, self.activation, Place::rows(n, 0), &mut out);
        made(out, dims)
    }
}

//! Linear layers.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::{Activation, by_kernels, count, made, put_beside, to_vec, values};
use crate::Error;
use crate::cpu::gemm::{Packed, Place, Rows, gemm};
use crate::cuda;
use crate::weights::{TensorView, Weights};

/// `activation(x W^T + b)`. A row of the result depends on its own row of `x` alone.
#[derive(Debug)]
pub struct Linear(Kind);

#[derive(Debug)]
enum Kind {
    Cpu(Packed, Activation),
    Device(cuda::Linear),
}

impl Linear {
    /// `weight` is `[out, in]` (trailing dimensions of 1 are allowed), `bias` is `[out]`.
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        Self::of_rows(&weight, bias.as_ref(), None)
    }

    /// Loads `name.weight` of this shape where the weights are placed.
    pub fn load(
        weights: &Weights,
        name: &str,
        shape: &[usize],
        bias: Option<&Tensor>,
    ) -> std::result::Result<Self, Error> {
        let name = format!("{name}.weight");
        if weights.placement().by_kernels() {
            return Ok(Self::of_rows(&weights.get(&name, shape)?, bias, None)?);
        }
        Self::stored(&weights.view(&name, shape)?, bias)
    }

    /// On the CPU, packed straight from the type that the weight is stored in.
    fn stored(weight: &TensorView<'_>, bias: Option<&Tensor>) -> std::result::Result<Self, Error> {
        let [out, inputs @ ..] = weight.shape() else {
            return Err(candle_core::Error::msg("a linear layer needs a weight of two dimensions").into());
        };
        let (input, values) = (inputs.iter().product(), weight.values());
        let bias = bias.map(to_vec).transpose()?;
        let packed = Packed::new(input, *out, bias, |k, n| values.get(n * input + k));
        weight.check()?;
        Ok(Self(Kind::Cpu(packed, Activation::None)))
    }

    /// The layer that computes only the given outputs, in the given order.
    pub fn of_rows(weight: &Tensor, bias: Option<&Tensor>, rows: Option<&[usize]>) -> Result<Self> {
        if by_kernels(weight) {
            return Ok(Self(Kind::Device(cuda::Linear::new(weight, bias, rows)?)));
        }
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
        Ok(Self(Kind::Cpu(packed, Activation::None)))
    }

    /// The same layer with an activation behind it.
    pub fn with(self, activation: Activation) -> Self {
        Self(match self.0 {
            Kind::Cpu(packed, _) => Kind::Cpu(packed, activation),
            Kind::Device(layer) => Kind::Device(layer.with(activation)),
        })
    }

    /// `x` is `[.., in]`, the result `[.., out]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match &self.0 {
            Kind::Cpu(packed, activation) => {
                x.contiguous()?.apply_op1_no_bwd(&OnCpu { packed, activation: *activation })
            }
            Kind::Device(layer) => layer.forward(&put_beside(layer.weight(), x)?),
        }
    }

    /// Bytes of weights held.
    pub fn bytes(&self) -> usize {
        match &self.0 {
            Kind::Cpu(packed, _) => packed.bytes(),
            Kind::Device(layer) => layer.bytes(),
        }
    }
}

struct OnCpu<'a> {
    packed: &'a Packed,
    activation: Activation,
}

impl CustomOp1 for OnCpu<'_> {
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
        gemm(rows, self.packed, self.activation, Place::rows(n, 0), &mut out);
        made(out, dims)
    }
}

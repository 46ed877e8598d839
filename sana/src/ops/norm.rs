//! Norms and the small steps around them.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, InplaceOp2, Layout, Result, Shape, Tensor, bail};

use super::{by_kernels, made, to_vec, values};
use crate::cpu::math::Activation;
use crate::cpu::norm;
use crate::cuda;

/// `activation(x / sqrt(mean(x^2) + eps) * weight + bias)` over the last dimension.
#[derive(Debug)]
pub struct RmsNorm(Kind);

#[derive(Debug)]
enum Kind {
    Cpu(OnCpu),
    Device(cuda::RmsNorm),
}

#[derive(Debug)]
struct OnCpu {
    weight: Vec<f32>,
    bias: Vec<f32>,
    eps: f32,
    activation: Activation,
}

impl RmsNorm {
    /// `weight` and `bias` are `[n]`.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>, eps: f64, activation: Activation) -> Result<Self> {
        let eps = eps as f32;
        if by_kernels(weight) {
            return Ok(Self(Kind::Device(cuda::RmsNorm::new(weight, bias, eps, activation)?)));
        }
        let bias = bias.map(to_vec).transpose()?.unwrap_or_default();
        Ok(Self(Kind::Cpu(OnCpu { weight: to_vec(weight)?, bias, eps, activation })))
    }

    /// Of weights that are stored as the distance from 1, `[n]`.
    pub fn beyond_one(weight: &Tensor, eps: f64) -> Result<Self> {
        if by_kernels(weight) {
            let weight = (weight.to_dtype(DType::F32)? + 1.0)?;
            let norm = cuda::RmsNorm::new(&weight, None, eps as f32, Activation::None)?;
            return Ok(Self(Kind::Device(norm)));
        }
        Self::new(&(weight + 1.0)?, None, eps, Activation::None)
    }

    /// Any shape `[.., n]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match &self.0 {
            Kind::Cpu(norm) => x.contiguous()?.apply_op1_no_bwd(norm),
            Kind::Device(norm) => norm.forward(&x.contiguous()?, None),
        }
    }

    /// The norm of `x`, plus `residual`.
    pub fn forward_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        let (x, residual) = (x.contiguous()?, residual.contiguous()?);
        match &self.0 {
            Kind::Cpu(norm) => x.apply_op2_no_bwd(&residual, &RmsNormAdd(norm)),
            Kind::Device(norm) => norm.forward(&x, Some(&residual)),
        }
    }
}

impl OnCpu {
    fn run(&self, layout: &Layout, x: &[f32], residual: &[f32]) -> Result<(CpuStorage, Shape)> {
        if layout.dims().last() != Some(&self.weight.len()) {
            bail!(
                "rms norm: the input is {:?}, its last dimension should be {}",
                layout.dims(),
                self.weight.len()
            );
        }
        let mut out = vec![0.0; x.len()];
        norm::rms_norm(x, &self.weight, &self.bias, self.eps, residual, &mut out);
        self.activation.apply(&mut out);
        made(out, layout.shape().clone())
    }
}

impl CustomOp1 for OnCpu {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.run(layout, values("rms-norm", storage, layout)?, &[])
    }
}

/// A norm with a residual added behind it.
struct RmsNormAdd<'a>(&'a OnCpu);

impl CustomOp2 for RmsNormAdd<'_> {
    fn name(&self) -> &'static str {
        "rms-norm-add"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        if l1.dims() != l2.dims() {
            bail!("rms norm: the residual is {:?}, the input {:?}", l2.dims(), l1.dims());
        }
        self.0.run(l1, values(self.name(), s1, l1)?, values(self.name(), s2, l2)?)
    }
}

/// Rows of factors and summands, one for each sequence, in parts as wide as a token.
#[derive(Debug)]
pub struct Modulation {
    width: usize,
    rows: Vec<Vec<f32>>,
    /// The same on the device of the tokens, `[sequences, parts * width]` in f32.
    there: Option<Tensor>,
}

impl Modulation {
    /// `rows` of whole parts of `width`, for tokens that are where `tokens` is.
    pub fn new(rows: Vec<Vec<f32>>, width: usize, tokens: &Tensor) -> Result<Self> {
        let there = match by_kernels(tokens) {
            true => Some(Tensor::new(rows.clone(), tokens.device())?),
            false => None,
        };
        Ok(Self { width, rows, there })
    }

    /// Of each sequence the part of that number.
    fn part(&self, part: usize) -> impl Iterator<Item = &[f32]> {
        self.rows.iter().map(move |row| &row[part * self.width..][..self.width])
    }
}

/// `layer_norm(x) * (1 + scale) + shift` over the last dimension of `[sequences * tokens, n]`, the norm without parameters of
/// its own; scale and shift are the parts of that number of the sequence's modulation.
pub fn layer_norm_modulated(
    x: &Tensor,
    modulation: &Modulation,
    scale: usize,
    shift: usize,
    eps: f32,
) -> Result<Tensor> {
    if let Some(there) = &modulation.there {
        return cuda::layer_norm_modulated(x, there, scale, shift, eps);
    }
    let scale_shift: Vec<_> = modulation.part(scale).zip(modulation.part(shift)).collect();
    x.apply_op1_no_bwd(&LayerNormModulated { scale_shift: &scale_shift, eps })
}

/// `x += gate * y`, in place, both `[sequences * tokens, n]`, the gate being a part of the sequence's modulation.
pub fn add_gated(x: &Tensor, y: &Tensor, modulation: &Modulation, gate: usize) -> Result<()> {
    if let Some(there) = &modulation.there {
        return cuda::add_gated(x, y, there, gate);
    }
    let gates: Vec<_> = modulation.part(gate).collect();
    x.inplace_op2(y, &AddGated { gates: &gates })
}

/// `x += y`, in place, both `[rows, n]`.
pub fn add(x: &Tensor, y: &Tensor) -> Result<()> {
    if by_kernels(x) {
        return cuda::add(x, y);
    }
    x.inplace_op2(y, &AddGated { gates: &[] })
}

/// The norm on the CPU: for each sequence what is added to 1 and multiplied with, and what is added.
struct LayerNormModulated<'a> {
    scale_shift: &'a [(&'a [f32], &'a [f32])],
    eps: f32,
}

impl CustomOp1 for LayerNormModulated<'_> {
    fn name(&self) -> &'static str {
        "layer-norm-modulated"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(self.name(), storage, layout)?;
        let mut out = vec![0.0; x.len()];
        let length = x.len() / self.scale_shift.len();
        let parts = x.chunks_exact(length).zip(out.chunks_exact_mut(length));
        for ((scale, shift), (x, out)) in self.scale_shift.iter().zip(parts) {
            norm::layer_norm_modulated(x, scale, shift, self.eps, out);
        }
        made(out, layout.shape().clone())
    }
}

/// The sum on the CPU: for each sequence one factor for each channel; none for a plain sum.
struct AddGated<'a> {
    gates: &'a [&'a [f32]],
}

impl InplaceOp2 for AddGated<'_> {
    fn name(&self) -> &'static str {
        "add-gated"
    }

    fn cpu_fwd(&self, s1: &mut CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<()> {
        let y = values(self.name(), s2, l2)?;
        let (Some((start, end)), CpuStorage::F32(x)) = (l1.contiguous_offsets(), s1) else {
            bail!("add-gated: the target is not a contiguous f32 tensor")
        };
        if end - start != y.len() {
            bail!("add-gated: {:?} does not fit {:?}", l2.dims(), l1.dims());
        }
        let x = &mut x[start..end];
        if self.gates.is_empty() {
            norm::add(x, y);
            return Ok(());
        }
        let length = x.len() / self.gates.len();
        for (gate, (x, y)) in self.gates.iter().zip(x.chunks_exact_mut(length).zip(y.chunks_exact(length))) {
            norm::add_gated(x, gate, y);
        }
        Ok(())
    }
}

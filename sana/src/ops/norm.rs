//! Norms and the small steps around them.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, InplaceOp2, Layout, Result, Shape, Tensor, bail};

use super::{made, to_vec, values};
use crate::cpu::math::Activation;
use crate::cpu::norm;

/// `activation(x / sqrt(mean(x^2) + eps) * weight + bias)` over the last dimension.
#[derive(Debug)]
pub struct RmsNorm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    eps: f32,
    activation: Activation,
}

impl RmsNorm {
    /// `weight` and `bias` are `[n]`.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>, eps: f64, activation: Activation) -> Result<Self> {
        let bias = bias.map(to_vec).transpose()?.unwrap_or_default();
        Ok(Self { weight: to_vec(weight)?, bias, eps: eps as f32, activation })
    }

    /// Any shape `[.., n]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.contiguous()?.apply_op1_no_bwd(self)
    }

    /// The norm of `x`, plus `residual`.
    pub fn forward_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        x.contiguous()?.apply_op2_no_bwd(&residual.contiguous()?, &RmsNormAdd(self))
    }

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

impl CustomOp1 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.run(layout, values("rms-norm", storage, layout)?, &[])
    }
}

/// A norm with a residual added behind it.
struct RmsNormAdd<'a>(&'a RmsNorm);

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

/// `layer_norm(x) * (1 + scale) + shift` over the last dimension, the norm without parameters of its own. The rows
/// belong to sequences of equal length, each with its own scale and shift.
#[derive(Debug)]
pub struct LayerNormModulated<'a> {
    /// For each sequence: added to 1 and multiplied with; added.
    pub scale_shift: &'a [(&'a [f32], &'a [f32])],
    /// Added to the variance.
    pub eps: f32,
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

/// `x += gate * y`, in place. The rows belong to sequences of equal length, each with its own gate.
#[derive(Debug)]
pub struct AddGated<'a> {
    /// For each sequence one factor for each channel; empty for a plain sum.
    pub gates: &'a [&'a [f32]],
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

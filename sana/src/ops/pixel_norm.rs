//! The norms that a block of the autoencoder may have.

use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{RmsNorm, by_kernels, made, to_vec, values};

/// A norm of each pixel, `[.., n]`.
#[derive(Debug)]
pub enum PixelNorm {
    /// Over the channels.
    Rms(RmsNorm),
    /// A batch norm with fixed statistics.
    Scaled(ChannelScale),
}

/// For each channel a factor and a summand.
#[derive(Debug)]
pub struct ChannelScale {
    factors: Vec<f32>,
    summands: Vec<f32>,
    /// The same on the device of the weights.
    there: Option<(Tensor, Tensor)>,
}

impl PixelNorm {
    /// `(x - mean) / sqrt(variance + eps) * weight + bias`, all `[n]`, as one factor and one summand for each channel.
    pub fn batch(weight: &Tensor, bias: &Tensor, mean: &Tensor, variance: &Tensor, eps: f64) -> Result<Self> {
        let place = by_kernels(weight).then(|| weight.device().clone());
        let [weight, bias, mean, variance] = [weight, bias, mean, variance].map(to_vec);
        let (weight, bias, mean, variance) = (weight?, bias?, mean?, variance?);
        let (mut factors, mut summands) = (Vec::new(), Vec::new());
        for (((weight, bias), mean), variance) in weight.iter().zip(&bias).zip(&mean).zip(&variance) {
            let factor = f64::from(*weight) / (f64::from(*variance) + eps).sqrt();
            factors.push(factor as f32);
            summands.push((f64::from(*bias) - f64::from(*mean) * factor) as f32);
        }
        let there = match place {
            None => None,
            Some(device) => Some((Tensor::new(&factors[..], &device)?, Tensor::new(&summands[..], &device)?)),
        };
        Ok(Self::Scaled(ChannelScale { factors, summands, there }))
    }

    /// The norm of `x`, plus `residual`.
    pub fn forward_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        match self {
            Self::Rms(norm) => norm.forward_add(x, residual),
            // Only smaller decoders have one: candle's own operations, in f32.
            Self::Scaled(ChannelScale { there: Some((factors, summands)), .. }) => {
                let scaled = x.to_dtype(DType::F32)?.broadcast_mul(factors)?.broadcast_add(summands)?;
                (scaled + residual.to_dtype(DType::F32)?)?.to_dtype(x.dtype())
            }
            Self::Scaled(scale) => x.contiguous()?.apply_op2_no_bwd(&residual.contiguous()?, scale),
        }
    }
}

impl CustomOp2 for ChannelScale {
    fn name(&self) -> &'static str {
        "channel-scale-add"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let n = self.factors.len();
        if l1.dims() != l2.dims() || l1.dims().last() != Some(&n) {
            bail!("batch norm: {:?} and {:?} do not fit {n} channels", l1.dims(), l2.dims());
        }
        let (x, residual) = (values(self.name(), s1, l1)?, values(self.name(), s2, l2)?);
        let mut out = vec![0.0; x.len()];
        let inputs = x.par_chunks_exact(n).zip(residual.par_chunks_exact(n));
        out.par_chunks_exact_mut(n).zip(inputs).with_min_len(256).for_each(|(out, (x, residual))| {
            for (c, out) in out.iter_mut().enumerate() {
                *out = x[c] * self.factors[c] + self.summands[c] + residual[c];
            }
        });
        made(out, l1.shape().clone())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn a_batch_norm_is_a_factor_and_a_summand() {
        let tensor = |values: &[f32]| Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap();
        let (weight, bias, mean, variance) = ([1.5, -2.0], [0.25, 0.5], [0.1, -3.0], [0.5, 4.0]);
        let norm =
            PixelNorm::batch(&tensor(&weight), &tensor(&bias), &tensor(&mean), &tensor(&variance), 1e-5);
        let x = Tensor::from_slice(&[1.0_f32, 2.0, -3.0, 4.0], (1, 2, 2), &Device::Cpu).unwrap();
        let residual = Tensor::from_slice(&[10.0_f32, 20.0, 30.0, 40.0], (1, 2, 2), &Device::Cpu).unwrap();
        let got = to_vec(&norm.unwrap().forward_add(&x, &residual).unwrap()).unwrap();
        for (i, (x, residual)) in
            [(1.0, 10.0), (2.0, 20.0), (-3.0, 30.0), (4.0, 40.0)].into_iter().enumerate()
        {
            let c = i % 2;
            let want = (x - mean[c]) / (variance[c] + 1e-5).sqrt() * weight[c] + bias[c] + residual;
            assert!((got[i] - want).abs() < 1e-5, "{got:?}");
        }
    }
}

//! What the text encoder needs beside linear layers and norms.

use std::cell::OnceCell;

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Result, Tensor, bail};
use rayon::prelude::*;

use super::by_kernels;
use crate::cuda;

/// Cosine and sine of the rotary positions, `[tokens, dim / 2]` each.
#[derive(Debug)]
pub struct Rotation {
    cos: Vec<f32>,
    sin: Vec<f32>,
    /// The same on a device, once they were needed there.
    there: OnceCell<(Tensor, Tensor)>,
}

impl Rotation {
    /// For heads of `dim` channels at the positions from 0 on.
    pub fn new(dim: usize, theta: f32, tokens: usize) -> Self {
        let half = dim / 2;
        // Frequencies and angles are rounded to f32 as in the reference; only then comes the function.
        let frequencies: Vec<f32> =
            (0..half).map(|i| 1.0 / theta.powf((2 * i) as f32 / dim as f32)).collect();
        let angles = (0..tokens).flat_map(|at| frequencies.iter().map(move |f| f64::from(at as f32 * f)));
        let (sin, cos) = angles.map(|angle| (angle.sin() as f32, angle.cos() as f32)).unzip();
        Self { cos, sin, there: OnceCell::new() }
    }

    /// Turns `[tokens, heads * head_dim]` into rotated `[heads, tokens, head_dim]`.
    pub fn apply(&self, x: &Tensor, heads: usize, head_dim: usize) -> Result<Tensor> {
        let (tokens, half) = (x.dim(0)?, head_dim / 2);
        if x.dims() != [tokens, heads * head_dim] || self.cos.len() != tokens * half {
            bail!("rotary positions: {:?} are not {heads} heads of {head_dim}", x.dims());
        }
        if by_kernels(x) {
            let (cos, sin) = self.on(x.device(), (tokens, half))?;
            return cuda::rope(x, cos, sin, heads);
        }
        let from = x.flatten_all()?.to_vec1::<f32>()?;
        let mut to = Vec::with_capacity(from.len());
        for head in 0..heads {
            for token in 0..tokens {
                let start = (token * heads + head) * head_dim;
                let (first, second) = from[start..start + head_dim].split_at(half);
                let angles = token * half..(token + 1) * half;
                let (cos, sin) = (&self.cos[angles.clone()], &self.sin[angles]);
                to.extend((0..half).map(|i| first[i] * cos[i] - second[i] * sin[i]));
                to.extend((0..half).map(|i| second[i] * cos[i] + first[i] * sin[i]));
            }
        }
        Tensor::from_vec(to, (heads, tokens, head_dim), &Device::Cpu)
    }

    fn on(&self, device: &Device, shape: (usize, usize)) -> Result<&(Tensor, Tensor)> {
        if self.there.get().is_none() {
            let put = |values: &[f32]| Tensor::from_slice(values, shape, device);
            let made = (put(&self.cos)?, put(&self.sin)?);
            return Ok(self.there.get_or_init(|| made));
        }
        let Some(there) = self.there.get() else { bail!("rotary positions went away") };
        Ok(there)
    }
}

/// Scales, bends, masks and normalises scores in place.
#[derive(Clone, Copy, Debug)]
pub struct CausalSoftmax {
    /// Factor of every score.
    pub scale: f32,
    /// Scores `s` become `cap * tanh(s / cap)`.
    pub cap: Option<f32>,
    /// Tokens that one sees at most, itself included.
    pub window: Option<usize>,
}

impl CausalSoftmax {
    /// On scores `[.., tokens]`, of which row `i` is of token `i % tokens`.
    pub fn run(self, scores: &Tensor) -> Result<()> {
        if by_kernels(scores) {
            let Self { scale, cap, window } = self;
            return cuda::CausalSoftmax { scale, cap, window }.run(scores);
        }
        scores.inplace_op1(&self)
    }

    fn row(&self, token: usize, scores: &mut [f32]) {
        let first = self.window.map_or(0, |window| (token + 1).saturating_sub(window));
        scores[..first].fill(0.0);
        scores[token + 1..].fill(0.0);
        let seen = &mut scores[first..=token];
        let mut max = f32::NEG_INFINITY;
        for score in seen.iter_mut() {
            *score *= self.scale;
            if let Some(cap) = self.cap {
                *score = (*score / cap).tanh() * cap;
            }
            max = max.max(*score);
        }
        let mut sum = 0.0;
        for score in seen.iter_mut() {
            *score = (*score - max).exp();
            sum += *score;
        }
        seen.iter_mut().for_each(|score| *score /= sum);
    }
}

impl InplaceOp1 for CausalSoftmax {
    fn name(&self) -> &'static str {
        "causal-softmax"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let tokens = layout.dims().last().copied().unwrap_or_default();
        let (CpuStorage::F32(values), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
            bail!("{} needs contiguous f32 scores", InplaceOp1::name(self));
        };
        let rows = values[start..end].par_chunks_mut(tokens.max(1)).enumerate();
        rows.for_each(|(row, scores)| self.row(row % tokens, scores));
        Ok(())
    }
}

/// `gelu(gate) * up` of equal shapes `[rows, n]`, in the tanh form that Gemma-2 was trained with.
pub fn gelu_product(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if by_kernels(gate) {
        return cuda::gelu_product(gate, up);
    }
    // candle's gelu is the tanh form.
    gate.gelu()? * up
}

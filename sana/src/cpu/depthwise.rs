//! Depthwise convolutions: every channel by itself, all channels of a pixel at once.

use rayon::prelude::*;

use super::conv::Strip;
use super::math::silu;
use super::vectorized;

/// Channels that are worked on at a time: their weights stay in the first-level cache for a whole row.
const BLOCK: usize = 64;
/// Taps of the largest kernel.
const MAX_TAPS: usize = 25;

/// Weights of a depthwise `size` x `size` convolution, `[taps][channels]`.
#[derive(Debug)]
pub struct Depthwise {
    size: usize,
    channels: usize,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Depthwise {
    /// `weight` is `[channels, 1, size, size]`.
    pub fn new(weight: &[f32], size: usize, bias: Option<Vec<f32>>) -> Self {
        assert!(size * size <= MAX_TAPS, "a kernel of {size}x{size} is too large");
        let channels = weight.len() / (size * size);
        let mut taps = vec![0.0; weight.len()];
        for (channel, kernel) in weight.chunks_exact(size * size).enumerate() {
            for (tap, value) in kernel.iter().enumerate() {
                taps[tap * channels + channel] = *value;
            }
        }
        Self { size, channels, weight: taps, bias: bias.unwrap_or_else(|| vec![0.0; channels]) }
    }

    /// Zero pixels around a picture.
    pub fn pad(&self) -> usize {
        self.size / 2
    }

    /// Channels in and out.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Bytes of weights.
    pub fn bytes(&self) -> usize {
        self.weight.len() * 4
    }

    /// One pixel for each pixel of the strip's inner rows.
    pub fn run(&self, strip: &Strip<'_>, out: &mut [f32]) {
        let channels = self.channels;
        out.par_chunks_exact_mut(strip.width() * channels).enumerate().for_each(|(y, row)| {
            let rows = self.rows(strip, y);
            for first in (0..channels).step_by(BLOCK) {
                let block = first..(first + BLOCK).min(channels);
                self.convolve(&rows, block, channels, first, row);
            }
        });
    }

    /// The gate of a GLUMBConv: the first half of the channels times the SiLU of the second half; `out` has half
    /// the channels.
    pub fn run_gated(&self, strip: &Strip<'_>, out: &mut [f32]) {
        let half = self.channels / 2;
        out.par_chunks_exact_mut(strip.width() * half).enumerate().for_each_init(
            || vec![0.0; strip.width() * 2 * BLOCK],
            |both, (y, row)| {
                let rows = self.rows(strip, y);
                for first in (0..half).step_by(BLOCK) {
                    let last = (first + BLOCK).min(half);
                    self.convolve(&rows, first..last, 2 * BLOCK, 0, both);
                    self.convolve(&rows, half + first..half + last, 2 * BLOCK, BLOCK, both);
                    gate_row(both, first..last, half, row);
                }
            },
        );
    }

    /// The rows that the row `y` of the result reads; empty where the picture has none.
    fn rows<'a>(&self, strip: &Strip<'a>, y: usize) -> Vec<&'a [f32]> {
        (0..self.size).map(|tap| strip.row(y + tap)).collect()
    }

    /// A row of the channels in `block`; pixel `x` goes to `out[x * stride + offset..]`.
    fn convolve(
        &self,
        rows: &[&[f32]],
        block: std::ops::Range<usize>,
        stride: usize,
        offset: usize,
        out: &mut [f32],
    ) {
        let count = block.len();
        let mut taps = [0.0; MAX_TAPS * BLOCK];
        for (tap, weights) in taps.chunks_exact_mut(BLOCK).enumerate().take(self.size * self.size) {
            weights[..count].copy_from_slice(&self.weight[tap * self.channels..][block.clone()]);
        }
        let mut bias = [0.0; BLOCK];
        bias[..count].copy_from_slice(&self.bias[block.clone()]);
        convolve_row(rows, self.channels, block, &taps, &bias, stride, offset, out);
    }
}

vectorized! {
    #[expect(clippy::too_many_arguments, reason = "the row's parts, each of its own kind")]
    fn convolve_row(
        rows: &[&[f32]],
        channels: usize,
        block: std::ops::Range<usize>,
        taps: &[f32],
        bias: &[f32; BLOCK],
        stride: usize,
        offset: usize,
        out: &mut [f32],
    ) {
        let (size, count) = (rows.len(), block.len());
        let width = out.len() / stride;
        for x in 0..width {
            // Pixels left and right of the picture are zero and add nothing.
            let columns = (size / 2).saturating_sub(x)..size.min(width + size / 2 - x);
            let mut sums = *bias;
            for (y, row) in rows.iter().enumerate() {
                if row.is_empty() {
                    continue;
                }
                for column in columns.clone() {
                    let values = &row[(x + column - size / 2) * channels + block.start..][..count];
                    let weights = &taps[(y * size + column) * BLOCK..][..BLOCK];
                    if let Some(values) = values.first_chunk::<BLOCK>() {
                        for ((sum, value), weight) in sums.iter_mut().zip(values).zip(weights) {
                            *sum += value * weight;
                        }
                    } else {
                        for ((sum, value), weight) in sums.iter_mut().zip(values).zip(weights) {
                            *sum += value * weight;
                        }
                    }
                }
            }
            out[x * stride + offset..][..count].copy_from_slice(&sums[..count]);
        }
    }
}

vectorized! {
    /// `both` has for each pixel [`BLOCK`] values and as many gates, of the channels in `block`.
    fn gate_row(both: &[f32], block: std::ops::Range<usize>, half: usize, out: &mut [f32]) {
        for (pixel, target) in both.chunks_exact(2 * BLOCK).zip(out.chunks_exact_mut(half)) {
            let (values, gates) = pixel.split_at(BLOCK);
            for (target, (value, gate)) in target[block.clone()].iter_mut().zip(values.iter().zip(gates)) {
                *target = value * silu(*gate);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(i: usize) -> f32 {
        ((i * 7919 % 1013) as f32 - 506.0) / 400.0
    }

    fn plain(x: &[f32], h: usize, w: usize, c: usize, weight: &[f32], bias: &[f32], size: usize) -> Vec<f32> {
        let mut out = vec![0.0; h * w * c];
        for (i, out) in out.iter_mut().enumerate() {
            let (y, xx, ch) = (i / c / w, i / c % w, i % c);
            *out = bias[ch];
            for tap in 0..size * size {
                let sy = (y + tap / size).wrapping_sub(size / 2);
                let sx = (xx + tap % size).wrapping_sub(size / 2);
                if sy < h && sx < w {
                    *out += x[(sy * w + sx) * c + ch] * weight[ch * size * size + tap];
                }
            }
        }
        out
    }

    #[test]
    fn convolves_and_gates() {
        for (h, w, c, size) in [(4, 5, 6, 3), (3, 9, 140, 5), (1, 1, 2, 3)] {
            let x: Vec<f32> = (0..h * w * c).map(value).collect();
            let weight: Vec<f32> = (0..c * size * size).map(|i| value(i + 1)).collect();
            let bias: Vec<f32> = (0..c).map(|i| value(i + 2)).collect();
            let want = plain(&x, h, w, c, &weight, &bias, size);
            let layer = Depthwise::new(&weight, size, Some(bias));
            let strip = Strip::new(&[&x], w, c).framed(layer.pad());
            let mut out = vec![f32::NAN; h * w * c];
            layer.run(&strip, &mut out);
            assert_eq!(out, want);
            let mut gated = vec![f32::NAN; h * w * c / 2];
            layer.run_gated(&strip, &mut gated);
            for (i, got) in gated.iter().enumerate() {
                let (pixel, ch) = (i / (c / 2), i % (c / 2));
                assert_eq!(*got, want[pixel * c + ch] * silu(want[pixel * c + c / 2 + ch]));
            }
        }
    }
}

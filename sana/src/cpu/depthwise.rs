//! Depthwise convolutions: every channel by itself, all channels of a pixel at once.

use rayon::prelude::*;

use super::conv::Window;
use super::math::silu;
use super::vectorized;

/// Channels that are worked on at a time: their weights stay in the first-level cache for a whole row.
const BLOCK: usize = 64;

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

    /// One pixel for each pixel of the window's inner rows.
    pub fn run(&self, window: &Window, out: &mut [f32]) {
        let channels = self.channels;
        out.par_chunks_exact_mut(window.width() * channels).enumerate().for_each(|(y, row)| {
            let taps = self.taps(window, y);
            for first in (0..channels).step_by(BLOCK) {
                let block = first..(first + BLOCK).min(channels);
                convolve_row(&taps, channels, &self.weight, &self.bias, block, row);
            }
        });
    }

    /// The gate of a GLUMBConv: the first half of the channels times the SiLU of the second half; `out` has half
    /// the channels.
    pub fn run_gated(&self, window: &Window, out: &mut [f32]) {
        let (channels, half) = (self.channels, self.channels / 2);
        out.par_chunks_exact_mut(window.width() * half).enumerate().for_each_init(
            || vec![0.0; window.width() * channels],
            |both, (y, row)| {
                let taps = self.taps(window, y);
                for first in (0..half).step_by(BLOCK) {
                    let last = (first + BLOCK).min(half);
                    convolve_row(&taps, channels, &self.weight, &self.bias, first..last, both);
                    convolve_row(&taps, channels, &self.weight, &self.bias, half + first..half + last, both);
                    gate_row(both, half, first..last, row);
                }
            },
        );
    }

    /// For each tap, the run of pixels that it reads for the row `y`.
    fn taps<'a>(&self, window: &'a Window, y: usize) -> Vec<&'a [f32]> {
        let length = window.width() * self.channels;
        (0..self.size * self.size)
            .map(|tap| &window.row(y + tap / self.size)[tap % self.size * self.channels..][..length])
            .collect()
    }
}

vectorized! {
    fn convolve_row(
        taps: &[&[f32]],
        channels: usize,
        weight: &[f32],
        bias: &[f32],
        block: std::ops::Range<usize>,
        out: &mut [f32],
    ) {
        for (x, pixel) in out.chunks_exact_mut(channels).enumerate() {
            let sums = &mut pixel[block.clone()];
            sums.copy_from_slice(&bias[block.clone()]);
            for (tap, row) in taps.iter().enumerate() {
                let values = &row[x * channels..][block.clone()];
                let weights = &weight[tap * channels..][block.clone()];
                for ((sum, value), weight) in sums.iter_mut().zip(values).zip(weights) {
                    *sum += value * weight;
                }
            }
        }
    }
}

vectorized! {
    fn gate_row(both: &[f32], half: usize, block: std::ops::Range<usize>, out: &mut [f32]) {
        for (pixel, target) in both.chunks_exact(2 * half).zip(out.chunks_exact_mut(half)) {
            let (values, gates) = pixel.split_at(half);
            let inputs = values[block.clone()].iter().zip(&gates[block.clone()]);
            for (target, (value, gate)) in target[block.clone()].iter_mut().zip(inputs) {
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
            let window = Window::new(&[&x], w, c, layer.pad(), layer.pad(), layer.pad());
            let mut out = vec![f32::NAN; h * w * c];
            layer.run(&window, &mut out);
            assert_eq!(out, want);
            let mut gated = vec![f32::NAN; h * w * c / 2];
            layer.run_gated(&window, &mut gated);
            for (i, got) in gated.iter().enumerate() {
                let (pixel, ch) = (i / (c / 2), i % (c / 2));
                assert_eq!(*got, want[pixel * c + ch] * silu(want[pixel * c + c / 2 + ch]));
            }
        }
    }
}

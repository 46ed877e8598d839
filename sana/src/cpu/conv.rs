//! 3x3 convolution as one matrix product over shifted rows: no im2col.

use rayon::prelude::*;

use super::gemm::{Packed, Place, Rows, gemm};
use super::math::Activation;

/// Rows of a picture with a frame of zeros left and right, and zero rows where the picture ends.
///
/// The neighbours of a pixel in one row lie next to each other, so a pixel's window of `k` columns is one
/// run of `k * channels` values, and the windows of neighbouring pixels overlap.
#[derive(Debug)]
pub struct Window {
    data: Vec<f32>,
    rows: usize,
    width: usize,
    channels: usize,
    pad: usize,
}

impl Window {
    /// The rows of a strip with a frame of `pad`.
    pub fn new(strip: &Strip<'_>, channels: usize, pad: usize) -> Self {
        let padded = (strip.width + 2 * pad) * channels;
        let mut data = vec![0.0; strip.rows.len() * padded];
        for (target, source) in data.chunks_exact_mut(padded).zip(&strip.rows) {
            target[pad * channels..][..source.len()].copy_from_slice(source);
        }
        Self { data, rows: strip.rows.len(), width: strip.width, channels, pad }
    }

    /// Values in one framed row.
    fn stride(&self) -> usize {
        (self.width + 2 * self.pad) * self.channels
    }

    /// Pixels in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Values of a pixel.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Rows that have all their neighbours.
    pub fn inner_rows(&self) -> usize {
        self.rows.saturating_sub(2 * self.pad)
    }

    /// The framed row at `index`, counted from the window's top.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.data[index * self.stride()..][..self.stride()]
    }
}

/// Rows of a picture where they lie.
#[derive(Debug)]
pub struct Strip<'a> {
    rows: Vec<&'a [f32]>,
    width: usize,
}

impl<'a> Strip<'a> {
    /// `pieces` are rows of `width * channels` values from top to bottom.
    pub fn new(pieces: &[&'a [f32]], width: usize, channels: usize) -> Self {
        Self { rows: pieces.iter().flat_map(|piece| piece.chunks_exact(width * channels)).collect(), width }
    }

    /// With `pad` rows outside the picture above and below.
    pub fn framed(mut self, pad: usize) -> Self {
        self.rows.splice(0..0, std::iter::repeat_n(&[][..], pad));
        self.rows.extend(std::iter::repeat_n(&[][..], pad));
        self
    }

    /// Pixels in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows that have `pad` neighbours above and below.
    pub fn inner_rows(&self, pad: usize) -> usize {
        self.rows.len().saturating_sub(2 * pad)
    }

    /// A row, counted from the strip's top; empty outside the picture.
    pub fn row(&self, index: usize) -> &'a [f32] {
        self.rows.get(index).copied().unwrap_or_default()
    }
}

/// Weights of a 3x3 convolution.
#[derive(Debug)]
pub struct Conv3x3 {
    packed: Packed,
}

impl Conv3x3 {
    /// `weight` is `[out, input, 3, 3]`.
    pub fn new(weight: &[f32], input: usize, bias: Option<Vec<f32>>) -> Self {
        let out = weight.len() / (input * 9);
        let packed = Packed::new(9 * input, out, bias, |k, n| {
            let (tap, channel) = (k / input, k % input);
            weight[(n * input + channel) * 9 + tap]
        });
        Self { packed }
    }

    /// Channels of the result.
    pub fn channels(&self) -> usize {
        self.packed.columns()
    }

    /// Bytes of packed weights.
    pub fn bytes(&self) -> usize {
        self.packed.bytes()
    }

    /// One pixel for each pixel of the window's inner rows; the window has a frame of 1.
    pub fn run(&self, window: &Window, activation: Activation, out: &mut [f32]) {
        let (stride, channels) = (window.stride(), window.channels);
        let (width, framed, columns) = (window.width, window.width + 2, self.packed.columns());
        let rows = Rows {
            data: &window.data,
            // Rows of pixels run on through the frame; what falls on it is dropped.
            count: window.inner_rows() * framed - 2,
            stride: channels,
            segments: &[0, stride, 2 * stride],
            length: 3 * channels,
        };
        let place = Place { frame: framed, kept: width, line: width * columns, step: columns, offset: 0 };
        gemm(rows, &self.packed, activation, place, out);
    }
}

/// Weights of "nearest upsampling by 2, then a 3x3 convolution", with DC-AE's shortcut.
///
/// After nearest upsampling, each of the four output pixels of an input pixel sees only 2x2 different input
/// pixels: four 2x2 convolutions at the low resolution, 4/9 of the work and no upsampled copy
/// (reference section 9).
#[derive(Debug)]
pub struct Upsample {
    phases: [Packed; 4],
}

impl Upsample {
    /// `weight` is `[out, input, 3, 3]`.
    pub fn new(weight: &[f32], input: usize, bias: Option<Vec<f32>>) -> Self {
        let out = weight.len() / (input * 9);
        // Which of the three kernel taps fall on the first and on the second input pixel of a phase.
        const TAPS: [[&[usize]; 2]; 2] = [[&[0], &[1, 2]], [&[0, 1], &[2]]];
        let phases = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(py, px): (usize, usize)| {
            Packed::new(4 * input, out, bias.clone(), |k, n| {
                let (tap, channel) = (k / input, k % input);
                let kernel = &weight[(n * input + channel) * 9..][..9];
                let mut sum = 0.0;
                for &y in TAPS[py][tap / 2] {
                    for &x in TAPS[px][tap % 2] {
                        sum += kernel[y * 3 + x];
                    }
                }
                sum
            })
        });
        Self { phases }
    }

    /// Channels of the result.
    pub fn channels(&self) -> usize {
        self.phases[0].columns()
    }

    /// Bytes of packed weights.
    pub fn bytes(&self) -> usize {
        self.phases.iter().map(Packed::bytes).sum()
    }

    /// Two rows of twice the width for each inner row of the window, which has a frame of 1.
    pub fn run(&self, window: &Window, out: &mut [f32]) {
        let (stride, channels) = (window.stride(), window.channels);
        let (width, framed, columns) = (window.width, window.width + 2, self.channels());
        for (phase, packed) in self.phases.iter().enumerate() {
            let (py, px) = (phase / 2, phase % 2);
            let first = py * stride + px * channels;
            let rows = Rows {
                data: &window.data,
                count: window.inner_rows() * framed - 2,
                stride: channels,
                segments: &[first, first + stride],
                length: 2 * channels,
            };
            let place = Place {
                frame: framed,
                kept: width,
                line: 4 * width * columns,
                step: 2 * columns,
                offset: (py * 2 * width + px) * columns,
            };
            gemm(rows, packed, Activation::None, place, out);
        }
        self.add_shortcut(window, out);
    }

    /// Adds the input with every channel repeated `4 * out / in` times, then shuffled into 2x2 pixels.
    fn add_shortcut(&self, window: &Window, out: &mut [f32]) {
        let (width, channels, columns) = (window.width, window.channels, self.channels());
        let repeats = 4 * columns / channels;
        out.par_chunks_exact_mut(2 * width * columns).enumerate().for_each(|(y, row)| {
            let source = &window.row(y / 2 + 1)[channels..];
            for (x, pixel) in row.chunks_exact_mut(columns).enumerate() {
                let input = &source[x / 2 * channels..][..channels];
                let corner = 2 * (y % 2) + x % 2;
                if repeats == 4 {
                    for (value, &add) in pixel.iter_mut().zip(input) {
                        *value += add;
                    }
                } else {
                    for (c, value) in pixel.iter_mut().enumerate() {
                        *value += input[(4 * c + corner) / repeats];
                    }
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(i: usize) -> f32 {
        ((i * 7919 % 1013) as f32 - 506.0) / 400.0
    }

    fn plain(x: &[f32], h: usize, w: usize, cin: usize, weight: &[f32], cout: usize) -> Vec<f64> {
        let mut out = vec![0.0; h * w * cout];
        for y in 0..h {
            for xx in 0..w {
                for o in 0..cout {
                    let mut sum = 0.0;
                    for ky in 0..3 {
                        for kx in 0..3 {
                            let (sy, sx) = ((y + ky).wrapping_sub(1), (xx + kx).wrapping_sub(1));
                            if sy >= h || sx >= w {
                                continue;
                            }
                            for c in 0..cin {
                                sum += f64::from(x[(sy * w + sx) * cin + c])
                                    * f64::from(weight[(o * cin + c) * 9 + ky * 3 + kx]);
                            }
                        }
                    }
                    out[(y * w + xx) * cout + o] = sum;
                }
            }
        }
        out
    }

    #[test]
    fn convolves() {
        for (h, w, cin, cout) in [(1, 1, 4, 3), (5, 7, 8, 16), (3, 33, 20, 70)] {
            let x: Vec<f32> = (0..h * w * cin).map(value).collect();
            let weight: Vec<f32> = (0..cout * cin * 9).map(|i| value(i + 5)).collect();
            let conv = Conv3x3::new(&weight, cin, None);
            let mut out = vec![f32::NAN; h * w * cout];
            conv.run(&Window::new(&Strip::new(&[&x], w, cin).framed(1), cin, 1), Activation::None, &mut out);
            for (got, want) in out.iter().zip(plain(&x, h, w, cin, &weight, cout)) {
                assert!((f64::from(*got) - want).abs() < 1e-4, "{got} {want}");
            }
        }
    }

    #[test]
    fn upsamples_as_nearest_then_convolution() {
        let (h, w, cin, cout) = (3, 5, 8, 4);
        let x: Vec<f32> = (0..h * w * cin).map(value).collect();
        let weight: Vec<f32> = (0..cout * cin * 9).map(|i| value(i + 5)).collect();
        let mut large = vec![0.0; 4 * h * w * cin];
        for y in 0..2 * h {
            for xx in 0..2 * w {
                for c in 0..cin {
                    large[(y * 2 * w + xx) * cin + c] = x[(y / 2 * w + xx / 2) * cin + c];
                }
            }
        }
        let mut want = plain(&large, 2 * h, 2 * w, cin, &weight, cout);
        for y in 0..2 * h {
            for xx in 0..2 * w {
                for c in 0..cout {
                    // repeat by 2, then pixel shuffle: out[c, dy, dx] = x[2c + dy]
                    want[(y * 2 * w + xx) * cout + c] +=
                        f64::from(x[(y / 2 * w + xx / 2) * cin + 2 * c + y % 2]);
                }
            }
        }
        let up = Upsample::new(&weight, cin, None);
        let mut out = vec![f32::NAN; want.len()];
        up.run(&Window::new(&Strip::new(&[&x], w, cin).framed(1), cin, 1), &mut out);
        for (got, want) in out.iter().zip(want) {
            assert!((f64::from(*got) - want).abs() < 1e-4, "{got} {want}");
        }
    }
}

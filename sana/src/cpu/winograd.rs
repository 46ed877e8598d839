//! 3x3 convolution with a quarter of the multiplications: Winograd's minimal filtering F(4x4, 3x3).
//!
//! A picture is cut into tiles of 4x4 output pixels. Each reads 6x6 input pixels, which are transformed to 36 values;
//! every value is a matrix product over the channels with weights that were transformed once; 36 products come back as
//! 16 pixels. Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv:1509.09308).
//!
//! The interpolation points are 0, ±5/8, ±3/2 and infinity. They keep the constants near 1 and the error of f32 below
//! twice that of the direct sum, whose chains are nine times as long. Tiles begin at multiples of 4
//! pixels of the picture, so a pixel's bits do not depend on bands or threads.

use rayon::prelude::*;

use super::conv::Strip;
use super::gemm::{Packed, Target};
use super::math::Activation;
use super::vectorized;

/// Output pixels on a side of a tile.
pub const TILE: usize = 4;
/// Input pixels on a side of a tile, and transformed values.
const SIDE: usize = TILE + 2;
const VALUES: usize = SIDE * SIDE;
/// Channels transformed at a time.
const LANES: usize = 16;

/// The points.
const A: f64 = 0.625;
const B: f64 = 1.5;
const A2: f32 = (A * A) as f32;
const B2: f32 = (B * B) as f32;
const SUM: f32 = (A * A + B * B) as f32;
const PRODUCT: f32 = (A * A * B * B) as f32;
const A1: f32 = A as f32;
const B1: f32 = B as f32;
const A3: f32 = (A * A * A) as f32;
const B3: f32 = (B * B * B) as f32;

/// The three taps of a line at each point, over the product of its distances to the others.
fn weight_rows() -> [[f64; 3]; SIDE] {
    let at = |p: f64, norm: f64| [1.0 / norm, p / norm, p * p / norm];
    let (a, b) = (2.0 * A * A * (A * A - B * B), 2.0 * B * B * (B * B - A * A));
    [at(0.0, A * A * B * B), at(A, a), at(-A, a), at(B, b), at(-B, b), [0.0, 0.0, 1.0]]
}

/// Weights of a 3x3 convolution, transformed.
#[derive(Debug)]
pub struct Winograd {
    input: usize,
    /// One matrix for each transformed value.
    products: Vec<Packed>,
    bias: Vec<f32>,
}

impl Winograd {
    /// `weight` is `[out, input, 3, 3]`.
    pub fn new(weight: &[f32], input: usize, bias: Option<Vec<f32>>) -> Self {
        let out = weight.len() / (input * 9);
        let rows = weight_rows();
        let products = (0..VALUES)
            .map(|value| {
                let (vertical, horizontal) = (rows[value / SIDE], rows[value % SIDE]);
                Packed::new(input, out, None, |k, n| {
                    let taps = &weight[(n * input + k) * 9..][..9];
                    let line =
                        |y: usize| (0..3).map(|x| f64::from(taps[y * 3 + x]) * horizontal[x]).sum::<f64>();
                    (0..3).map(|y| vertical[y] * line(y)).sum::<f64>() as f32
                })
            })
            .collect();
        Self { input, products, bias: bias.unwrap_or_else(|| vec![0.0; out]) }
    }

    /// Channels of the result.
    pub fn channels(&self) -> usize {
        self.bias.len()
    }

    /// Bytes of packed weights.
    pub fn bytes(&self) -> usize {
        self.products.iter().map(Packed::bytes).sum()
    }

    /// Tiles that one task takes: as many as make reading all weights cheap beside the products, and a whole number of
    /// the kernels' tallest blocks.
    fn tiles(&self) -> usize {
        (self.input * 3 / 8).next_multiple_of(24).clamp(48, 96)
    }

    /// One pixel for each pixel of the strip's inner rows. The first tiles begin `lead` rows above the first of them, on
    /// rows that do not count.
    pub fn run(&self, strip: &Strip<'_>, lead: usize, activation: Activation, out: &mut [f32]) {
        let (rows, width) = (strip.inner_rows(1), strip.width());
        assert_eq!(out.len(), rows * width * self.channels(), "the result has another size");
        let across = width.div_ceil(TILE);
        let down = (lead + rows).div_ceil(TILE);
        // Enough tasks for every thread, none of them so small that the weights are read for nothing.
        let wanted = (across * down).div_ceil(rayon::current_num_threads() * 2).next_multiple_of(6).max(24);
        let most = self.tiles().min(wanted);
        let target = Target::new(out);
        let blocks = (across * down).div_ceil(most);
        (0..blocks).into_par_iter().for_each_init(Vec::new, |scratch, block| {
            let first = block * most;
            let tiles = first..(first + most).min(across * down);
            self.run_tiles(strip, Grid { tiles, across, lead }, activation, &target, scratch);
        });
    }

    fn run_tiles(
        &self,
        strip: &Strip<'_>,
        grid: Grid,
        activation: Activation,
        target: &Target<'_>,
        scratch: &mut Vec<f32>,
    ) {
        let count = grid.tiles.len();
        let (channels, columns) = (self.input, self.channels());
        let padded = self.products[0].padded();
        let transformed = VALUES * count * channels;
        // Every value of it is written before it is read.
        scratch.resize(transformed + VALUES * count * padded, 0.0);
        let (values, sums) = scratch.split_at_mut(transformed);
        for (index, (y, x)) in grid.places().enumerate() {
            let rows = std::array::from_fn(|row| strip.row((y + row).wrapping_sub(grid.lead)));
            let place = Spread { first: index * channels, step: count * channels };
            transform_input(&rows, x, channels, values, place);
        }
        let (rows, width) = (strip.inner_rows(1), strip.width());
        for (value, packed) in self.products.iter().enumerate() {
            let left = &values[value * count * channels..][..count * channels];
            packed.multiply(left, count, &mut sums[value * count * padded..][..count * padded]);
        }
        let mut pixels = [0.0; TILE * TILE * MAX_PANEL];
        for (panel, first, length) in self.products[0].panels() {
            for (index, (y, x)) in grid.places().enumerate() {
                let place = Spread { first: (first * count) + index * panel, step: count * padded };
                let pixels = &mut pixels[..TILE * TILE * panel];
                transform_output(sums, place, panel, &self.bias[first..][..length], pixels);
                activation.apply(pixels);
                for row in y.max(grid.lead)..(y + TILE).min(rows + grid.lead) {
                    for column in x..(x + TILE).min(width) {
                        let pixel = &pixels[((row - y) * TILE + column - x) * panel..][..length];
                        let at = ((row - grid.lead) * width + column) * columns + first;
                        // SAFETY: every tile has its own pixels, every panel its own channels.
                        unsafe { target.write(at, pixel) };
                    }
                }
            }
        }
    }
}

/// The tiles of a task, counted row by row.
struct Grid {
    tiles: std::ops::Range<usize>,
    /// Tiles in a row.
    across: usize,
    /// Rows between the first tiles' first row and the first that counts.
    lead: usize,
}

impl Grid {
    /// First row and column of each tile.
    fn places(&self) -> impl Iterator<Item = (usize, usize)> {
        self.tiles.clone().map(|tile| (tile / self.across * TILE, tile % self.across * TILE))
    }
}

/// Columns of the widest panel.
const MAX_PANEL: usize = 64;

/// Where the 36 values of a tile lie.
#[derive(Clone, Copy)]
struct Spread {
    /// Of the first.
    first: usize,
    /// Distance of one to the next.
    step: usize,
}

type Lanes = [f32; LANES];

#[inline(always)]
fn zip(a: Lanes, b: Lanes, f: impl Fn(f32, f32) -> f32) -> Lanes {
    std::array::from_fn(|i| f(a[i], b[i]))
}

/// Six values of a line to six transformed ones.
#[inline(always)]
fn input_line(d: [Lanes; SIDE]) -> [Lanes; SIDE] {
    let end = |far: Lanes, middle: Lanes, near: Lanes| {
        zip(zip(far, middle, |f, m| f - SUM * m), near, |s, n| s + PRODUCT * n)
    };
    // What the two points of a pair share: their even and their odd part.
    let even = |square: f32| zip(d[4], d[2], |far, near| far - square * near);
    let odd = |point: f32, square: f32| zip(d[3], d[1], |far, near| point * (far - square * near));
    let (even_a, odd_a) = (even(B2), odd(A1, B2));
    let (even_b, odd_b) = (even(A2), odd(B1, A2));
    let (add, subtract) = (|a: f32, b: f32| a + b, |a: f32, b: f32| a - b);
    [
        end(d[4], d[2], d[0]),
        zip(even_a, odd_a, add),
        zip(even_a, odd_a, subtract),
        zip(even_b, odd_b, add),
        zip(even_b, odd_b, subtract),
        end(d[5], d[3], d[1]),
    ]
}

/// Six sums of a line to four values.
#[inline(always)]
fn output_line(m: [Lanes; SIDE]) -> [Lanes; TILE] {
    let add = |a, b| zip(a, b, |a, b| a + b);
    let (plus_a, minus_a) = (add(m[1], m[2]), zip(m[1], m[2], |a, b| a - b));
    let (plus_b, minus_b) = (add(m[3], m[4]), zip(m[3], m[4], |a, b| a - b));
    [
        add(m[0], add(plus_a, plus_b)),
        zip(minus_a, minus_b, |a, b| A1 * a + B1 * b),
        zip(plus_a, plus_b, |a, b| A2 * a + B2 * b),
        add(m[5], zip(minus_a, minus_b, |a, b| A3 * a + B3 * b)),
    ]
}

vectorized! {
    /// The tile whose output begins at column `x`. Rows that the picture lacks are empty.
    #[expect(clippy::needless_range_loop, reason = "it writes the columns of a matrix")]
    fn transform_input(rows: &[&[f32]; SIDE], x: usize, channels: usize, out: &mut [f32], place: Spread) {
        for first in (0..channels).step_by(LANES) {
            let count = LANES.min(channels - first);
            let mut lines = [[[0.0; LANES]; SIDE]; SIDE];
            for column in 0..SIDE {
                // The column left of the picture is none of its own.
                let at = (x + column).wrapping_sub(1).wrapping_mul(channels).wrapping_add(first);
                let inside = x + column > 0;
                let column_values = std::array::from_fn(|row| {
                    let mut value = [0.0; LANES];
                    if inside {
                        if let Some(pixel) = rows[row].get(at..).and_then(|rest| rest.first_chunk::<LANES>())
                            && count == LANES
                        {
                            value = *pixel;
                        } else if let Some(pixel) = rows[row].get(at..at + count) {
                            value[..count].copy_from_slice(pixel);
                        }
                    }
                    value
                });
                let line = input_line(column_values);
                for row in 0..SIDE {
                    lines[row][column] = line[row];
                }
            }
            for (row, line) in lines.into_iter().enumerate() {
                for (column, value) in input_line(line).into_iter().enumerate() {
                    let at = place.first + (row * SIDE + column) * place.step + first;
                    out[at..at + count].copy_from_slice(&value[..count]);
                }
            }
        }
    }
}

vectorized! {
    /// 16 pixels of `width` channels, of which the first have a bias.
    #[expect(clippy::needless_range_loop, reason = "it writes the columns of a matrix")]
    fn transform_output(sums: &[f32], place: Spread, width: usize, bias: &[f32], pixels: &mut [f32]) {
        for first in (0..width).step_by(LANES) {
            let count = LANES.min(width - first);
            let mut lines = [[[0.0; LANES]; SIDE]; TILE];
            for column in 0..SIDE {
                let values = std::array::from_fn(|row| {
                    let at = place.first + (row * SIDE + column) * place.step + first;
                    let mut value = [0.0; LANES];
                    value[..count].copy_from_slice(&sums[at..at + count]);
                    value
                });
                let line = output_line(values);
                for row in 0..TILE {
                    lines[row][column] = line[row];
                }
            }
            let mut add = [0.0; LANES];
            let there = count.min(bias.len().saturating_sub(first));
            add[..there].copy_from_slice(&bias[first..][..there]);
            for (row, line) in lines.into_iter().enumerate() {
                for (column, value) in output_line(line).into_iter().enumerate() {
                    let value = zip(value, add, |v, b| v + b);
                    pixels[(row * TILE + column) * width + first..][..count].copy_from_slice(&value[..count]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Isa;
    use crate::cpu::conv::{Conv3x3, Window};

    fn value(i: usize) -> f32 {
        ((i * 7919 % 1013) as f32 - 506.0) / 400.0
    }

    /// In f64.
    fn plain(x: &[f32], (h, w, cin): (usize, usize, usize), weight: &[f32], bias: &[f32]) -> Vec<f64> {
        let mut out = Vec::new();
        for y in 0..h as isize {
            for xx in 0..w as isize {
                for (o, bias) in bias.iter().enumerate() {
                    let mut sum = f64::from(*bias);
                    for (tap, (ky, kx)) in (0..9).map(|tap| (tap, (tap / 3 - 1, tap % 3 - 1))) {
                        let (sy, sx) = (y + ky, xx + kx);
                        if sy < 0 || sx < 0 || sy >= h as isize || sx >= w as isize {
                            continue;
                        }
                        for c in 0..cin {
                            sum += f64::from(x[(sy as usize * w + sx as usize) * cin + c])
                                * f64::from(weight[(o * cin + c) * 9 + tap as usize]);
                        }
                    }
                    out.push(sum);
                }
            }
        }
        out
    }

    fn run(x: &[f32], (h, w, cin): (usize, usize, usize), layer: &Winograd) -> Vec<f32> {
        let mut out = vec![f32::NAN; h * w * layer.channels()];
        layer.run(&Strip::new(&[x], w, cin).framed(1), 0, Activation::None, &mut out);
        out
    }

    #[test]
    fn convolves() {
        for (h, w, cin, cout) in
            [(1, 1, 16, 16), (4, 4, 32, 16), (5, 7, 20, 70), (9, 33, 48, 130), (3, 130, 17, 3)]
        {
            let x: Vec<f32> = (0..h * w * cin).map(value).collect();
            let weight: Vec<f32> = (0..cout * cin * 9).map(|i| value(i + 5)).collect();
            let bias: Vec<f32> = (0..cout).map(|i| value(i + 9)).collect();
            let got = run(&x, (h, w, cin), &Winograd::new(&weight, cin, Some(bias.clone())));
            for (i, (got, want)) in got.iter().zip(plain(&x, (h, w, cin), &weight, &bias)).enumerate() {
                // Sums of 9 cin products of about 0.5 each.
                let bound = 4e-6 * (9.0 * cin as f64).sqrt();
                assert!((f64::from(*got) - want).abs() < bound, "{h}x{w} {cin} {cout} at {i}: {got} {want}");
            }
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let dims = (6, 9, 40);
        let x: Vec<f32> = (0..dims.0 * dims.1 * dims.2).map(value).collect();
        let weight: Vec<f32> = (0..24 * dims.2 * 9).map(|i| value(i + 5)).collect();
        let want = run(&x, dims, &Winograd::new(&weight, dims.2, None));
        for isa in Isa::available() {
            let layer = isa.scoped(|| Winograd::new(&weight, dims.2, None));
            assert_eq!(run(&x, dims, &layer), want, "{isa:?}");
        }
    }

    #[test]
    fn its_error_is_a_few_times_that_of_the_direct_sum() {
        // Against f64, with values as random as a decoder's; printed with --nocapture.
        let dims @ (h, w, cin) = (16, 16, 256);
        let mut noise = crate::noise::Generator::new(1);
        let (x, weight) = (noise.randn(h * w * cin), noise.randn(32 * cin * 9));
        let want = plain(&x, dims, &weight, &[0.0; 32]);
        let error = |got: &[f32]| {
            let squares = got.iter().zip(&want).map(|(got, want)| (f64::from(*got) - want).powi(2));
            (squares.sum::<f64>() / want.iter().map(|want| want * want).sum::<f64>()).sqrt()
        };
        let winograd = error(&run(&x, dims, &Winograd::new(&weight, cin, None)));
        let mut direct = vec![0.0; want.len()];
        Conv3x3::new(&weight, cin, None).run(
            &Window::new(&Strip::new(&[&x], w, cin).framed(1), cin, 1),
            Activation::None,
            &mut direct,
        );
        let direct = error(&direct);
        println!("relative error: winograd {winograd:.2e}, direct {direct:.2e}");
        assert!(winograd < 3.0 * direct, "winograd {winograd:e}, direct {direct:e}");
    }
}

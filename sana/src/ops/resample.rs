//! Pixel shuffles, nearest pixels and the 3x3 convolution of stride 2, with DC-AE's shortcuts.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{Activation, count, made, to_vec, values};
use crate::cpu::gemm::{Packed, Place, Rows, gemm};

/// `[r, w, c]` to `[2 r, 2 w, c]`: every pixel four times.
#[derive(Debug)]
pub struct NearestPixels;

impl CustomOp1 for NearestPixels {
    fn name(&self) -> &'static str {
        "nearest-2x"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(self.name(), storage, layout)?;
        let (rows, width, channels) = layout.shape().dims3()?;
        let mut out = vec![0.0; 4 * x.len()];
        out.par_chunks_exact_mut(2 * width * channels).enumerate().for_each(|(y, row)| {
            let source = &x[y / 2 * width * channels..][..width * channels];
            for (x, pixel) in row.chunks_exact_mut(channels).enumerate() {
                pixel.copy_from_slice(&source[x / 2 * channels..][..channels]);
            }
        });
        made(out, (2 * rows, 2 * width, channels))
    }
}

/// `[r, w, 4 c]`, sorted by the four pixels and then by the channel, to `[2 r, 2 w, c]`.
#[derive(Debug)]
pub struct Shuffle;

impl CustomOp1 for Shuffle {
    fn name(&self) -> &'static str {
        "pixel-shuffle"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        shuffle(self.name(), values(self.name(), storage, layout)?, layout, &[], 0)
    }
}

/// The same, plus an input `[r, w, i]` whose channels are repeated to `4 c` and shuffled in the library's order (by the
/// channel, then by the pixel).
#[derive(Debug)]
pub struct ShuffleAdd;

impl CustomOp2 for ShuffleAdd {
    fn name(&self) -> &'static str {
        "pixel-shuffle-add"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (added, (rows, width, input)) = (values(self.name(), s2, l2)?, l2.shape().dims3()?);
        let (r, w, channels) = l1.shape().dims3()?;
        if (rows, width) != (r, w) || !channels.is_multiple_of(input) {
            bail!("{}: {:?} cannot be added to {:?}", self.name(), l2.dims(), l1.dims());
        }
        shuffle(self.name(), values(self.name(), s1, l1)?, l1, added, input)
    }
}

fn shuffle(
    name: &str,
    x: &[f32],
    layout: &Layout,
    added: &[f32],
    input: usize,
) -> Result<(CpuStorage, Shape)> {
    let (rows, width, channels) = layout.shape().dims3()?;
    if !channels.is_multiple_of(4) {
        bail!("{name}: {channels} channels are no four pixels");
    }
    let columns = channels / 4;
    let mut out = vec![0.0; x.len()];
    out.par_chunks_exact_mut(2 * width * columns).enumerate().for_each(|(y, row)| {
        for (x2, pixel) in row.chunks_exact_mut(columns).enumerate() {
            let (source, corner) = (y / 2 * width + x2 / 2, 2 * (y % 2) + x2 % 2);
            pixel.copy_from_slice(&x[source * channels + corner * columns..][..columns]);
            if !added.is_empty() {
                let (from, repeats) = (&added[source * input..][..input], channels / input);
                for (c, value) in pixel.iter_mut().enumerate() {
                    *value += from[(4 * c + corner) / repeats];
                }
            }
        }
    });
    made(out, (2 * rows, 2 * width, columns))
}

/// `[2 r, 2 w, c]` to `[r, w, 4 c]`, sorted by the channel and then by the pixel.
#[derive(Debug)]
pub struct Unshuffle;

impl CustomOp1 for Unshuffle {
    fn name(&self) -> &'static str {
        "pixel-unshuffle"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(self.name(), storage, layout)?;
        let (rows, width, channels) = halved(self.name(), layout)?;
        let mut out = vec![0.0; x.len()];
        out.par_chunks_exact_mut(width * 4 * channels).enumerate().for_each(|(y, row)| {
            for (column, pixel) in row.chunks_exact_mut(4 * channels).enumerate() {
                for (c, value) in pixel.iter_mut().enumerate() {
                    *value = x[unshuffled((y, column), c, (width, channels))];
                }
            }
        });
        made(out, (rows, width, 4 * channels))
    }
}

/// The same, plus the mean over groups of neighbouring channels of an unshuffled input `[2 r, 2 w, i]`.
#[derive(Debug)]
pub struct UnshuffleAdd {
    /// Of the result.
    pub channels: usize,
}

impl CustomOp2 for UnshuffleAdd {
    fn name(&self) -> &'static str {
        "pixel-unshuffle-add"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (storage, shape) = Unshuffle.cpu_fwd(s1, l1)?;
        let (rows, width, input) = halved(self.name(), l2)?;
        let CpuStorage::F32(mut out) = storage else { bail!("{}: not f32", self.name()) };
        if shape.dims() != [rows, width, self.channels] || !(4 * input).is_multiple_of(self.channels) {
            bail!("{}: {:?} cannot be added to {:?}", self.name(), l2.dims(), shape.dims());
        }
        add_means(values(self.name(), s2, l2)?, (width, input), self.channels, &mut out);
        made(out, shape)
    }
}

/// Rows, width and channels after halving.
fn halved(name: &str, layout: &Layout) -> Result<(usize, usize, usize)> {
    let (rows, width, channels) = layout.shape().dims3()?;
    if !rows.is_multiple_of(2) || !width.is_multiple_of(2) {
        bail!("{name}: {:?} cannot be halved", layout.dims());
    }
    Ok((rows / 2, width / 2, channels))
}

/// Where channel `c` of pixel (`y`, `x`) of an unshuffled picture lies in the picture, which has twice `width`.
#[inline(always)]
fn unshuffled((y, x): (usize, usize), c: usize, (width, channels): (usize, usize)) -> usize {
    let (channel, corner) = (c / 4, c % 4);
    ((2 * y + corner / 2) * 2 * width + 2 * x + corner % 2) * channels + channel
}

/// Adds to `out` (`[r, width, channels]`) the means over groups of channels of the unshuffled `x`
/// (`[2 r, 2 width, input]`).
fn add_means(x: &[f32], (width, input): (usize, usize), channels: usize, out: &mut [f32]) {
    let group = 4 * input / channels;
    out.par_chunks_exact_mut(width * channels).enumerate().for_each(|(y, row)| {
        for (column, pixel) in row.chunks_exact_mut(channels).enumerate() {
            for (c, value) in pixel.iter_mut().enumerate() {
                let members =
                    (c * group..(c + 1) * group).map(|c| x[unshuffled((y, column), c, (width, input))]);
                *value += members.sum::<f32>() / group as f32;
            }
        }
    });
}

/// 3x3 convolution of stride 2, with DC-AE's shortcut if wanted: the row above `[1, w, in]` and `[2 r, w, in]` to
/// `[r, w / 2, out]`.
#[derive(Debug)]
pub struct StridedConv {
    packed: Packed,
    input: usize,
    shortcut: bool,
}

impl StridedConv {
    /// `weight` is `[out, in, 3, 3]`.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>, shortcut: bool) -> Result<Self> {
        let (out, input, _, _) = weight.dims4()?;
        let weight = to_vec(weight)?;
        let packed = Packed::new(9 * input, out, bias.map(to_vec).transpose()?, |k, n| {
            let (tap, channel) = (k / input, k % input);
            weight[(n * input + channel) * 9 + tap]
        });
        Ok(Self { packed, input, shortcut })
    }

    /// Bytes of weights held.
    pub fn bytes(&self) -> usize {
        self.packed.bytes()
    }
}

impl CustomOp2 for StridedConv {
    fn name(&self) -> &'static str {
        "conv3x3-stride2"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (above, x) = (values(self.name(), s1, l1)?, values(self.name(), s2, l2)?);
        let (rows, width, channels) = halved(self.name(), l2)?;
        if channels != self.input || l1.dims() != [1, 2 * width, channels] {
            bail!("{}: rows of {:?} and {:?} do not fit", self.name(), l1.dims(), l2.dims());
        }
        // Framed rows: first every second one from the row above on, then the others. So the rows above, at and below
        // the pixels of one line lie at the same distance from each other in every line.
        let (row, framed) = (2 * width * channels, (2 * width + 2) * channels);
        let mut data = vec![0.0; (2 * rows + 1) * framed];
        for (index, source) in above.chunks_exact(row).chain(x.chunks_exact(row)).enumerate() {
            let place = if index % 2 == 0 { index / 2 } else { rows + 1 + index / 2 };
            data[place * framed + channels..][..row].copy_from_slice(source);
        }
        let columns = self.packed.columns();
        count::add(rows * width * columns, 9 * channels);
        let mut out = vec![0.0; rows * width * columns];
        let pixels = Rows {
            data: &data,
            // Lines of pixels run on through the frame; what falls on it is dropped.
            count: rows * (width + 1) - 1,
            stride: 2 * channels,
            segments: &[0, (rows + 1) * framed, framed],
            length: 3 * channels,
        };
        let place = Place { frame: width + 1, kept: width, line: width * columns, step: columns, offset: 0 };
        gemm(pixels, &self.packed, Activation::None, place, &mut out);
        if self.shortcut {
            add_means(x, (width, channels), columns, &mut out);
        }
        made(out, (rows, width, columns))
    }
}

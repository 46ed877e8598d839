//! Pixel shuffles, nearest pixels and the 3x3 convolution of stride 2, with DC-AE's shortcuts.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, D, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{Activation, by_kernels, count, made, to_vec, values};
use crate::cpu::gemm::{Packed, Place, Rows, gemm};
use crate::cuda;

/// `[r, w, c]` to `[2 r, 2 w, c]`: every pixel four times.
pub fn nearest_pixels(x: &Tensor) -> Result<Tensor> {
    let x = x.contiguous()?;
    if by_kernels(&x) {
        let (rows, width, channels) = x.dims3()?;
        let each = x.reshape((rows, 1, width, 1, channels))?.broadcast_as((rows, 2, width, 2, channels))?;
        return each.contiguous()?.reshape((2 * rows, 2 * width, channels));
    }
    x.apply_op1_no_bwd(&NearestPixels)
}

/// `[r, w, 4 c]`, sorted by the four pixels and then by the channel, to `[2 r, 2 w, c]`. An input `[r, w, i]` is added, its
/// channels repeated to `4 c` and shuffled in the library's order (by the channel, then by the pixel).
pub fn shuffle(x: &Tensor, input: Option<&Tensor>) -> Result<Tensor> {
    if by_kernels(x) {
        return cuda::shuffle(x, input);
    }
    match input {
        None => x.apply_op1_no_bwd(&Shuffle),
        Some(input) => x.apply_op2_no_bwd(&input.contiguous()?, &ShuffleAdd),
    }
}

/// `[2 r, 2 w, c]` to `[r, w, 4 c]`, sorted by the channel and then by the pixel. Of an input `[2 r, 2 w, i]`, unshuffled too,
/// the means over groups of neighbouring channels are added.
pub fn unshuffle(x: &Tensor, input: Option<&Tensor>) -> Result<Tensor> {
    if by_kernels(x) {
        let out = unshuffled_there(x)?;
        let channels = out.dim(2)?;
        return match input {
            None => Ok(out),
            Some(input) => out + means_there(input, channels)?,
        };
    }
    match input {
        None => x.apply_op1_no_bwd(&Unshuffle),
        Some(input) => x.apply_op2_no_bwd(&input.contiguous()?, &UnshuffleAdd { channels: 4 * x.dim(2)? }),
    }
}

/// On a device, for a part that only the encoder has: candle's own operations.
fn unshuffled_there(x: &Tensor) -> Result<Tensor> {
    let (rows, width, channels) = x.dims3()?;
    if !rows.is_multiple_of(2) || !width.is_multiple_of(2) {
        bail!("pixel-unshuffle: {:?} cannot be halved", x.dims());
    }
    let split = x.reshape((rows / 2, 2, width / 2, 2, channels))?.permute((0, 2, 4, 1, 3))?;
    split.contiguous()?.reshape((rows / 2, width / 2, 4 * channels))
}

/// The means over groups of channels of an unshuffled input, on a device.
fn means_there(input: &Tensor, channels: usize) -> Result<Tensor> {
    let (rows, width, wide) = unshuffled_there(input)?.dims3()?;
    if !wide.is_multiple_of(channels) {
        bail!("pixel-unshuffle: {:?} cannot be added to {channels} channels", input.dims());
    }
    let all = unshuffled_there(&input.to_dtype(DType::F32)?)?;
    all.reshape((rows, width, channels, wide / channels))?.mean(D::Minus1)?.to_dtype(input.dtype())
}

/// On the CPU.
struct NearestPixels;

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

/// On the CPU.
struct Shuffle;

impl CustomOp1 for Shuffle {
    fn name(&self) -> &'static str {
        "pixel-shuffle"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        shuffled(self.name(), values(self.name(), storage, layout)?, layout, &[], 0)
    }
}

/// On the CPU, with the input.
struct ShuffleAdd;

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
        shuffled(self.name(), values(self.name(), s1, l1)?, l1, added, input)
    }
}

fn shuffled(
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

/// On the CPU.
struct Unshuffle;

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

/// On the CPU, with the input.
struct UnshuffleAdd {
    /// Of the result.
    channels: usize,
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
pub struct StridedConv(Kind);

#[derive(Debug)]
enum Kind {
    Cpu(Strided),
    /// With the shortcut or not.
    Device(cuda::Conv, bool),
}

#[derive(Debug)]
struct Strided {
    packed: Packed,
    input: usize,
    shortcut: bool,
}

impl StridedConv {
    /// `weight` is `[out, in, 3, 3]`.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>, shortcut: bool) -> Result<Self> {
        let (out, input, _, _) = weight.dims4()?;
        if by_kernels(weight) {
            let shape = cuda::ConvShape::STRIDED_3X3;
            let conv = cuda::Conv::new(weight, bias, Activation::None, shape)?;
            return Ok(Self(Kind::Device(conv, shortcut)));
        }
        let weight = to_vec(weight)?;
        let packed = Packed::new(9 * input, out, bias.map(to_vec).transpose()?, |k, n| {
            let (tap, channel) = (k / input, k % input);
            weight[(n * input + channel) * 9 + tap]
        });
        Ok(Self(Kind::Cpu(Strided { packed, input, shortcut })))
    }

    /// Bytes of weights held.
    pub fn bytes(&self) -> usize {
        match &self.0 {
            Kind::Cpu(layer) => layer.packed.bytes(),
            Kind::Device(layer, _) => layer.bytes(),
        }
    }

    /// `above` is `[1, w, in]`, `rows` `[2 r, w, in]`.
    pub fn forward(&self, above: &Tensor, rows: &Tensor) -> Result<Tensor> {
        match &self.0 {
            Kind::Cpu(layer) => above.apply_op2_no_bwd(rows, layer),
            Kind::Device(layer, shortcut) => {
                let out = layer.forward(&[above.clone(), rows.clone()])?;
                if !shortcut {
                    return Ok(out);
                }
                let channels = out.dim(2)?;
                out + means_there(rows, channels)?
            }
        }
    }
}

impl CustomOp2 for Strided {
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

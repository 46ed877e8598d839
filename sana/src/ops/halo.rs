//! Convolutions over rows that arrive piece by piece.
//!
//! Each takes the rows kept from before and the new ones, in pieces, and gives the rows that have all their
//! neighbours: `pad` rows at each end do not. Left and right the picture is framed with zeros.

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Storage, Tensor, bail};

use super::{Activation, by_kernels, count, made, to_vec, values};
use crate::cpu::conv::{Conv3x3, Strip, Upsample, Window};
use crate::cpu::depthwise::Depthwise;
use crate::cpu::gemm::{Packed, Place, Rows, gemm};
use crate::cpu::winograd::{TILE, Winograd};
use crate::cuda;

/// An operation on rows that needs their neighbours above and below.
pub trait RowOp {
    /// Rows at each end of the input that the result lacks.
    fn pad(&self) -> usize;

    /// Rows of the input that are worked on together: a result may begin `lead` rows before a multiple of it.
    fn step(&self) -> usize {
        1
    }

    /// `pieces` are `[rows, w, in]` one below the other. The result begins with the row of the picture that is `lead`
    /// rows short of a multiple of [`Self::step`].
    fn run(&self, pieces: &[Tensor], lead: usize) -> Result<Tensor>;
}

/// Calls `work` with the rows of all pieces, and their channels.
fn with_strip<T>(
    name: &str,
    pieces: &[Tensor],
    work: impl FnOnce(&Strip<'_>, usize) -> Result<T>,
) -> Result<T> {
    let [first, ..] = pieces else { bail!("{name}: no rows") };
    let (_, width, channels) = first.dims3()?;
    let guards: Vec<_> = pieces.iter().map(Tensor::storage_and_layout).collect();
    let mut slices = Vec::with_capacity(pieces.len());
    for (storage, layout) in &guards {
        let (_, other_width, other_channels) = layout.shape().dims3()?;
        if (other_width, other_channels) != (width, channels) {
            bail!("{name}: rows of {:?} do not follow rows of {:?}", layout.dims(), first.dims());
        }
        let Storage::Cpu(storage) = &**storage else { bail!("{name}: the rows are not on the CPU") };
        slices.push(values(name, storage, layout)?);
    }
    work(&Strip::new(&slices, width, channels), channels)
}

/// Calls `work` with the rows of all pieces in one window with a frame of 1.
fn with_window<T>(name: &str, pieces: &[Tensor], work: impl FnOnce(&Window) -> Result<T>) -> Result<T> {
    with_strip(name, pieces, |strip, channels| work(&Window::new(strip, channels, 1)))
}

fn rows_made(values: Vec<f32>, dims: (usize, usize, usize)) -> Result<Tensor> {
    Tensor::from_vec(values, dims, &Device::Cpu)
}

/// 3x3 convolution: `[n, w, in]` to `[n - 2, w, out]`.
#[derive(Debug)]
pub struct Conv {
    layer: Kernel,
    activation: Activation,
}

/// How it is computed.
#[derive(Debug)]
enum Kernel {
    Direct(Conv3x3),
    Winograd(Winograd),
    Device(cuda::Conv),
}

/// Channels of input and output from which on the transforms cost less than they save.
const WINOGRAD: usize = 16;

/// Values that a [`Conv`] of these channels holds: Winograd's weights are four times as many.
pub fn conv_values(out: usize, input: usize) -> usize {
    out * input * if input.min(out) < WINOGRAD { 9 } else { 36 }
}

/// Values that an [`UpsampleConv`] of these channels holds: four convolutions of 2x2.
pub fn upsample_values(out: usize, input: usize) -> usize {
    16 * out * input
}

impl Conv {
    /// `weight` is `[out, in, 3, 3]`.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>, activation: Activation) -> Result<Self> {
        let (out, input, ..) = weight.dims4()?;
        if by_kernels(weight) {
            let layer = cuda::Conv::new(weight, bias, activation, cuda::ConvShape::FRAMED_3X3)?;
            return Ok(Self { layer: Kernel::Device(layer), activation });
        }
        let (weight, bias) = (to_vec(weight)?, bias.map(to_vec).transpose()?);
        let layer = if input.min(out) < WINOGRAD {
            Kernel::Direct(Conv3x3::new(&weight, input, bias))
        } else {
            Kernel::Winograd(Winograd::new(&weight, input, bias))
        };
        Ok(Self { layer, activation })
    }

    /// Bytes of weights held.
    pub fn bytes(&self) -> usize {
        match &self.layer {
            Kernel::Direct(layer) => layer.bytes(),
            Kernel::Winograd(layer) => layer.bytes(),
            Kernel::Device(layer) => layer.bytes(),
        }
    }
}

impl RowOp for Conv {
    fn pad(&self) -> usize {
        1
    }

    fn step(&self) -> usize {
        match self.layer {
            Kernel::Direct(_) | Kernel::Device(_) => 1,
            Kernel::Winograd(_) => TILE,
        }
    }

    fn run(&self, pieces: &[Tensor], lead: usize) -> Result<Tensor> {
        match &self.layer {
            Kernel::Direct(layer) => with_window("conv3x3", pieces, |window| {
                let dims = (window.inner_rows(), window.width(), layer.channels());
                count::add(dims.0 * dims.1 * dims.2, 9 * window.channels());
                let mut out = vec![0.0; dims.0 * dims.1 * dims.2];
                layer.run(window, self.activation, &mut out);
                rows_made(out, dims)
            }),
            Kernel::Winograd(layer) => with_strip("conv3x3", pieces, |strip, channels| {
                let dims = (strip.inner_rows(1), strip.width(), layer.channels());
                count::add(dims.0 * dims.1 * dims.2, 9 * channels);
                let mut out = vec![0.0; dims.0 * dims.1 * dims.2];
                layer.run(strip, lead, self.activation, &mut out);
                rows_made(out, dims)
            }),
            Kernel::Device(layer) => layer.forward(pieces),
        }
    }
}

/// Nearest upsampling by 2, 3x3 convolution and DC-AE's shortcut: `[n, w, in]` to
/// `[2 (n - 2), 2 w, out]`.
#[derive(Debug)]
pub struct UpsampleConv {
    layer: On<Upsample, cuda::UpsampleConv>,
}

/// A layer where its weights are.
#[derive(Debug)]
enum On<C, D> {
    Cpu(C),
    Device(D),
}

impl UpsampleConv {
    /// `weight` is `[out, in, 3, 3]`.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>) -> Result<Self> {
        let input = weight.dim(1)?;
        let layer = match by_kernels(weight) {
            true => On::Device(cuda::UpsampleConv::new(weight, bias)?),
            false => On::Cpu(Upsample::new(&to_vec(weight)?, input, bias.map(to_vec).transpose()?)),
        };
        Ok(Self { layer })
    }

    /// Bytes of weights held.
    pub fn bytes(&self) -> usize {
        match &self.layer {
            On::Cpu(layer) => layer.bytes(),
            On::Device(layer) => layer.bytes(),
        }
    }
}

impl RowOp for UpsampleConv {
    fn pad(&self) -> usize {
        1
    }

    fn run(&self, pieces: &[Tensor], _lead: usize) -> Result<Tensor> {
        let layer = match &self.layer {
            On::Cpu(layer) => layer,
            On::Device(layer) => return layer.forward(pieces),
        };
        with_window("upsample2x-conv3x3", pieces, |window| {
            let dims = (2 * window.inner_rows(), 2 * window.width(), layer.channels());
            count::add(dims.0 * dims.1 * dims.2, 4 * window.channels());
            let mut out = vec![0.0; dims.0 * dims.1 * dims.2];
            layer.run(window, &mut out);
            rows_made(out, dims)
        })
    }
}

/// Depthwise 3x3 convolution and gate of a GLUMBConv: `[n, w, 2 f]` to `[n - 2, w, f]`.
#[derive(Debug)]
pub struct GatedDepthwise {
    layer: On<Depthwise, cuda::GatedDepthwise>,
}

impl GatedDepthwise {
    /// `weight` is `[2 f, 1, 3, 3]`.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>) -> Result<Self> {
        Ok(Self {
            layer: match by_kernels(weight) {
                true => On::Device(cuda::GatedDepthwise::new(weight, bias)?),
                false => On::Cpu(Depthwise::new(&to_vec(weight)?, 3, bias.map(to_vec).transpose()?)),
            },
        })
    }

    /// Bytes of weights held.
    pub fn bytes(&self) -> usize {
        match &self.layer {
            On::Cpu(layer) => layer.bytes(),
            On::Device(layer) => layer.bytes(),
        }
    }

    /// The same over whole pictures of `height` rows of `width` pixels: `[n * height * width, 2 f]` to
    /// `[n * height * width, f]`.
    pub fn pictures(&self, x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
        match &self.layer {
            On::Cpu(layer) => x.apply_op1_no_bwd(&GatedPictures { layer, height, width }),
            On::Device(layer) => layer.pictures(x, height, width),
        }
    }
}

/// On the CPU.
struct GatedPictures<'a> {
    layer: &'a Depthwise,
    height: usize,
    width: usize,
}

impl CustomOp1 for GatedPictures<'_> {
    fn name(&self) -> &'static str {
        "depthwise3x3-gate"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(self.name(), storage, layout)?;
        let (tokens, channels) = layout.shape().dims2()?;
        let picture = self.height * self.width;
        if channels != self.layer.channels() || !tokens.is_multiple_of(picture) {
            bail!("depthwise3x3-gate: {:?} are no pictures of {}x{}", layout.dims(), self.width, self.height);
        }
        let mut out = vec![0.0; tokens * channels / 2];
        for (x, out) in x.chunks_exact(picture * channels).zip(out.chunks_exact_mut(picture * channels / 2)) {
            self.layer.run_gated(&Strip::new(&[x], self.width, channels).framed(1), out);
        }
        made(out, (tokens, channels / 2))
    }
}

impl RowOp for GatedDepthwise {
    fn pad(&self) -> usize {
        1
    }

    fn run(&self, pieces: &[Tensor], _lead: usize) -> Result<Tensor> {
        let layer = match &self.layer {
            On::Cpu(layer) => layer,
            On::Device(layer) => return layer.forward(pieces),
        };
        with_strip("depthwise3x3-gate", pieces, |strip, _| {
            let dims = (strip.inner_rows(1), strip.width(), layer.channels() / 2);
            count::add(dims.0 * dims.1, 9 * layer.channels());
            let mut out = vec![0.0; dims.0 * dims.1 * dims.2];
            layer.run_gated(strip, &mut out);
            rows_made(out, dims)
        })
    }
}

/// DC-AE's second scale: depthwise `size` x `size`, then a 1x1 convolution in groups. The result is the input
/// with it behind: `[n, w, c]` to `[n - 2 pad, w, 2 c]`.
#[derive(Debug)]
pub struct MultiScale {
    layer: On<Scale, cuda::MultiScale>,
}

/// On the CPU.
#[derive(Debug)]
struct Scale {
    depthwise: Depthwise,
    groups: Vec<Packed>,
}

impl MultiScale {
    /// `proj_in` is `[c, 1, size, size]`, `proj_out` is `[c, width, 1, 1]` in groups of `width`; of both, only
    /// the groups listed in `chosen` are used, in that order.
    pub fn new(proj_in: &Tensor, proj_out: &Tensor, chosen: &[usize]) -> Result<Self> {
        if by_kernels(proj_in) {
            return Ok(Self { layer: On::Device(cuda::MultiScale::new(proj_in, proj_out, chosen)?) });
        }
        let (size, width) = (proj_in.dim(3)?, proj_out.dim(1)?);
        let taps = size * size;
        let (proj_in, proj_out) = (to_vec(proj_in)?, to_vec(proj_out)?);
        let kernels: Vec<f32> = chosen
            .iter()
            .flat_map(|&group| &proj_in[group * width * taps..][..width * taps])
            .copied()
            .collect();
        let groups = chosen
            .iter()
            .map(|&group| {
                let weight = &proj_out[group * width * width..][..width * width];
                Packed::new(width, width, None, |k, n| weight[n * width + k])
            })
            .collect();
        let depthwise = Depthwise::new(&kernels, size, None);
        Ok(Self { layer: On::Cpu(Scale { depthwise, groups }) })
    }

    /// Bytes of weights held.
    pub fn bytes(&self) -> usize {
        match &self.layer {
            On::Cpu(Scale { depthwise, groups }) => {
                depthwise.bytes() + groups.iter().map(Packed::bytes).sum::<usize>()
            }
            On::Device(layer) => layer.bytes(),
        }
    }
}

impl RowOp for MultiScale {
    fn pad(&self) -> usize {
        match &self.layer {
            On::Cpu(scale) => scale.depthwise.pad(),
            On::Device(layer) => layer.pad(),
        }
    }

    fn run(&self, pieces: &[Tensor], _lead: usize) -> Result<Tensor> {
        match &self.layer {
            On::Cpu(scale) => {
                with_strip("multi-scale", pieces, |strip, channels| scale.filter(strip, channels))
            }
            On::Device(layer) => layer.forward(pieces),
        }
    }
}

impl Scale {
    fn filter(&self, strip: &Strip<'_>, channels: usize) -> Result<Tensor> {
        let pad = self.depthwise.pad();
        let (rows, width) = (strip.inner_rows(pad), strip.width());
        let taps = (2 * pad + 1) * (2 * pad + 1);
        count::add(rows * width * channels, taps + channels / self.groups.len());
        let mut filtered = vec![0.0; rows * width * channels];
        self.depthwise.run(strip, &mut filtered);
        let mut out = vec![0.0; rows * width * 2 * channels];
        for (y, target) in out.chunks_exact_mut(width * 2 * channels).enumerate() {
            let source = strip.row(y + pad);
            for (target, source) in target.chunks_exact_mut(2 * channels).zip(source.chunks_exact(channels)) {
                target[..channels].copy_from_slice(source);
            }
        }
        for (group, packed) in self.groups.iter().enumerate() {
            let first = group * packed.columns();
            let rows = Rows {
                data: &filtered,
                count: rows * width,
                stride: channels,
                segments: &[first],
                length: packed.inner(),
            };
            gemm(rows, packed, Activation::None, Place::rows(2 * channels, channels + first), &mut out);
        }
        rows_made(out, (rows, width, 2 * channels))
    }
}

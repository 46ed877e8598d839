//! Convolutions over rows that arrive piece by piece.
//!
//! Each takes the rows kept from before and the new ones, and gives the rows that have all their neighbours:
//! `pad` rows at each end do not. Left and right the picture is framed with zeros.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};

use super::{Activation, count, made, to_vec, values};
use crate::cpu::conv::{Conv3x3, Upsample, Window};
use crate::cpu::depthwise::Depthwise;
use crate::cpu::gemm::{Packed, Place, Rows, gemm};

/// Rows of both inputs in one framed window, with its channels as wanted.
fn window(
    name: &str,
    (s1, l1): (&CpuStorage, &Layout),
    (s2, l2): (&CpuStorage, &Layout),
    pad: usize,
) -> Result<Window> {
    let (_, width, channels) = l2.shape().dims3()?;
    let (kept, kept_width, kept_channels) = l1.shape().dims3()?;
    if kept > 0 && (kept_width, kept_channels) != (width, channels) {
        bail!("{name}: rows of {:?} do not follow rows of {:?}", l2.dims(), l1.dims());
    }
    let pieces = [values(name, s1, l1)?, values(name, s2, l2)?];
    Ok(Window::new(&pieces, width, channels, pad, 0, 0))
}

/// 3x3 convolution: `[a, w, in]`, `[b, w, in]` to `[a + b - 2, w, out]`.
#[derive(Debug)]
pub struct Conv {
    layer: Conv3x3,
    activation: Activation,
}

impl Conv {
    /// `weight` is `[out, in, 3, 3]`.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>, activation: Activation) -> Result<Self> {
        let input = weight.dim(1)?;
        Ok(Self { layer: Conv3x3::new(&to_vec(weight)?, input, bias.map(to_vec).transpose()?), activation })
    }

    /// Bytes of weights held.
    pub fn bytes(&self) -> usize {
        self.layer.bytes()
    }
}

impl CustomOp2 for Conv {
    fn name(&self) -> &'static str {
        "conv3x3"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let window = window(self.name(), (s1, l1), (s2, l2), 1)?;
        let dims = (window.inner_rows(), window.width(), self.layer.channels());
        count::add(dims.0 * dims.1 * dims.2, 9 * window.channels());
        let mut out = vec![0.0; dims.0 * dims.1 * dims.2];
        self.layer.run(&window, self.activation, &mut out);
        made(out, dims)
    }
}

/// Nearest upsampling by 2, 3x3 convolution and DC-AE's shortcut: `[a, w, in]`, `[b, w, in]` to
/// `[2 (a + b - 2), 2 w, out]`.
#[derive(Debug)]
pub struct UpsampleConv {
    layer: Upsample,
}

impl UpsampleConv {
    /// `weight` is `[out, in, 3, 3]`.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>) -> Result<Self> {
        let input = weight.dim(1)?;
        Ok(Self { layer: Upsample::new(&to_vec(weight)?, input, bias.map(to_vec).transpose()?) })
    }

    /// Bytes of weights held.
    pub fn bytes(&self) -> usize {
        self.layer.bytes()
    }
}

impl CustomOp2 for UpsampleConv {
    fn name(&self) -> &'static str {
        "upsample2x-conv3x3"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let window = window(self.name(), (s1, l1), (s2, l2), 1)?;
        let dims = (2 * window.inner_rows(), 2 * window.width(), self.layer.channels());
        count::add(dims.0 * dims.1 * dims.2, 4 * window.channels());
        let mut out = vec![0.0; dims.0 * dims.1 * dims.2];
        self.layer.run(&window, &mut out);
        made(out, dims)
    }
}

/// Depthwise 3x3 convolution and gate of a GLUMBConv: `[a, w, 2 f]`, `[b, w, 2 f]` to `[a + b - 2, w, f]`.
#[derive(Debug)]
pub struct GatedDepthwise {
    layer: Depthwise,
}

impl GatedDepthwise {
    /// `weight` is `[2 f, 1, 3, 3]`.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>) -> Result<Self> {
        Ok(Self { layer: Depthwise::new(&to_vec(weight)?, 3, bias.map(to_vec).transpose()?) })
    }

    /// Bytes of weights held.
    pub fn bytes(&self) -> usize {
        self.layer.bytes()
    }
}

/// The same over whole pictures: `[n * height * width, 2 f]` to `[n * height * width, f]`.
#[derive(Debug)]
pub struct GatedPictures<'a> {
    /// Weights.
    pub layer: &'a GatedDepthwise,
    /// Rows of a picture.
    pub height: usize,
    /// Pixels of a row.
    pub width: usize,
}

impl CustomOp1 for GatedPictures<'_> {
    fn name(&self) -> &'static str {
        "depthwise3x3-gate"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(self.name(), storage, layout)?;
        let (tokens, channels) = layout.shape().dims2()?;
        let picture = self.height * self.width;
        if channels != self.layer.layer.channels() || !tokens.is_multiple_of(picture) {
            bail!("depthwise3x3-gate: {:?} are no pictures of {}x{}", layout.dims(), self.width, self.height);
        }
        let mut out = vec![0.0; tokens * channels / 2];
        for (x, out) in x.chunks_exact(picture * channels).zip(out.chunks_exact_mut(picture * channels / 2)) {
            self.layer.layer.run_gated(&Window::new(&[x], self.width, channels, 1, 1, 1), out);
        }
        made(out, (tokens, channels / 2))
    }
}

impl CustomOp2 for GatedDepthwise {
    fn name(&self) -> &'static str {
        "depthwise3x3-gate"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let window = window(self.name(), (s1, l1), (s2, l2), 1)?;
        let dims = (window.inner_rows(), window.width(), self.layer.channels() / 2);
        count::add(dims.0 * dims.1, 9 * self.layer.channels());
        let mut out = vec![0.0; dims.0 * dims.1 * dims.2];
        self.layer.run_gated(&window, &mut out);
        made(out, dims)
    }
}

/// DC-AE's second scale: depthwise `size` x `size`, then a 1x1 convolution in groups. The result is the input
/// with it behind: `[a, w, c]`, `[b, w, c]` to `[a + b - 2 pad, w, 2 c]`.
#[derive(Debug)]
pub struct MultiScale {
    depthwise: Depthwise,
    groups: Vec<Packed>,
}

impl MultiScale {
    /// `proj_in` is `[c, 1, size, size]`, `proj_out` is `[c, width, 1, 1]` in groups of `width`; of both, only
    /// the groups listed in `chosen` are used, in that order.
    pub fn new(proj_in: &Tensor, proj_out: &Tensor, chosen: &[usize]) -> Result<Self> {
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
        Ok(Self { depthwise: Depthwise::new(&kernels, size, None), groups })
    }

    /// Rows at each end of the input that the result lacks.
    pub fn pad(&self) -> usize {
        self.depthwise.pad()
    }

    /// Bytes of weights held.
    pub fn bytes(&self) -> usize {
        self.depthwise.bytes() + self.groups.iter().map(Packed::bytes).sum::<usize>()
    }
}

impl CustomOp2 for MultiScale {
    fn name(&self) -> &'static str {
        "multi-scale"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let window = window(self.name(), (s1, l1), (s2, l2), self.pad())?;
        let (rows, width, channels) = (window.inner_rows(), window.width(), window.channels());
        let taps = (2 * self.pad() + 1) * (2 * self.pad() + 1);
        count::add(rows * width * channels, taps + channels / self.groups.len());
        let mut filtered = vec![0.0; rows * width * channels];
        self.depthwise.run(&window, &mut filtered);
        let mut out = vec![0.0; rows * width * 2 * channels];
        for (y, target) in out.chunks_exact_mut(width * 2 * channels).enumerate() {
            let source = &window.row(y + self.pad())[self.pad() * channels..][..width * channels];
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
        made(out, (rows, width, 2 * channels))
    }
}

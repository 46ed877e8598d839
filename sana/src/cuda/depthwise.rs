//! Depthwise convolutions, and DC-AE's second scale.

use candle_core::{Result, Tensor, bail};

use super::conv::Pieces;
use super::linear::choose;
use super::table::{DEPTHWISE_3, DEPTHWISE_5, GATED_DEPTHWISE_3, GROUP_LINEAR, Kernel};
use super::{Launch, WARP, f32_of};

/// Pixels that a thread works on: `STRIP` in `depthwise.cu`.
const STRIP: usize = 8;
/// Channels of a block.
const CHANNELS: usize = 128;
/// Channels of a group at most: `MAX_GROUP` in `multi_scale.cu`.
const MAX_GROUP: usize = 32;
/// Pixels of a block in `multi_scale.cu`.
const GROUP_PIXELS: usize = 64;

/// Weights of a depthwise convolution.
#[derive(Debug)]
struct Depthwise {
    /// `[taps, channels]` in f32.
    weight: Tensor,
    bias: Option<Tensor>,
    size: usize,
}

/// Where the first row of a window is, and how many rows and pictures come out.
struct Frame {
    /// Rows above the pieces that count as zero.
    shift: usize,
    out_rows: usize,
    pictures: usize,
}

impl Depthwise {
    /// `weight` is `[channels, 1, size, size]`, `bias` is `[channels]`.
    fn new(weight: &Tensor, bias: Option<&Tensor>) -> Result<Self> {
        let (channels, one, size, width) = weight.dims4()?;
        if one != 1 || size != width || bias.is_some_and(|bias| bias.dims() != [channels]) {
            bail!("depthwise: weights of {:?} do not fit", weight.dims());
        }
        let weight = f32_of(&weight.reshape((channels, size * size))?.t()?)?;
        Ok(Self { weight, bias: bias.map(f32_of).transpose()?, size })
    }

    fn bytes(&self) -> usize {
        self.weight.elem_count() * 4
    }

    /// `outputs` channels for each pixel of the result; `pieces` hold `frame.pictures` pictures one below the other.
    fn run(&self, kernel: &'static Kernel, pieces: &Pieces, frame: &Frame, outputs: usize) -> Result<Tensor> {
        let (_, channels) = self.weight.dims2()?;
        if pieces.channels != channels {
            bail!("{}: {} channels of input, {channels} of weights", kernel.name, pieces.channels);
        }
        let &Frame { shift, out_rows, pictures } = frame;
        let count = pieces.count / pictures;
        let grid = [out_rows * pieces.width.div_ceil(STRIP), outputs.div_ceil(CHANNELS), pictures];
        Launch::new(kernel, pieces.rows.dtype(), grid, [CHANNELS, 1])
            .optional(pieces.kept.as_ref())
            .tensor(&pieces.rows)
            .tensor(&self.weight)
            .optional(self.bias.as_ref())
            .target()
            .ints([pieces.kept_rows, count, pieces.width, channels, shift, out_rows])
            .make((pictures * out_rows, pieces.width, outputs), pieces.rows.dtype())
    }
}

/// Depthwise 3x3 convolution and gate of a GLUMBConv.
#[derive(Debug)]
pub(crate) struct GatedDepthwise(Depthwise);

impl GatedDepthwise {
    /// `weight` is `[2 f, 1, 3, 3]`.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>) -> Result<Self> {
        if weight.dim(2)? != 3 || !weight.dim(0)?.is_multiple_of(2) {
            bail!("gated depthwise: weights of {:?} are not of an even number of 3x3 kernels", weight.dims());
        }
        Depthwise::new(weight, bias).map(Self)
    }

    /// Bytes of weights held.
    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// `[n, w, 2 f]` in pieces to `[n - 2, w, f]`.
    pub fn forward(&self, pieces: &[Tensor]) -> Result<Tensor> {
        let pieces = Pieces::new(pieces)?;
        let frame = Frame { shift: 0, out_rows: pieces.inner_rows(1)?, pictures: 1 };
        self.0.run(&GATED_DEPTHWISE_3, &pieces, &frame, pieces.channels / 2)
    }

    /// Whole pictures: `[n * height * width, 2 f]` to `[n * height * width, f]`.
    pub fn pictures(&self, x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
        let (tokens, channels) = x.dims2()?;
        let pictures = tokens / (height * width).max(1);
        if pictures == 0 || !tokens.is_multiple_of(height * width) {
            bail!("gated depthwise: {:?} are no pictures of {width}x{height}", x.dims());
        }
        let rows = x.reshape((pictures * height, width, channels))?;
        let frame = Frame { shift: 1, out_rows: height, pictures };
        let out = self.0.run(&GATED_DEPTHWISE_3, &Pieces::new(&[rows])?, &frame, channels / 2)?;
        out.reshape((tokens, channels / 2))
    }
}

/// DC-AE's second scale: depthwise convolution, then a 1x1 convolution in groups; the result is the input with it behind.
#[derive(Debug)]
pub(crate) struct MultiScale {
    depthwise: Depthwise,
    /// `[groups, width, width]` in f32: group, output, input.
    groups: Tensor,
}

impl MultiScale {
    /// `proj_in` is `[c, 1, size, size]`, `proj_out` is `[c, width, 1, 1]` in groups of `width`; of both, only the groups
    /// listed in `chosen` are used, in that order.
    pub fn new(proj_in: &Tensor, proj_out: &Tensor, chosen: &[usize]) -> Result<Self> {
        let (channels, _, size, _) = proj_in.dims4()?;
        let width = proj_out.dim(1)?;
        if width == 0 || width > MAX_GROUP || !channels.is_multiple_of(width) || proj_out.dim(0)? != channels
        {
            bail!(
                "multi-scale: groups of {width} of {channels} channels; CUDA kernels take at most {MAX_GROUP}"
            );
        }
        if size != 3 && size != 5 {
            bail!("multi-scale: a depthwise convolution of {size}x{size}; CUDA kernels know 3x3 and 5x5");
        }
        let groups = channels / width;
        let kernels = choose(&proj_in.reshape((groups, width * size * size))?, chosen)?;
        let kernels = kernels.reshape((chosen.len() * width, 1, size, size))?;
        let weights = choose(&proj_out.reshape((groups, width * width))?, chosen)?;
        let weights = weights.reshape((chosen.len(), width, width))?;
        Ok(Self { depthwise: Depthwise::new(&kernels, None)?, groups: f32_of(&weights)? })
    }

    /// Rows at each end of the input that the result lacks.
    pub fn pad(&self) -> usize {
        self.depthwise.size / 2
    }

    /// Bytes of weights held.
    pub fn bytes(&self) -> usize {
        self.depthwise.bytes() + self.groups.elem_count() * 4
    }

    /// `[n, w, c]` in pieces to `[n - 2 pad, w, 2 c]`.
    pub fn forward(&self, pieces: &[Tensor]) -> Result<Tensor> {
        let pieces = Pieces::new(pieces)?;
        let (rows, width, channels) = (&pieces.rows, pieces.width, pieces.channels);
        let out_rows = pieces.inner_rows(self.pad())?;
        let kernel = if self.depthwise.size == 5 { &DEPTHWISE_5 } else { &DEPTHWISE_3 };
        let frame = Frame { shift: 0, out_rows, pictures: 1 };
        let filtered = self.depthwise.run(kernel, &pieces, &frame, channels)?;
        let (groups, group, _) = self.groups.dims3()?;
        let pixels = out_rows * width;
        let grid = [pixels.div_ceil(GROUP_PIXELS), groups, 1];
        Launch::new(&GROUP_LINEAR, rows.dtype(), grid, [WARP, 8])
            .tensor(&filtered)
            .tensor(&self.groups)
            .optional(pieces.kept.as_ref())
            .tensor(rows)
            .target()
            .ints([pieces.kept_rows, pieces.count, width, channels, group, self.pad(), pixels])
            .make((out_rows, width, 2 * channels), rows.dtype())
    }
}

//! Convolutions over rows that arrive piece by piece: windows of pixels side by side (im2col), then a matrix product.

use candle_core::{DType, Result, Tensor, bail};

use super::linear::product;
use super::table::{IM2COL, SHUFFLE};
use super::{Launch, ROWS, WARP, f32_of};
use crate::ops::Activation;

/// Bytes of windows at a time: 9 times the input if they were all there at once.
const WINDOW_BYTES: usize = 256 << 20;

/// Rows kept from before and new ones below them.
#[derive(Debug)]
pub(super) struct Pieces<'a> {
    pub kept: Option<&'a Tensor>,
    pub rows: &'a Tensor,
    pub kept_rows: usize,
    pub count: usize,
    pub width: usize,
    pub channels: usize,
}

impl<'a> Pieces<'a> {
    /// `[a, w, c]` and `[b, w, c]`.
    pub fn new(kept: &'a Tensor, rows: &'a Tensor) -> Result<Self> {
        let (kept_rows, kept_width, kept_channels) = kept.dims3()?;
        let pieces = Self::whole(rows)?;
        if (kept_width, kept_channels, kept.dtype()) != (pieces.width, pieces.channels, rows.dtype()) {
            bail!("rows of {:?} do not follow rows of {:?}", rows.dims(), kept.dims());
        }
        Ok(Self { kept: Some(kept), kept_rows, ..pieces })
    }

    /// New rows alone, `[b, w, c]`.
    pub fn whole(rows: &'a Tensor) -> Result<Self> {
        let (count, width, channels) = rows.dims3()?;
        Ok(Self { kept: None, rows, kept_rows: 0, count, width, channels })
    }

    /// Rows that have `pad` neighbours above and below.
    pub fn inner_rows(&self, pad: usize) -> Result<usize> {
        match (self.kept_rows + self.count).checked_sub(2 * pad) {
            Some(rows) if rows > 0 => Ok(rows),
            Some(_) | None => bail!("{} rows are not enough for a convolution", self.kept_rows + self.count),
        }
    }
}

/// Which pixels a window holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConvShape {
    /// Rows and columns of a window.
    pub taps: (usize, usize),
    /// Its first pixel, from the pixel it belongs to.
    pub first: (i64, i64),
    /// Distance of one window to the next.
    pub stride: usize,
}

impl ConvShape {
    /// 3x3 over pieces whose first row has no window of its own.
    pub const FRAMED_3X3: Self = Self { taps: (3, 3), first: (0, -1), stride: 1 };
}

/// The windows of `count` rows of the result from `first_row` on, which has `width` pixels in a row:
/// `[count * width, taps * channels]`.
fn windows(
    pieces: &Pieces<'_>,
    shape: ConvShape,
    (first_row, count): (usize, usize),
    width: usize,
) -> Result<Tensor> {
    let Pieces { rows, channels, .. } = *pieces;
    let (dtype, pixels, taps) = (rows.dtype(), count * width, shape.taps.0 * shape.taps.1);
    let wide = (channels * dtype.size_in_bytes()).is_multiple_of(16) && aligned(pieces);
    Launch::new(&IM2COL, dtype, [pixels.div_ceil(ROWS), 1, 1], [WARP, ROWS])
        .optional(pieces.kept)
        .tensor(rows)
        .target()
        .ints([pieces.kept_rows, pieces.count, pieces.width, channels])
        .ints([first_row, pixels, width, shape.taps.0, shape.taps.1])
        .signed(shape.first.0)
        .signed(shape.first.1)
        .ints([shape.stride, usize::from(wide)])
        .make((pixels, taps * channels), dtype)
}

/// Whether both pieces begin at whole 16-byte words; memory itself does.
fn aligned(pieces: &Pieces<'_>) -> bool {
    let begins = |tensor: &Tensor| {
        (tensor.layout().start_offset() * tensor.dtype().size_in_bytes()).is_multiple_of(16)
    };
    begins(pieces.rows) && pieces.kept.is_none_or(begins)
}

/// Cuts `rows` rows of the result so that their windows stay within [`WINDOW_BYTES`]; `work` gets first row and count.
fn in_parts(
    rows: usize,
    bytes_of_row: usize,
    mut work: impl FnMut(usize, usize) -> Result<Tensor>,
) -> Result<Tensor> {
    let part = (WINDOW_BYTES / bytes_of_row.max(1)).clamp(1, rows);
    let parts = (0..rows).step_by(part).map(|first| work(first, part.min(rows - first)));
    let parts = parts.collect::<Result<Vec<_>>>()?;
    match parts.as_slice() {
        [only] => Ok(only.clone()),
        parts => Tensor::cat(parts, 0),
    }
}

/// A convolution whose windows are given by a [`ConvShape`].
#[derive(Debug)]
pub(crate) struct Conv {
    /// `[out, taps * in]`, the taps outermost.
    weight: Tensor,
    bias: Option<Tensor>,
    activation: Activation,
    input: usize,
    shape: ConvShape,
}

impl Conv {
    /// `weight` is `[out, in, rows, columns]`, `bias` is `[out]`.
    pub fn new(
        weight: &Tensor,
        bias: Option<&Tensor>,
        activation: Activation,
        shape: ConvShape,
    ) -> Result<Self> {
        let (out, input, rows, columns) = weight.dims4()?;
        if (rows, columns) != shape.taps {
            bail!("conv: weights of {:?} are not of {:?} taps", weight.dims(), shape.taps);
        }
        let weight = weight.permute((0, 2, 3, 1))?.contiguous()?.reshape((out, rows * columns * input))?;
        Ok(Self { weight, bias: bias.map(f32_of).transpose()?, activation, input, shape })
    }

    /// Channels of the result.
    pub fn channels(&self) -> usize {
        self.weight.dims()[0]
    }

    /// Bytes of weights held.
    pub fn bytes(&self) -> usize {
        self.weight.elem_count() * self.weight.dtype().size_in_bytes()
    }

    /// 3x3: `[a, w, in]`, `[b, w, in]` to `[a + b - 2, w, out]`.
    pub fn forward(&self, kept: &Tensor, rows: &Tensor) -> Result<Tensor> {
        let pieces = Pieces::new(kept, rows)?;
        self.run(&pieces, pieces.inner_rows(1)?, pieces.width)
    }

    /// `out_rows` rows of `width` pixels.
    fn run(&self, pieces: &Pieces<'_>, out_rows: usize, width: usize) -> Result<Tensor> {
        if pieces.channels != self.input {
            bail!("conv: {} channels of input, {} of weights", pieces.channels, self.input);
        }
        let bytes = width * self.weight.dims()[1] * self.weight.dtype().size_in_bytes();
        in_parts(out_rows, bytes, |first, count| {
            let columns = windows(pieces, self.shape, (first, count), width)?;
            let out = product(&columns, &self.weight, self.bias.as_ref(), self.activation)?;
            out.reshape((count, width, self.channels()))
        })
    }
}

/// Puts values of low-resolution pixels at the corners of 2x2 pixels, with DC-AE's shortcut.
#[derive(Debug)]
pub(crate) struct Shuffle<'a> {
    /// Added to each channel, f32.
    pub bias: Option<&'a Tensor>,
    /// Channels of the result.
    pub channels: usize,
    /// Whether the input is added, its channels repeated and shuffled.
    pub shortcut: bool,
}

impl Shuffle<'_> {
    /// Writes one corner (`dy`, `dx`) of `count` rows, from `values` `[count * w, channels]`, into `out`
    /// `[2 count, 2 w, channels]`.
    fn corner(
        &self,
        out: &Tensor,
        values: &Tensor,
        pieces: &Pieces<'_>,
        first_row: usize,
        corner: usize,
    ) -> Result<()> {
        self.place(out, values, pieces, first_row, (corner, 1), [self.channels, 1, 0])
    }

    /// The same from `values` `[count * w, 4 * channels]`, in which a channel's four corners stand together: torch's pixel
    /// shuffle.
    pub(super) fn all(
        &self,
        out: &Tensor,
        values: &Tensor,
        pieces: &Pieces<'_>,
        first_row: usize,
    ) -> Result<()> {
        self.place(out, values, pieces, first_row, (0, 4), [4 * self.channels, 4, 1])
    }

    fn place(
        &self,
        out: &Tensor,
        values: &Tensor,
        pieces: &Pieces<'_>,
        first_row: usize,
        (corner, corners): (usize, usize),
        strides: [usize; 3],
    ) -> Result<()> {
        let (pixels, wide) = values.dims2()?;
        let (rows, width) = (pixels / pieces.width, pieces.width);
        if wide != strides[0] || out.dims() != [2 * rows, 2 * width, self.channels] {
            bail!("shuffle: values of {:?} do not fit {:?}", values.dims(), out.dims());
        }
        let inputs = if self.shortcut { pieces.channels } else { 0 };
        if self.shortcut
            && (!(4 * self.channels).is_multiple_of(inputs) || first_row + rows > pieces.inner_rows(1)?)
        {
            bail!("shuffle: {inputs} channels cannot become {}", self.channels);
        }
        Launch::new(&SHUFFLE, values.dtype(), [pixels.div_ceil(ROWS), corners, 1], [WARP, ROWS])
            .target()
            .tensor(values)
            .optional(self.bias)
            .optional(pieces.kept)
            .tensor(pieces.rows)
            .ints([pieces.kept_rows, pieces.count, width, inputs, self.channels, first_row, pixels, corner])
            .ints(strides)
            .change(out)
    }
}

/// Nearest upsampling by 2 and a 3x3 convolution as four 2x2 convolutions at the low resolution, with DC-AE's shortcut.
#[derive(Debug)]
pub(crate) struct UpsampleConv {
    phases: [Tensor; 4],
    bias: Option<Tensor>,
    input: usize,
    shortcut: bool,
}

impl UpsampleConv {
    /// `weight` is `[out, in, 3, 3]`. The taps that fall on one pixel are summed in f32, then rounded to the weights' type.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>, shortcut: bool) -> Result<Self> {
        let (out, input, rows, columns) = weight.dims4()?;
        if (rows, columns) != (3, 3) {
            bail!("upsample: weights of {:?} are not 3x3", weight.dims());
        }
        // Taps outermost: [3, 3, out, in].
        let taps = f32_of(weight)?.permute((2, 3, 0, 1))?.contiguous()?;
        // Which of the three kernel taps fall on the first and on the second pixel of a phase.
        const TAPS: [[&[usize]; 2]; 2] = [[&[0], &[1, 2]], [&[0, 1], &[2]]];
        let phase = |py: usize, px: usize| -> Result<Tensor> {
            let mut parts = Vec::with_capacity(4);
            for tap in 0..4 {
                let mut sum = Tensor::zeros((out, input), DType::F32, weight.device())?;
                for &y in TAPS[py][tap / 2] {
                    for &x in TAPS[px][tap % 2] {
                        sum = (sum + taps.get(y)?.get(x)?)?;
                    }
                }
                parts.push(sum);
            }
            Tensor::cat(&parts, 1)?.to_dtype(weight.dtype())
        };
        Ok(Self {
            phases: [phase(0, 0)?, phase(0, 1)?, phase(1, 0)?, phase(1, 1)?],
            bias: bias.map(f32_of).transpose()?,
            input,
            shortcut,
        })
    }

    /// Bytes of weights held.
    pub fn bytes(&self) -> usize {
        self.phases.iter().map(|phase| phase.elem_count() * phase.dtype().size_in_bytes()).sum()
    }

    /// `[a, w, in]`, `[b, w, in]` to `[2 (a + b - 2), 2 w, out]`.
    pub fn forward(&self, kept: &Tensor, rows: &Tensor) -> Result<Tensor> {
        let pieces = Pieces::new(kept, rows)?;
        let width = pieces.width;
        if pieces.channels != self.input {
            bail!("upsample: {} channels of input, {} of weights", pieces.channels, self.input);
        }
        let (channels, depth) = self.phases[0].dims2()?;
        let shuffle = Shuffle { bias: self.bias.as_ref(), channels, shortcut: self.shortcut };
        let bytes = width * depth * rows.dtype().size_in_bytes();
        in_parts(pieces.inner_rows(1)?, bytes, |first, count| {
            let out = Tensor::zeros((2 * count, 2 * width, channels), rows.dtype(), rows.device())?;
            for (corner, weight) in self.phases.iter().enumerate() {
                let (py, px) = ((corner / 2) as i64, (corner % 2) as i64);
                let shape = ConvShape { taps: (2, 2), first: (py, px - 1), stride: 1 };
                let columns = windows(&pieces, shape, (first, count), width)?;
                let values = product(&columns, weight, None, Activation::None)?;
                shuffle.corner(&out, &values, &pieces, first, corner)?;
            }
            Ok(out)
        })
    }
}

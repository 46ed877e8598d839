//! Convolutions over rows that arrive piece by piece: windows of pixels side by side (im2col), then a matrix product.

use candle_core::{DType, Result, Tensor, bail};

use super::linear::product;
use super::table::{IM2COL, SHUFFLE};
use super::{Launch, ROWS, WARP, f32_of};
use crate::ops::Activation;

/// Bytes of windows at a time: 9 times the input if they were all there at once.
pub(crate) const WINDOW_BYTES: usize = 256 << 20;

/// Rows of a picture in at most two pieces, those kept from before above the new ones.
#[derive(Debug)]
pub(super) struct Pieces {
    pub kept: Option<Tensor>,
    pub rows: Tensor,
    pub kept_rows: usize,
    pub count: usize,
    pub width: usize,
    pub channels: usize,
}

impl Pieces {
    /// `[rows, w, c]` one below the other, in any number.
    pub fn new(pieces: &[Tensor]) -> Result<Self> {
        let Some((last, above)) = pieces.split_last() else { bail!("no rows") };
        let (count, width, channels) = last.dims3()?;
        for piece in above {
            let (_, other_width, other_channels) = piece.dims3()?;
            if (other_width, other_channels, piece.dtype()) != (width, channels, last.dtype()) {
                bail!("rows of {:?} do not follow rows of {:?}", last.dims(), piece.dims());
            }
        }
        let kept = match above {
            [] => None,
            [one] => Some(one.contiguous()?),
            several => Some(Tensor::cat(several, 0)?),
        };
        let kept_rows = kept.as_ref().map_or(Ok(0), |kept| kept.dim(0))?;
        Ok(Self { kept, rows: last.contiguous()?, kept_rows, count, width, channels })
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
    /// The same for every second pixel of every second row.
    pub const STRIDED_3X3: Self = Self { taps: (3, 3), first: (0, -1), stride: 2 };
}

/// The windows of `count` rows of the result from `first_row` on, which has `width` pixels in a row:
/// `[count * width, taps * channels]`.
fn windows(
    pieces: &Pieces,
    shape: ConvShape,
    (first_row, count): (usize, usize),
    width: usize,
) -> Result<Tensor> {
    let (rows, channels) = (&pieces.rows, pieces.channels);
    let (dtype, pixels, taps) = (rows.dtype(), count * width, shape.taps.0 * shape.taps.1);
    let wide = (channels * dtype.size_in_bytes()).is_multiple_of(16) && aligned(pieces);
    Launch::new(&IM2COL, dtype, [pixels.div_ceil(ROWS), 1, 1], [WARP, ROWS])
        .optional(pieces.kept.as_ref())
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
fn aligned(pieces: &Pieces) -> bool {
    let begins = |tensor: &Tensor| {
        (tensor.layout().start_offset() * tensor.dtype().size_in_bytes()).is_multiple_of(16)
    };
    begins(&pieces.rows) && pieces.kept.as_ref().is_none_or(begins)
}

/// Cuts `rows` rows of the result so that their windows stay within [`WINDOW_BYTES`]; `work` gets first row and count.
pub(super) fn in_parts(
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

    /// `[n, w, in]` in pieces to `[(n - 2) / stride, w / stride, out]`, halves rounded up.
    pub fn forward(&self, pieces: &[Tensor]) -> Result<Tensor> {
        let pieces = Pieces::new(pieces)?;
        let stride = self.shape.stride;
        self.run(&pieces, pieces.inner_rows(1)?.div_ceil(stride), pieces.width.div_ceil(stride))
    }

    /// `out_rows` rows of `width` pixels.
    fn run(&self, pieces: &Pieces, out_rows: usize, width: usize) -> Result<Tensor> {
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

/// `[r, w, 4 c]`, sorted by the four pixels and then by the channel, to `[2 r, 2 w, c]`; an `input` `[r, w, i]` is added,
/// its channels repeated to `4 c` and shuffled in the library's order.
pub(crate) fn shuffle(values: &Tensor, input: Option<&Tensor>) -> Result<Tensor> {
    let (rows, width, wide) = values.dims3()?;
    if !wide.is_multiple_of(4) || input.is_some_and(|input| input.dims()[..2] != [rows, width]) {
        bail!("shuffle: {:?} and {:?} do not fit", values.dims(), input.map(Tensor::dims));
    }
    let channels = wide / 4;
    let out = Tensor::zeros((2 * rows, 2 * width, channels), values.dtype(), values.device())?;
    let corners = Corners { first: 0, count: 4, strides: [wide, 1, channels] };
    let values = values.contiguous()?.reshape((rows * width, wide))?;
    match input {
        // Its row for the first row of the result is its first, not one further down as in a window.
        Some(input) => {
            let pieces = Pieces::new(std::slice::from_ref(input))?;
            corners.place(&out, &values, None, &pieces, (-1, pieces.channels))?;
        }
        None => corners.place(
            &out,
            &values,
            None,
            &Pieces::new(&[values.reshape((rows, width, wide))?])?,
            (0, 0),
        )?,
    }
    Ok(out)
}

/// Which corners of 2x2 pixels are written, and where a value stands: by pixel, channel and corner.
struct Corners {
    first: usize,
    count: usize,
    strides: [usize; 3],
}

impl Corners {
    /// Writes values of low-resolution pixels `[rows * w, ..]` into `out` `[2 rows, 2 w, channels]`. Of `inputs` channels of the
    /// pieces, unless there are none, the shortcut is added: for the row `y` of the values, their row `first_row + y + 1`.
    fn place(
        &self,
        out: &Tensor,
        values: &Tensor,
        bias: Option<&Tensor>,
        pieces: &Pieces,
        (first_row, inputs): (i64, usize),
    ) -> Result<()> {
        let (pixels, wide) = values.dims2()?;
        let (rows, width) = (pixels / pieces.width, pieces.width);
        let (_, _, channels) = out.dims3()?;
        if wide != self.strides[0]
            || wide != self.count * channels
            || out.dims() != [2 * rows, 2 * width, channels]
        {
            bail!("shuffle: values of {:?} do not fit {:?}", values.dims(), out.dims());
        }
        let there = (pieces.kept_rows + pieces.count) as i64;
        if inputs > 0
            && (inputs != pieces.channels
                || !(4 * channels).is_multiple_of(inputs)
                || first_row + rows as i64 + 1 > there)
        {
            bail!("shuffle: {inputs} channels of {there} rows cannot become {channels} of {rows}");
        }
        Launch::new(&SHUFFLE, values.dtype(), [pixels.div_ceil(ROWS), self.count, 1], [WARP, ROWS])
            .target()
            .tensor(values)
            .optional(bias)
            .optional(pieces.kept.as_ref())
            .tensor(&pieces.rows)
            .ints([pieces.kept_rows, pieces.count, width, inputs, channels])
            .signed(first_row)
            .ints([pixels, self.first])
            .ints(self.strides)
            .change(out)
    }
}

/// Nearest upsampling by 2 and a 3x3 convolution as four 2x2 convolutions at the low resolution, with DC-AE's shortcut.
#[derive(Debug)]
pub(crate) struct UpsampleConv {
    phases: [Tensor; 4],
    bias: Option<Tensor>,
    input: usize,
}

impl UpsampleConv {
    /// `weight` is `[out, in, 3, 3]`. The taps that fall on one pixel are summed in f32, then rounded to the weights' type.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>) -> Result<Self> {
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
        })
    }

    /// Bytes of weights held.
    pub fn bytes(&self) -> usize {
        self.phases.iter().map(|phase| phase.elem_count() * phase.dtype().size_in_bytes()).sum()
    }

    /// `[n, w, in]` in pieces to `[2 (n - 2), 2 w, out]`.
    pub fn forward(&self, pieces: &[Tensor]) -> Result<Tensor> {
        let pieces = Pieces::new(pieces)?;
        let width = pieces.width;
        if pieces.channels != self.input {
            bail!("upsample: {} channels of input, {} of weights", pieces.channels, self.input);
        }
        let (channels, depth) = self.phases[0].dims2()?;
        let (dtype, device) = (pieces.rows.dtype(), pieces.rows.device());
        let bytes = width * depth * dtype.size_in_bytes();
        in_parts(pieces.inner_rows(1)?, bytes, |first, count| {
            let out = Tensor::zeros((2 * count, 2 * width, channels), dtype, device)?;
            for (corner, weight) in self.phases.iter().enumerate() {
                let (py, px) = ((corner / 2) as i64, (corner % 2) as i64);
                let shape = ConvShape { taps: (2, 2), first: (py, px - 1), stride: 1 };
                let columns = windows(&pieces, shape, (first, count), width)?;
                let values = product(&columns, weight, None, Activation::None)?;
                let corners = Corners { first: corner, count: 1, strides: [channels, 1, 0] };
                corners.place(&out, &values, self.bias.as_ref(), &pieces, (first as i64, self.input))?;
            }
            Ok(out)
        })
    }
}

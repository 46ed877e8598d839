//! From decoded rows to bytes, on the device.

use std::ops::Range;

use candle_core::{DType, Result, Tensor, bail};

use super::Launch;
use super::table::{FIRST_NOT_FINITE, TO_RGB8};

/// Threads of a block.
const THREADS: usize = 256;

/// The given columns of decoded rows `[rows, width, 3]`, about -1 to 1, as bytes `[rows, columns, 3]`: clamped, halves to even.
pub(crate) fn to_rgb8(rows: &Tensor, columns: Range<usize>) -> Result<Tensor> {
    let (count, width, channels) = rows.dims3()?;
    if channels != 3 || columns.is_empty() || columns.end > width {
        bail!("to rgb8: columns {columns:?} of {:?}", rows.dims());
    }
    let bytes = count * columns.len() * 3;
    Launch::new(&TO_RGB8, rows.dtype(), [bytes.div_ceil(THREADS), 1, 1], [THREADS, 1])
        .tensor(rows)
        .target()
        .ints([count, width, columns.start, columns.len()])
        .make((count, columns.len(), 3), DType::U8)
}

/// The place of the first value that is not finite, if there is one. Waits for the device.
pub(crate) fn first_not_finite(x: &Tensor) -> Result<Option<usize>> {
    let first = Tensor::full(u32::MAX, 1, x.device())?;
    let count = x.elem_count();
    Launch::new(&FIRST_NOT_FINITE, x.dtype(), [count.div_ceil(THREADS), 1, 1], [THREADS, 1])
        .target()
        .tensor(x)
        .int(count)
        .change(&first)?;
    let [first] = first.to_vec1::<u32>()?[..] else { bail!("one number became several") };
    Ok((first != u32::MAX).then_some(first as usize))
}

//! Other ways to double or halve the size than the released decoder's: pixel shuffles, a convolution of stride 2.

use candle_core::{Result, Tensor};

use super::stream::{Delay, Halo, Rows, Source};
use crate::ops::{Conv, StridedConv, nearest_pixels, shuffle, unshuffle};

/// Every pixel as 2x2 pixels.
pub struct Nearest<'a> {
    /// Input.
    pub rows: Rows<'a>,
}

impl Source for Nearest<'_> {
    fn next(&mut self) -> Result<Option<Tensor>> {
        let Some(rows) = self.rows.next()? else { return Ok(None) };
        nearest_pixels(&rows).map(Some)
    }
}

/// A convolution whose result is shuffled into 2x2 pixels.
pub struct Shuffled<'a> {
    rows: Rows<'a>,
    conv: &'a Conv,
    halo: Halo,
    /// Input for the shortcut.
    delay: Option<Delay>,
}

impl<'a> Shuffled<'a> {
    /// `conv` over `rows`, whose bands end `lag` rows before a multiple of [`super::stream::ALIGN`].
    pub fn new(rows: Rows<'a>, lag: usize, conv: &'a Conv, shortcut: bool) -> Self {
        Self { rows, conv, halo: Halo::new(lag), delay: shortcut.then(Delay::default) }
    }
}

impl Source for Shuffled<'_> {
    fn next(&mut self) -> Result<Option<Tensor>> {
        let Self { rows, conv, halo, delay } = self;
        let Some(out) = halo.next(*conv, || pull(rows, delay))? else { return Ok(None) };
        let input = delay.as_mut().map(|delay| delay.take(out.dim(0)?)).transpose()?;
        shuffle(&out, input.as_ref()).map(Some)
    }
}

/// A convolution whose result's 2x2 pixels become one.
pub struct Unshuffled<'a> {
    rows: Rows<'a>,
    conv: &'a Conv,
    channels: usize,
    halo: Halo,
    delay: Option<Delay>,
    /// Convolved rows of which the second of a pair is missing.
    done: Delay,
}

impl<'a> Unshuffled<'a> {
    /// `conv` over `rows`, as in [`Shuffled::new`], to `channels`.
    pub fn new(rows: Rows<'a>, lag: usize, conv: &'a Conv, (channels, shortcut): (usize, bool)) -> Self {
        let (delay, done) = (shortcut.then(Delay::default), Delay::default());
        Self { rows, conv, channels, halo: Halo::new(lag), delay, done }
    }
}

impl Source for Unshuffled<'_> {
    fn next(&mut self) -> Result<Option<Tensor>> {
        let Self { rows, conv, channels, halo, delay, done } = self;
        let Some(out) = pairs(done, || halo.next(*conv, || pull(rows, delay)))? else { return Ok(None) };
        if 4 * out.dim(2)? != *channels {
            candle_core::bail!("{:?} cannot be unshuffled to {channels} channels", out.dims());
        }
        let input = delay.as_mut().map(|delay| delay.take(out.dim(0)?)).transpose()?;
        unshuffle(&out, input.as_ref()).map(Some)
    }
}

/// A convolution of stride 2. Of its input it keeps one row, and the first of an incomplete pair.
pub struct DownStrided<'a> {
    rows: Rows<'a>,
    conv: &'a StridedConv,
    above: Option<Tensor>,
    waiting: Delay,
}

impl<'a> DownStrided<'a> {
    /// `conv` over `rows`.
    pub fn new(rows: Rows<'a>, conv: &'a StridedConv) -> Self {
        Self { rows, conv, above: None, waiting: Delay::default() }
    }
}

impl Source for DownStrided<'_> {
    fn next(&mut self) -> Result<Option<Tensor>> {
        let Self { rows, conv, above, waiting } = self;
        let Some(pairs) = pairs(waiting, || rows.next())? else { return Ok(None) };
        let (count, width, channels) = pairs.dims3()?;
        let first = match above.take() {
            Some(row) => row,
            None => Tensor::zeros((1, width, channels), pairs.dtype(), pairs.device())?,
        };
        // A copy: a view would keep the whole band.
        *above = Some(pairs.narrow(0, count - 1, 1)?.force_contiguous()?);
        conv.forward(&first, &pairs).map(Some)
    }
}

/// The next rows of `source`, which `delay` keeps for a shortcut.
fn pull(source: &mut Rows<'_>, delay: &mut Option<Delay>) -> Result<Option<Tensor>> {
    let band = source.next()?;
    if let (Some(band), Some(delay)) = (&band, delay) {
        delay.push(band.clone());
    }
    Ok(band)
}

/// An even number of rows, contiguous; what is left over waits.
fn pairs(waiting: &mut Delay, mut source: impl FnMut() -> Result<Option<Tensor>>) -> Result<Option<Tensor>> {
    loop {
        let count = waiting.len()? / 2 * 2;
        if count > 0 {
            return waiting.take(count)?.contiguous().map(Some);
        }
        match source()? {
            Some(rows) => waiting.push(rows),
            None if waiting.len()? == 0 => return Ok(None),
            None => candle_core::bail!("an odd number of rows cannot be halved"),
        }
    }
}

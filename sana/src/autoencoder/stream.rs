//! Rows of a picture on their way through the decoder.
//!
//! A [`Source`] hands out bands of rows `[rows, width, channels]` from top to bottom. Layers are sources that
//! pull from the layer before them. A convolution keeps the last rows of its own input until their
//! neighbours below arrive, so nothing is computed twice and memory follows the band, not the picture
//! (reference section 11). With one band for the whole picture it is the plain, untiled decode: the
//! same kernels, the same bits.

use std::collections::VecDeque;

use candle_core::{Result, Tensor};

use crate::ops::{Conv, PixelNorm, RmsNorm, RowOp, UpsampleConv, join_rows};

/// Bands of rows from top to bottom; `None` after the last.
pub trait Source {
    /// The next band.
    fn next(&mut self) -> Result<Option<Tensor>>;
}

/// A layer's input.
pub type Rows<'a> = Box<dyn Source + 'a>;

/// Called with the name of a module and a band of its result, in order.
pub type Observer<'a> = &'a dyn Fn(&str, &Tensor) -> Result<()>;

/// Rows that are there already, handed out in bands.
pub struct Bands {
    rows: Tensor,
    start: usize,
    band: usize,
}

impl Bands {
    /// Hands out `rows` (`[rows, width, channels]`) in bands of `band`.
    pub fn new(rows: Tensor, band: usize) -> Self {
        Self { rows, start: 0, band }
    }
}

impl Source for Bands {
    fn next(&mut self) -> Result<Option<Tensor>> {
        let height = self.rows.dim(0)?;
        if self.start == height {
            return Ok(None);
        }
        let count = self.band.min(height - self.start);
        let rows = self.rows.narrow(0, self.start, count)?;
        self.start += count;
        Ok(Some(rows))
    }
}

/// Rows that convolutions work on together at most: bands that end in step with it leave the fewest rows waiting.
pub const ALIGN: usize = 4;

/// The same rows in smaller bands: what comes out of an upsampling is four times as large as what went in.
pub struct Split<'a> {
    rows: Rows<'a>,
    most: usize,
    rest: Option<Tensor>,
}

impl<'a> Split<'a> {
    /// Bands of at most `most` rows.
    pub fn new(rows: Rows<'a>, most: usize) -> Self {
        Self { rows, most, rest: None }
    }
}

impl Source for Split<'_> {
    fn next(&mut self) -> Result<Option<Tensor>> {
        let rest = match self.rest.take() {
            Some(rest) => Some(rest),
            None => self.rows.next()?,
        };
        let Some(rows) = rest else { return Ok(None) };
        let count = rows.dim(0)?;
        if count > self.most {
            self.rest = Some(rows.narrow(0, self.most, count - self.most)?);
            return rows.narrow(0, 0, self.most).map(Some);
        }
        Ok(Some(rows))
    }
}

/// The rows that a convolution keeps, and the zero rows above and below the picture.
pub struct Halo {
    /// Rows that are missing to a multiple of the operation's step where its results end.
    lag: usize,
    /// Pieces of the input, from the first row on that is still needed.
    kept: VecDeque<Tensor>,
    /// Rows of results that have left.
    done: usize,
    ended: bool,
}

impl Halo {
    /// For an operation whose input comes in bands that end `lag` rows before a multiple of its step. A true lag saves
    /// memory; any other gives a picture as good, with other roundings.
    pub fn new(lag: usize) -> Self {
        Self { lag, kept: VecDeque::new(), done: 0, ended: false }
    }

    /// The next rows that `op` can finish with the rows of `input`.
    pub fn next(
        &mut self,
        op: &impl RowOp,
        mut input: impl FnMut() -> Result<Option<Tensor>>,
    ) -> Result<Option<Tensor>> {
        let (pad, step) = (op.pad(), op.step());
        // The results lag behind the input by the rows below that they need.
        let lag = (self.lag + pad) % step;
        loop {
            if self.ended {
                return Ok(None);
            }
            match input()? {
                Some(rows) => {
                    if self.kept.is_empty() {
                        self.kept.extend(zeros(&rows, pad)?);
                    }
                    self.kept.push_back(rows.contiguous()?);
                }
                None => {
                    self.ended = true;
                    let Some(last) = self.kept.back() else { return Ok(None) };
                    self.kept.extend(zeros(last, pad)?);
                }
            }
            let rows = self.kept.iter().map(|piece| piece.dim(0)).sum::<Result<usize>>()?;
            let ready = rows.saturating_sub(2 * pad);
            // Results end `lag` rows before a multiple of the step; the last may end anywhere.
            let wait = if self.ended { 0 } else { (self.done + ready + lag) % step };
            if ready <= wait {
                continue;
            }
            let result = op.run(&self.pieces(rows - wait)?, (self.done + lag) % step)?;
            self.done += ready - wait;
            self.forget(ready - wait)?;
            return Ok(Some(result));
        }
    }

    /// Views of the first `count` rows.
    fn pieces(&self, count: usize) -> Result<Vec<Tensor>> {
        let mut left = count;
        let mut pieces = Vec::with_capacity(self.kept.len());
        for piece in &self.kept {
            let rows = piece.dim(0)?.min(left);
            if rows > 0 {
                pieces.push(piece.narrow(0, 0, rows)?);
            }
            left -= rows;
        }
        Ok(pieces)
    }

    /// Drops the first `count` rows.
    fn forget(&mut self, mut count: usize) -> Result<()> {
        while count > 0 {
            let Some(piece) = self.kept.pop_front() else { return Ok(()) };
            let rows = piece.dim(0)?;
            if rows > count {
                self.kept.push_front(piece.narrow(0, count, rows - count)?);
            }
            count = count.saturating_sub(rows);
        }
        Ok(())
    }
}

/// Rows outside the picture.
fn zeros(like: &Tensor, count: usize) -> Result<Option<Tensor>> {
    let (_, width, channels) = like.dims3()?;
    (count > 0).then(|| Tensor::zeros((count, width, channels), like.dtype(), like.device())).transpose()
}

/// Rows that wait for the slower of two branches.
#[derive(Default)]
pub struct Delay {
    rows: VecDeque<Tensor>,
}

impl Delay {
    /// Puts rows behind the others.
    pub fn push(&mut self, rows: Tensor) {
        self.rows.push_back(rows);
    }

    /// Takes the first `count` rows.
    pub fn take(&mut self, count: usize) -> Result<Tensor> {
        let mut parts = Vec::new();
        let mut missing = count;
        while missing > 0 {
            let Some(rows) = self.rows.pop_front() else {
                candle_core::bail!("{missing} of {count} delayed rows are missing")
            };
            let there = rows.dim(0)?;
            if there > missing {
                parts.push(rows.narrow(0, 0, missing)?);
                // A view: the band stays until its last row is taken.
                self.rows.push_front(rows.narrow(0, missing, there - missing)?);
                break;
            }
            missing -= there;
            parts.push(rows);
        }
        join_rows(&parts)
    }

    /// Rows that wait.
    pub fn len(&self) -> Result<usize> {
        self.rows.iter().map(|rows| rows.dim(0)).sum()
    }
}

/// Tells an observer what passes.
pub struct Observed<'a> {
    /// What is observed.
    pub rows: Rows<'a>,
    /// Its name in the checkpoint.
    pub name: String,
    /// Who is told.
    pub observer: Observer<'a>,
}

impl Source for Observed<'_> {
    fn next(&mut self) -> Result<Option<Tensor>> {
        let rows = self.rows.next()?;
        if let Some(rows) = &rows {
            (self.observer)(&self.name, rows)?;
        }
        Ok(rows)
    }
}

/// A 3x3 convolution.
pub struct Convolved<'a> {
    rows: Rows<'a>,
    halo: Halo,
    conv: &'a Conv,
}

impl<'a> Convolved<'a> {
    /// `conv` over `rows`, whose bands end `lag` rows before a multiple of [`ALIGN`].
    pub fn new(rows: Rows<'a>, lag: usize, conv: &'a Conv) -> Self {
        Self { rows, halo: Halo::new(lag), conv }
    }
}

impl Source for Convolved<'_> {
    fn next(&mut self) -> Result<Option<Tensor>> {
        self.halo.next(self.conv, || self.rows.next())
    }
}

/// Twice the size.
pub struct Upsampled<'a> {
    rows: Rows<'a>,
    halo: Halo,
    layer: &'a UpsampleConv,
}

impl<'a> Upsampled<'a> {
    /// `layer` over `rows`.
    pub fn new(rows: Rows<'a>, layer: &'a UpsampleConv) -> Self {
        Self { rows, halo: Halo::new(0), layer }
    }
}

impl Source for Upsampled<'_> {
    fn next(&mut self) -> Result<Option<Tensor>> {
        self.halo.next(self.layer, || self.rows.next())
    }
}

/// A norm and activation of each pixel.
pub struct Normed<'a> {
    /// Input.
    pub rows: Rows<'a>,
    /// Layer.
    pub norm: &'a RmsNorm,
}

impl Source for Normed<'_> {
    fn next(&mut self) -> Result<Option<Tensor>> {
        self.rows.next()?.map(|rows| self.norm.forward(&rows)).transpose()
    }
}

/// Weights of a residual block: convolution, activation, convolution, norm.
#[derive(Debug)]
pub struct ResBlock {
    /// With the activation.
    pub conv1: Conv,
    /// Without a bias.
    pub conv2: Conv,
    /// Behind both.
    pub norm: PixelNorm,
}

/// A residual block at work.
pub struct Residual<'a> {
    rows: Rows<'a>,
    block: &'a ResBlock,
    first: Halo,
    second: Halo,
    delay: Delay,
}

impl<'a> Residual<'a> {
    /// `block` over `rows`, whose bands end `lag` rows before a multiple of [`ALIGN`].
    pub fn new(rows: Rows<'a>, lag: usize, block: &'a ResBlock) -> Self {
        let (first, second) = (Halo::new(lag), Halo::new(lag + 1));
        Self { rows, block, first, second, delay: Delay::default() }
    }
}

impl Source for Residual<'_> {
    fn next(&mut self) -> Result<Option<Tensor>> {
        let Self { rows, block, first, second, delay } = self;
        let mut input = || {
            let band = rows.next()?;
            if let Some(band) = &band {
                delay.push(band.clone());
            }
            Ok(band)
        };
        let Some(out) = second.next(&block.conv2, || first.next(&block.conv1, &mut input))? else {
            return Ok(None);
        };
        let residual = delay.take(out.dim(0)?)?;
        block.norm.forward_add(&out, &residual).map(Some)
    }
}

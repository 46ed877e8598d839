//! Rows of a picture on their way through the decoder.
//!
//! A [`Source`] hands out bands of rows `[rows, width, channels]` from top to bottom. Layers are sources that
//! pull from the layer before them. A convolution keeps the last rows of its own input until their
//! neighbours below arrive, so nothing is computed twice and memory follows the band, not the picture
//! (reference section 11). With one band for the whole picture it is the plain, untiled decode: the
//! same kernels, the same bits.

use std::collections::VecDeque;

use candle_core::{CustomOp2, Result, Tensor};

use crate::ops::{Conv, PixelNorm, RmsNorm, UpsampleConv, join_rows, to_vec};

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

/// The rows that a convolution keeps, and the zero rows above and below the picture.
pub struct Halo {
    pad: usize,
    kept: Option<Tensor>,
    ended: bool,
}

impl Halo {
    /// For a convolution that reaches `pad` rows up and down.
    pub fn new(pad: usize) -> Self {
        Self { pad, kept: None, ended: false }
    }

    /// The next rows that `op` can finish with the rows of `input`.
    pub fn next(
        &mut self,
        op: &impl CustomOp2,
        mut input: impl FnMut() -> Result<Option<Tensor>>,
    ) -> Result<Option<Tensor>> {
        loop {
            let rows = match input()? {
                Some(rows) => rows.contiguous()?,
                None => match &self.kept {
                    Some(kept) if !self.ended => {
                        self.ended = true;
                        self.zeros(kept)?
                    }
                    _ => return Ok(None),
                },
            };
            let kept = match self.kept.take() {
                Some(kept) => kept,
                None => self.zeros(&rows)?,
            };
            let (above, count) = (kept.dim(0)?, rows.dim(0)?);
            let done = (above + count).saturating_sub(2 * self.pad);
            let result = if done > 0 { Some(kept.apply_op2_no_bwd(&rows, op)?) } else { None };
            self.kept = Some(last_rows(&kept, &rows, (2 * self.pad).min(above + count))?);
            if result.is_some() {
                return Ok(result);
            }
        }
    }

    fn zeros(&self, like: &Tensor) -> Result<Tensor> {
        let (_, width, channels) = like.dims3()?;
        Tensor::zeros((self.pad, width, channels), like.dtype(), like.device())
    }
}

/// The last `count` rows of `first` and `second`, in memory of their own.
fn last_rows(first: &Tensor, second: &Tensor, count: usize) -> Result<Tensor> {
    let below = second.dim(0)?;
    if count <= below {
        let last = second.narrow(0, below - count, count)?;
        // A copy: a view would keep the whole band.
        return Tensor::from_vec(to_vec(&last)?, last.shape(), last.device());
    }
    let above = count - below;
    join_rows(&[first.narrow(0, first.dim(0)? - above, above)?, second.clone()])
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
    /// `conv` over `rows`.
    pub fn new(rows: Rows<'a>, conv: &'a Conv) -> Self {
        Self { rows, halo: Halo::new(1), conv }
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
        Self { rows, halo: Halo::new(1), layer }
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
    /// `block` over `rows`.
    pub fn new(rows: Rows<'a>, block: &'a ResBlock) -> Self {
        Self { rows, block, first: Halo::new(1), second: Halo::new(1), delay: Delay::default() }
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

//! The two halves of an EfficientViT block: multi-scale linear attention and a gated convolution.
//!
//! Attention needs the sum over all keys and values of the picture before the first row can leave, so it
//! makes two passes over its input: the first computes only keys and values and adds them up, the second
//! computes only queries. Nothing is computed twice, and of the wide intermediate tensors only a band exists
//! at a time; the input itself is kept whole until its rows have left.

use candle_core::{Result, Tensor};

use super::stream::{Delay, Halo, Rows, Source};
use crate::ops::{GatedDepthwise, Linear, MultiScale, PixelNorm, RowOp, ScaleSums};

/// Weights of the attention.
#[derive(Debug)]
pub struct Attention {
    /// Channels of the block.
    pub channels: usize,
    /// Channels of an attention group.
    pub width: usize,
    /// `[c] -> [c]`: the queries.
    pub queries: Linear,
    /// `[c] -> [2 c]`: for each group its keys, then its values.
    pub keys_values: Linear,
    /// Second scale of the queries, and of keys and values.
    pub second_scale: Option<(MultiScale, MultiScale)>,
    /// `[scales * c] -> [c]`.
    pub to_out: Linear,
    /// Behind it.
    pub norm: PixelNorm,
}

impl Attention {
    /// Rows above and below that a row needs.
    pub fn pad(&self) -> usize {
        self.second_scale.as_ref().map_or(0, |(queries, _)| queries.pad())
    }

    fn scales(&self) -> usize {
        1 + usize::from(self.second_scale.is_some())
    }
}

/// Attention at work.
pub struct Attended<'a> {
    rows: Rows<'a>,
    layer: &'a Attention,
    /// Rows that the second pass takes at a time; `None` for the whole picture.
    band: Option<usize>,
    /// Once the first pass is over.
    sums: Option<ScaleSums>,
    /// Rows that the second pass has not begun.
    input: Delay,
    /// Rows whose queries wait for their neighbours below.
    begun: Delay,
    halo: Halo,
}

impl<'a> Attended<'a> {
    /// `layer` over `rows`.
    pub fn new(rows: Rows<'a>, layer: &'a Attention, band: Option<usize>) -> Self {
        let (input, begun) = (Delay::default(), Delay::default());
        Self { rows, layer, band, sums: None, input, begun, halo: Halo::new(0) }
    }

    /// First pass: keeps the input and adds up keys and values.
    fn sum(&mut self) -> Result<ScaleSums> {
        let Self { rows, layer, input, .. } = self;
        let mut sums = ScaleSums::new(layer.scales(), layer.channels, layer.width);
        let mut keys_values = || -> Result<Option<Tensor>> {
            let Some(band) = rows.next()? else { return Ok(None) };
            let out = layer.keys_values.forward(&band)?;
            input.push(band);
            Ok(Some(out))
        };
        match &layer.second_scale {
            None => {
                while let Some(rows) = keys_values()? {
                    sums.add(&rows)?;
                }
            }
            Some((_, scale)) => {
                let mut halo = Halo::new(0);
                while let Some(rows) = halo.next(scale, &mut keys_values)? {
                    sums.add(&rows)?;
                }
            }
        }
        Ok(sums)
    }
}

impl Source for Attended<'_> {
    fn next(&mut self) -> Result<Option<Tensor>> {
        let sums = match self.sums.take() {
            Some(sums) => sums,
            None => self.sum()?,
        };
        let Self { layer, band, input, begun, halo, .. } = self;
        let mut queries = || -> Result<Option<Tensor>> {
            let left = input.len()?;
            if left == 0 {
                return Ok(None);
            }
            let rows = input.take(band.unwrap_or(left).min(left))?;
            let out = layer.queries.forward(&rows)?;
            begun.push(rows);
            Ok(Some(out))
        };
        let queries = match &layer.second_scale {
            None => queries()?,
            Some((scale, _)) => halo.next(scale, &mut queries)?,
        };
        let attended = match queries {
            None => None,
            Some(queries) => {
                let out = layer.to_out.forward(&sums.attend(&queries)?)?;
                let residual = begun.take(out.dim(0)?)?;
                Some(layer.norm.forward_add(&out, &residual)?)
            }
        };
        self.sums = Some(sums);
        Ok(attended)
    }
}

/// Weights of a GLUMBConv with its norm.
#[derive(Debug)]
pub struct GatedConv {
    /// `[c] -> [8 c]`, with SiLU.
    pub inverted: Linear,
    /// `[8 c] -> [4 c]`.
    pub depthwise: GatedDepthwise,
    /// `[4 c] -> [c]`.
    pub point: Linear,
    /// Behind it.
    pub norm: PixelNorm,
}

/// A gated convolution at work.
pub struct Gated<'a> {
    rows: Rows<'a>,
    layer: &'a GatedConv,
    halo: Halo,
    delay: Delay,
}

impl<'a> Gated<'a> {
    /// `layer` over `rows`.
    pub fn new(rows: Rows<'a>, layer: &'a GatedConv) -> Self {
        Self { rows, layer, halo: Halo::new(0), delay: Delay::default() }
    }
}

impl Source for Gated<'_> {
    fn next(&mut self) -> Result<Option<Tensor>> {
        let Self { rows, layer, halo, delay } = self;
        let inverted = || -> Result<Option<Tensor>> {
            let Some(band) = rows.next()? else { return Ok(None) };
            let out = layer.inverted.forward(&band)?;
            delay.push(band);
            Ok(Some(out))
        };
        let Some(gated) = halo.next(&layer.depthwise, inverted)? else { return Ok(None) };
        let out = layer.point.forward(&gated)?;
        let residual = delay.take(out.dim(0)?)?;
        layer.norm.forward_add(&out, &residual).map(Some)
    }
}

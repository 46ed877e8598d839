use candle_core::{Result, Tensor};

use super::Tiling;
use super::chain::Chain;
use super::layout;
use super::stream::{Bands, Observer, Rows, Source};
use crate::config::AutoencoderConfig;
use crate::ops::to_cpu;
use crate::weights::Weights;
use crate::{Error, Placement};

/// The encoder's weights. No pipeline needs them: they are loaded by whoever encodes.
#[derive(Debug)]
pub struct Encoder {
    chain: Chain,
    channels: usize,
    /// Number of the stage with the size of the latent.
    deepest: usize,
    placement: Placement,
}

/// Rows of a picture as someone hands them over.
struct Given<'a> {
    rows: &'a mut dyn FnMut() -> Result<Option<Tensor>>,
    channels: usize,
    scale: usize,
    placement: &'a Placement,
    /// Of the first rows.
    width: Option<usize>,
    count: usize,
}

impl Source for Given<'_> {
    fn next(&mut self) -> Result<Option<Tensor>> {
        let Self { rows, channels, scale, placement, width, count } = self;
        let Some(rows) = rows()? else {
            if *count == 0 || !count.is_multiple_of(*scale) {
                candle_core::bail!("a picture of {count} rows cannot be encoded: take a multiple of {scale}");
            }
            return Ok(None);
        };
        let (new, wide, deep) = rows.dims3()?;
        let expected = *width.get_or_insert(wide);
        if wide != expected || deep != *channels || !wide.is_multiple_of(*scale) || wide == 0 {
            candle_core::bail!(
                "rows of {:?} cannot be encoded: take {channels} channels and a width that is a multiple of {scale} and \
                 the same for all",
                rows.dims()
            );
        }
        *count += new;
        placement.put(&rows).map(Some)
    }
}

impl Encoder {
    /// Loads the tensors below `encoder.`.
    pub fn load(config: &AutoencoderConfig, weights: &Weights) -> std::result::Result<Self, Error> {
        Ok(Self {
            chain: Chain::load(layout::encoder(config), weights)?,
            channels: config.in_channels,
            deepest: config.encoder.len() - 1,
            placement: weights.placement().clone(),
        })
    }

    /// Pixels of a picture's side to each of the latent's.
    pub fn scale(&self) -> usize {
        1 << self.deepest
    }

    /// Bytes of weights held.
    pub fn bytes(&self) -> usize {
        self.chain.bytes
    }

    /// Encodes a picture whose rows `rows` hands over from top to bottom in pieces of any height (`[rows, width, 3]`,
    /// -1 to 1, then `None`) to the latent `[height, width, channels]`, as the decoder takes it: a pipeline multiplies
    /// it by the scaling factor. Both sides must be multiples of [`Encoder::scale`]. Pieces and `tiling` ([`Tiling::Whole`]
    /// or [`Tiling::Bands`]) do not change a bit; an observer is told every module's result.
    pub fn encode(
        &self,
        width: usize,
        tiling: Tiling,
        observer: Option<Observer<'_>>,
        rows: &mut dyn FnMut() -> Result<Option<Tensor>>,
    ) -> Result<Tensor> {
        let given = Given {
            rows,
            channels: self.channels,
            scale: self.scale(),
            placement: &self.placement,
            width: Some(width),
            count: 0,
        };
        let mut rows: Rows<'_> = Box::new(given);
        for (index, module) in self.chain.modules().iter().enumerate() {
            let band = tiling.band(false, module.level, width >> module.level, module.channels().1);
            rows = self.chain.layer(index, rows, band, observer);
        }
        let mut bands = Vec::new();
        while let Some(band) = rows.next()? {
            bands.push(band);
        }
        to_cpu(&Tensor::cat(&bands, 0)?)
    }

    /// The same of a picture `[height, width, 3]` that is there whole.
    pub fn encode_picture(
        &self,
        picture: &Tensor,
        tiling: Tiling,
        observer: Option<Observer<'_>>,
    ) -> Result<Tensor> {
        let (height, width, _) = picture.dims3()?;
        let channels = self.chain.modules()[0].channels().1;
        let band = tiling.band(false, 0, width.max(1), channels).unwrap_or(height);
        let mut bands = Bands::new(picture.contiguous()?, band.max(1));
        self.encode(width, tiling, observer, &mut || bands.next())
    }
}

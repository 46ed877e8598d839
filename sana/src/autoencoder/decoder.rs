use candle_core::{Result, Tensor};

use super::chain::Chain;
use super::layout;
use super::stream::{Bands, Observer, Rows};
use super::{Tiling, blend, tiles};
use crate::config::AutoencoderConfig;
use crate::weights::Weights;
use crate::{Error, Placement};

/// The decoder's weights.
#[derive(Debug)]
pub struct Decoder {
    chain: Chain,
    latent_channels: usize,
    /// Number of the stage with the size of the latent.
    deepest: usize,
    scaling_factor: f64,
    placement: Placement,
}

impl Decoder {
    /// Loads the tensors below `decoder.`.
    pub fn load(config: &AutoencoderConfig, weights: &Weights) -> std::result::Result<Self, Error> {
        Ok(Self {
            chain: Chain::load(layout::decoder(config), weights)?,
            latent_channels: config.latent_channels,
            deepest: config.decoder.len() - 1,
            scaling_factor: config.scaling_factor,
            placement: weights.placement().clone(),
        })
    }

    /// A latent is divided by this before it is decoded.
    pub fn scaling_factor(&self) -> f64 {
        self.scaling_factor
    }

    /// Pixels of a picture's side to each of the latent's.
    pub fn scale(&self) -> usize {
        1 << self.deepest
    }

    /// Bytes of weights held.
    pub fn bytes(&self) -> usize {
        self.chain.bytes
    }

    /// Decodes `latent` (`[height, width, channels]`, already divided by the scaling factor) and hands out rows of the
    /// picture (`[rows, width, 3]`, about -1 to 1) in order as soon as they are final.
    pub fn decode<E: From<candle_core::Error>>(
        &self,
        latent: &Tensor,
        tiling: Tiling,
        rows: &mut dyn FnMut(&Tensor) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        if let Tiling::Blend { tile, stride } = tiling {
            return blend::decode(self, latent, tile, stride, rows);
        }
        let mut picture = self.picture(latent, tiling, None)?;
        while let Some(band) = picture.next()? {
            rows(&band)?;
        }
        Ok(())
    }

    /// The whole picture at once, `[height, width, 3]`; an observer is told every module's result.
    pub fn decode_whole(&self, latent: &Tensor, observer: Option<Observer<'_>>) -> Result<Tensor> {
        let mut picture = self.picture(latent, Tiling::Whole, observer)?;
        let mut bands = Vec::new();
        while let Some(band) = picture.next()? {
            bands.push(band);
        }
        Tensor::cat(&bands, 0)
    }

    /// The chain of all layers.
    fn picture<'a>(
        &'a self,
        latent: &Tensor,
        tiling: Tiling,
        observer: Option<Observer<'a>>,
    ) -> Result<Rows<'a>> {
        let (height, width, channels) = latent.dims3()?;
        if channels != self.latent_channels || height == 0 || width == 0 {
            candle_core::bail!(
                "a latent of {:?} does not fit {} channels",
                latent.dims(),
                self.latent_channels
            );
        }
        let band = |level: usize, channels: usize| {
            let width = width << (self.deepest - level);
            tiling.band(self.placement.by_kernels(), level, width, channels)
        };
        let modules = self.chain.modules();
        let tiled = match tiling {
            Tiling::Tiles(_) => tiles::first(modules),
            Tiling::Whole | Tiling::Bands(_) | Tiling::Blend { .. } => modules.len(),
        };
        let latent = self.placement.put(&latent.contiguous()?)?;
        let first = Bands::new(latent, band(self.deepest, modules[0].channels().1).unwrap_or(height));
        let mut rows: Rows<'a> = Box::new(first);
        for (index, module) in modules[..tiled].iter().enumerate() {
            rows = self.chain.layer(index, rows, band(module.level, module.channels().1), observer);
        }
        match tiling {
            Tiling::Tiles(side) => {
                let width = width << self.deepest;
                Ok(Box::new(tiles::Joined::new(rows, &self.chain, tiled, width, tiles::side(side))))
            }
            Tiling::Whole | Tiling::Bands(_) | Tiling::Blend { .. } => Ok(rows),
        }
    }
}

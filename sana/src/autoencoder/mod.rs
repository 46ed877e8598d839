//! The DC-AE decoder: a latent to a picture, 32 times its size.
//!
//! Reference sections 9 to 11. Tensors are rows of pixels with the channels last.

mod blend;
mod load;
mod stream;
mod vit;

use candle_core::{Result, Tensor};

pub use stream::Observer;

use crate::ops::{Conv, RmsNorm, UpsampleConv};
use stream::{
    ALIGN, Bands, Convolved, Delay, Halo, Normed, Observed, ResBlock, Residual, Rows, Source, Split,
    Upsampled,
};
use vit::{Attended, Attention, Gated, GatedConv};

/// Pixels that a band should have in the deep stages: enough for the kernels to work at full speed.
const BAND_PIXELS: usize = 512;

/// How a latent is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tiling {
    /// All rows at once.
    Whole,
    /// In bands of about this many picture rows: the same values, in memory that follows the band. Without a number the
    /// band is chosen from the width.
    Bands(Option<usize>),
    /// Overlapping square tiles blended as diffusers does it, in pixels: an approximation, for comparison.
    Blend {
        /// Side of a tile.
        tile: usize,
        /// Distance of one tile to the next.
        stride: usize,
    },
}

impl Tiling {
    /// diffusers' defaults.
    pub const BLEND: Self = Self::Blend { tile: 512, stride: 448 };
}

/// A stage of the decoder: all its tensors are of one size.
#[derive(Debug)]
struct Stage {
    /// Absent in the first stage, which has the size of the latent.
    upsample: Option<UpsampleConv>,
    blocks: Vec<Block>,
}

/// One block of a stage.
#[derive(Debug)]
enum Block {
    Residual(Box<ResBlock>),
    Vit(Box<(Attention, GatedConv)>),
}

/// The decoder's weights.
#[derive(Debug)]
pub struct Decoder {
    latent_channels: usize,
    conv_in: Conv,
    /// Channels of the first stage over those of the latent.
    repeat: usize,
    /// From the latent's size to the picture's.
    stages: Vec<Stage>,
    norm_out: RmsNorm,
    conv_out: Conv,
    scaling_factor: f64,
    bytes: usize,
}

impl Decoder {
    /// A latent is divided by this before it is decoded.
    pub fn scaling_factor(&self) -> f64 {
        self.scaling_factor
    }

    /// Pixels of a picture's side to each of the latent's.
    pub fn scale(&self) -> usize {
        1 << (self.stages.len() - 1)
    }

    /// Bytes of weights held.
    pub fn bytes(&self) -> usize {
        self.bytes
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
        let observed = |rows: Rows<'a>, name: String| match observer {
            None => rows,
            Some(observer) => Box::new(Observed { rows, name: format!("decoder.{name}"), observer }),
        };
        let band_at = |stage: usize| match tiling {
            Tiling::Whole | Tiling::Blend { .. } => None,
            Tiling::Bands(Some(rows)) => Some((rows >> (self.stages.len() - 1 - stage)).max(1)),
            Tiling::Bands(None) => Some(BAND_PIXELS.div_ceil(width << stage).next_multiple_of(ALIGN)),
        };
        // Rows that are missing to a multiple of ALIGN where bands end.
        let mut lag = 0;
        let first = Bands::new(latent.contiguous()?, band_at(0).unwrap_or(height));
        let mut rows: Rows<'a> = Box::new(Entry::new(first, self, observer));
        for (depth, stage) in self.stages.iter().enumerate() {
            // Checkpoints count stages from the picture down.
            let number = self.stages.len() - 1 - depth;
            let mut module = 0;
            let mut name = || {
                module += 1;
                format!("up_blocks.{number}.{}", module - 1)
            };
            if let Some(upsample) = &stage.upsample {
                if let Some(band) = band_at(depth) {
                    rows = Box::new(Split::new(rows, (band / 2).max(1)));
                }
                rows = observed(Box::new(Upsampled::new(rows, upsample)), name());
                lag = 2 * (lag + 1);
            }
            for block in &stage.blocks {
                let name = name();
                rows = match block {
                    Block::Residual(block) => {
                        let residual = Residual::new(rows, lag, block);
                        lag += 2;
                        observed(Box::new(residual), name)
                    }
                    Block::Vit(block) => {
                        let (attention, gated) = &**block;
                        // Bands begin anew in the second pass.
                        lag = attention.pad() + 1;
                        let attended = Attended::new(rows, attention, band_at(depth));
                        let attended = observed(Box::new(attended), format!("{name}.attn"));
                        observed(Box::new(Gated::new(attended, gated)), name)
                    }
                };
            }
        }
        rows = observed(Box::new(Normed { rows, norm: &self.norm_out }), "norm_out".into());
        Ok(observed(Box::new(Convolved::new(rows, lag, &self.conv_out)), "conv_out".into()))
    }
}

/// The first convolution with its shortcut: every latent channel repeated to the width of the stage.
struct Entry<'a> {
    rows: Bands,
    decoder: &'a Decoder,
    halo: Halo,
    delay: Delay,
    observer: Option<Observer<'a>>,
}

impl<'a> Entry<'a> {
    fn new(rows: Bands, decoder: &'a Decoder, observer: Option<Observer<'a>>) -> Self {
        Self { rows, decoder, halo: Halo::new(0), delay: Delay::default(), observer }
    }
}

impl Source for Entry<'_> {
    fn next(&mut self) -> Result<Option<Tensor>> {
        let Self { rows, decoder, halo, delay, observer } = self;
        let input = || {
            let band = rows.next()?;
            if let Some(band) = &band {
                delay.push(band.clone());
            }
            Ok(band)
        };
        let Some(out) = halo.next(&decoder.conv_in, input)? else { return Ok(None) };
        if let Some(observer) = observer {
            observer("decoder.conv_in", &out)?;
        }
        let (count, width, channels) = out.dims3()?;
        let shortcut = delay.take(count)?.unsqueeze(3)?;
        let shape = (count, width, decoder.latent_channels, decoder.repeat);
        let shortcut = shortcut.broadcast_as(shape)?.contiguous()?.reshape((count, width, channels))?;
        (out + shortcut).map(Some)
    }
}

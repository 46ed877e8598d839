//! The DC-AE: a picture to a latent (usually 32 times smaller on each side) and back.
//!
//! Reference sections 9 to 11. Tensors are rows of pixels with the channels last. [`Decoder`] hands out rows of the picture
//! as soon as they are final, [`Encoder`] takes them as they come; [`plan`] says beforehand what a decode costs.

mod blend;
mod chain;
mod decoder;
mod encoder;
mod layout;
mod load;
pub mod plan;
mod resample;
mod round_trip;
mod stream;
mod tiles;
mod vit;

pub use decoder::Decoder;
pub use encoder::Encoder;
pub use layout::{TensorShape, decoder_tensors, encoder_tensors};
pub use round_trip::round_trip;
use stream::ALIGN;
pub use stream::Observer;

/// Values that a band whose height is free should have: enough for the kernels to work at full speed, and few enough for
/// the second-level caches.
const BAND_VALUES: usize = 1 << 18;

/// The same on a device, which wants more work at a time: 16 MB of the released decoder's finest tensors in bf16.
const DEVICE_BAND_PIXELS: usize = 1 << 16;

/// How a latent is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tiling {
    /// All rows at once.
    Whole,
    /// In bands of about this many picture rows: the same values, in memory that follows the band. Without a number the
    /// band is chosen from the width.
    Bands(Option<usize>),
    /// In squares of this many pixels (rounded up to a multiple of 8): the same values. Coarse stages run in bands; in the
    /// finest two every column of squares has its own convolutions, which compute the pixels at its sides again.
    Tiles(usize),
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

    /// Rows in a band of the stage `level`, whose rows have `width` pixels of `channels` values; `None` for all at once.
    fn band(self, on_device: bool, level: usize, width: usize, channels: usize) -> Option<usize> {
        match self {
            Self::Whole | Self::Blend { .. } => None,
            Self::Bands(Some(rows)) => Some((rows >> level).max(1)),
            Self::Bands(None) if on_device => Some(device_band(width)),
            // The same in each stage's own rows: deep stages are narrow and take more picture rows at a time.
            Self::Bands(None) => Some(few(width * channels)),
            Self::Tiles(side) => Some((tiles::side(side) >> level).clamp(1, few(width * channels))),
        }
    }
}

/// Rows of `values` in a band whose height is free.
fn few(values: usize) -> usize {
    BAND_VALUES.div_ceil(values).next_multiple_of(ALIGN)
}

/// Rows of `width` pixels in a band on a device.
fn device_band(width: usize) -> usize {
    DEVICE_BAND_PIXELS.div_ceil(width).next_multiple_of(ALIGN)
}

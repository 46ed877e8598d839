//! How much of a picture is left after encoding and decoding it.

use candle_core::{Device, Tensor};

use super::{Decoder, Encoder, Tiling};
use crate::Error;
use crate::postprocess::to_bytes;

/// Encodes and decodes a picture (`width * height` pixels of interleaved RGB bytes) and gives the peak signal-to-noise
/// ratio of the result in decibels: `10 log10(255^2 / mean squared error)`, over all bytes, in f64; infinite if they are
/// equal. A picture whose sides are no multiples of a latent pixel is continued with its last column and row, which
/// do not count.
pub fn round_trip(
    encoder: &Encoder,
    decoder: &Decoder,
    (width, height): (usize, usize),
    picture: &[u8],
) -> Result<f64, Error> {
    if width == 0
        || height == 0
        || width.checked_mul(height).and_then(|n| n.checked_mul(3)) != Some(picture.len())
    {
        return Err(Error::Setting(format!("{} bytes are no picture of {width}x{height}", picture.len())));
    }
    let scale = encoder.scale();
    if decoder.scale() != scale {
        return Err(Error::Model(format!(
            "the encoder divides the sides of a picture by {scale}, the decoder multiplies them by {}",
            decoder.scale()
        )));
    }
    let (wide, high) = (width.next_multiple_of(scale), height.next_multiple_of(scale));
    let mut y = 0;
    let mut rows = || {
        if y == high {
            return Ok(None);
        }
        let row = &picture[y.min(height - 1) * width * 3..][..width * 3];
        y += 1;
        let values = (0..wide * 3).map(|i| f32::from(row[(i / 3).min(width - 1) * 3 + i % 3]) / 127.5 - 1.0);
        Tensor::from_vec(values.collect(), (1, wide, 3), &Device::Cpu).map(Some)
    };
    let latent = encoder.encode(wide, Tiling::Bands(None), None, &mut rows)?;
    let (mut y, mut sum, mut bytes) = (0, 0.0_f64, Vec::new());
    decoder.decode(&latent, Tiling::Bands(None), &mut |rows| -> Result<(), Error> {
        let values = crate::ops::to_vec(rows)?;
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            return Err(Error::Numeric(format!("the decoded picture is {value} below row {y}")));
        }
        for row in values.chunks_exact(wide * 3) {
            if y < height {
                to_bytes(&row[..width * 3], &mut bytes);
                for (got, want) in bytes.iter().zip(&picture[y * width * 3..]) {
                    let difference = f64::from(*got) - f64::from(*want);
                    sum += difference * difference;
                }
            }
            y += 1;
        }
        Ok(())
    })?;
    Ok(10.0 * (255.0 * 255.0 * picture.len() as f64 / sum).log10())
}

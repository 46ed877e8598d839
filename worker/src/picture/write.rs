//! From rows to a file, whatever its format.

use sanafarm_proto::v1::ErrorClass;

use super::encoding::{Codec, Encoding};
use super::quality::Quality;
use super::rows::Rows;
use super::{jpeg, png, webp};
use crate::recipe::{Failure, Provenance};

/// A picture file, and what was seen of its pixels while it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// The bytes of the file.
    pub file: Vec<u8>,
    /// What a look at its pixels gave.
    pub quality: Quality,
    /// A small JPEG, when the encoding asks for it.
    pub thumbnail: Option<Vec<u8>>,
}

/// Writes a picture of the rows that `next` hands out, any number of bytes at a time, until `None`.
///
/// The file depends on the recipe, the encoding and the pixels alone, not on how the rows were cut. The pixels are never
/// held besides what libwebp needs: PNG and JPEG take rows as they come. Blocks while `next` does.
pub fn write(
    provenance: &Provenance,
    encoding: Encoding,
    mut next: impl FnMut() -> Option<Vec<u8>>,
) -> Result<Written, WriteError> {
    let size = (provenance.width, provenance.height);
    let mut rows = Rows::new(size, encoding.thumbnail, &mut next);
    let file = match encoding.codec {
        Codec::Png => png::write(provenance, &mut rows),
        Codec::Jpeg(quality) => jpeg::write(provenance, quality, &mut rows),
        Codec::WebP(quality) => webp::write(provenance, Some(quality), &mut rows),
        Codec::WebPLossless => webp::write(provenance, None, &mut rows),
    }?;
    let (quality, thumbnail) = rows.finish()?;
    let thumbnail = thumbnail.map(|thumbnail| thumbnail.finish()).transpose()?;
    Ok(Written { file, quality, thumbnail })
}

/// Bytes that no file of this picture exceeds: what stands there and is larger need not be read.
pub(crate) fn largest_file(provenance: &Provenance, encoding: Encoding) -> u64 {
    // JPEG and lossy WebP fill their last blocks.
    let side = |pixels: u32| u64::from(pixels.next_multiple_of(16));
    let raw = side(provenance.width) * side(provenance.height) * 3;
    let pixels = match encoding.codec {
        // The fast encoder makes noise larger by two fifths.
        Codec::Png => raw + raw / 2,
        // At quality 100 noise takes up to 15 bits a sample.
        Codec::Jpeg(_) | Codec::WebP(_) | Codec::WebPLossless => raw * 5 / 2,
    };
    // The prompts stand there twice, escaped.
    pixels + 16 * provenance.to_json().len() as u64 + (64 << 10)
}

/// Why there is no file of a picture.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// `next` ended in the middle.
    #[error("the rows end before the picture is whole")]
    TooFewRows,
    /// `next` went on after the last row.
    #[error("there are more rows than the picture has")]
    TooManyRows,
    /// All of its pixels have this colour.
    #[error("the picture has one colour, #{:02x}{:02x}{:02x}", .0[0], .0[1], .0[2])]
    Flat([u8; 3]),
    /// From the crate `png`.
    #[error(transparent)]
    Png(#[from] ::png::EncodingError),
    /// From the crate `jpeg-encoder`.
    #[error(transparent)]
    Jpeg(#[from] jpeg_encoder::EncodingError),
    /// From libwebp.
    #[error("{0}")]
    WebP(String),
    /// From the crate `kamadak-exif`.
    #[error("write EXIF: {0}")]
    Exif(#[from] ::exif::Error),
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Flat(_) => Self::new(ErrorClass::BadImage, error.to_string()),
            WriteError::TooFewRows
            | WriteError::TooManyRows
            | WriteError::Png(_)
            | WriteError::Jpeg(_)
            | WriteError::WebP(_)
            | WriteError::Exif(_) => Self::new(ErrorClass::Encode, format!("encode the picture: {error}")),
        }
    }
}

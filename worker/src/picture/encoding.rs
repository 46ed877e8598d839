//! What is written for an image: format, quality, thumbnail.

use sanafarm_proto::v1::{ErrorClass, Form, ImageFormat};
use serde::{Deserialize, Serialize};

use super::Format;
use crate::recipe::Failure;

/// Of JPEG, when a job says nothing.
const JPEG_QUALITY: u8 = 92;
/// Of lossy WebP, when a job says nothing.
const WEBP_QUALITY: u8 = 90;
/// Largest side of a JPEG, whose header has 16 bits for it.
const JPEG_SIDE: u32 = 65_535;
/// Largest side of a WebP, whose header has 14 bits for it.
const WEBP_SIDE: u32 = 16_383;

/// How pixels become bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Codec {
    /// Lossless, and fast to write.
    Png,
    /// Lossy, of a quality between 1 and 100.
    Jpeg(u8),
    /// Lossy, of a quality between 1 and 100.
    WebP(u8),
    /// Smaller than PNG, and slower to write.
    WebPLossless,
}

/// What is written for an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encoding {
    /// How pixels become bytes.
    pub codec: Codec,
    /// A JPEG of at most 256 pixels a side as well.
    pub thumbnail: bool,
}

impl Encoding {
    /// As a lease asks for it; a PNG alone when it says nothing. The failure names what came from a newer coordinator.
    pub(crate) fn new(form: Option<&Form>) -> Result<Self, Failure> {
        let Some(form) = form else { return Ok(Self { codec: Codec::Png, thumbnail: false }) };
        let unknown = |what: &str, value: i64| {
            let message =
                format!("the coordinator sent {what} {value}, unknown to this worker: update the worker");
            Failure::new(ErrorClass::Internal, message)
        };
        let quality = |default: u8| match form.quality {
            0 => Ok(default),
            1..=100 => Ok(form.quality as u8),
            other => Err(unknown("picture quality", other.into())),
        };
        let codec = match ImageFormat::try_from(form.format) {
            Ok(ImageFormat::Png) => Codec::Png,
            Ok(ImageFormat::Jpeg) => Codec::Jpeg(quality(JPEG_QUALITY)?),
            Ok(ImageFormat::Webp) => Codec::WebP(quality(WEBP_QUALITY)?),
            Ok(ImageFormat::WebpLossless) => Codec::WebPLossless,
            Ok(ImageFormat::Unspecified) | Err(_) => {
                return Err(unknown("picture format", form.format.into()));
            }
        };
        Ok(Self { codec, thumbnail: form.thumbnails })
    }

    /// As the recipe of a file asks for it; the failure names what is in no recipe of ours.
    pub(crate) fn again(format: Format, quality: Option<u8>) -> Result<Self, String> {
        let codec = match (format, quality) {
            (Format::Png, None) => Codec::Png,
            (Format::WebP, None) => Codec::WebPLossless,
            (Format::Jpeg, Some(quality @ 1..=100)) => Codec::Jpeg(quality),
            (Format::WebP, Some(quality @ 1..=100)) => Codec::WebP(quality),
            (Format::Jpeg, None) => return Err("its recipe does not tell its quality".into()),
            (_, Some(quality)) => {
                return Err(format!("its recipe tells quality {quality} of a {} file", format.name()));
            }
        };
        Ok(Self { codec, thumbnail: false })
    }

    /// Of a lossy file.
    pub(crate) fn quality(self) -> Option<u8> {
        match self.codec {
            Codec::Jpeg(quality) | Codec::WebP(quality) => Some(quality),
            Codec::Png | Codec::WebPLossless => None,
        }
    }

    /// The kind of file that comes of it.
    pub fn format(self) -> Format {
        match self.codec {
            Codec::Png => Format::Png,
            Codec::Jpeg(_) => Format::Jpeg,
            Codec::WebP(_) | Codec::WebPLossless => Format::WebP,
        }
    }

    /// Whether files of this format can be so large: told before hours of rendering.
    pub(crate) fn check_size(self, width: u32, height: u32) -> Result<(), Failure> {
        let largest = match self.format() {
            Format::Png => return Ok(()),
            Format::Jpeg => JPEG_SIDE,
            Format::WebP => WEBP_SIDE,
        };
        if width.max(height) <= largest {
            return Ok(());
        }
        let message = format!(
            "a picture of {width}x{height} does not fit a {} file, whose sides are at most {largest}: take PNG",
            self.format().name()
        );
        Err(Failure::new(ErrorClass::Size, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(format: i32, quality: u32) -> Form {
        Form { format, quality, thumbnails: true, ..Default::default() }
    }

    #[test]
    fn a_lease_says_what_is_written() {
        let png = Encoding::new(None).unwrap();
        assert_eq!(png, Encoding { codec: Codec::Png, thumbnail: false });
        for (format, quality, codec) in [
            (ImageFormat::Png, 7, Codec::Png),
            (ImageFormat::Jpeg, 0, Codec::Jpeg(92)),
            (ImageFormat::Jpeg, 1, Codec::Jpeg(1)),
            (ImageFormat::Webp, 0, Codec::WebP(90)),
            (ImageFormat::Webp, 100, Codec::WebP(100)),
            (ImageFormat::WebpLossless, 0, Codec::WebPLossless),
        ] {
            let encoding = Encoding::new(Some(&form(format.into(), quality))).unwrap();
            assert_eq!(encoding, Encoding { codec, thumbnail: true });
            let again = Encoding::again(encoding.format(), encoding.quality()).unwrap();
            assert_eq!(again, Encoding { codec, thumbnail: false });
        }
    }

    #[test]
    fn what_a_newer_coordinator_asks_for_is_named() {
        for (form, named) in [
            (form(0, 0), "picture format 0"),
            (form(99, 0), "picture format 99"),
            (form(ImageFormat::Jpeg.into(), 101), "picture quality 101"),
        ] {
            let failure = Encoding::new(Some(&form)).unwrap_err();
            assert_eq!(failure.class, ErrorClass::Internal);
            assert!(failure.message.contains(named), "{failure:?}");
        }
    }

    #[test]
    fn sizes_that_a_format_cannot_hold_are_refused() {
        let encoding = |format: ImageFormat| Encoding::new(Some(&form(format.into(), 0))).unwrap();
        assert_eq!(encoding(ImageFormat::Png).check_size(16_384, 16_384), Ok(()));
        assert_eq!(encoding(ImageFormat::Jpeg).check_size(16_384, 16_384), Ok(()));
        for format in [ImageFormat::Webp, ImageFormat::WebpLossless] {
            assert_eq!(encoding(format).check_size(16_383, 16_383), Ok(()));
            let failure = encoding(format).check_size(64, 16_384).unwrap_err();
            assert_eq!(failure.class, ErrorClass::Size);
            assert!(failure.message.contains("64x16384") && failure.message.contains("16383"), "{failure:?}");
        }
    }
}

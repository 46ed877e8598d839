//! WebP: the one format whose encoder needs the picture at once. Rows go straight into its planes.

use std::io::Cursor;

use image_webp::{DecodingError, WebPDecoder};

use super::exif::exif;
use super::parameters::parameters;
use super::rows::Rows;
use super::write::WriteError;
use super::{Format, Opened, Pixels, Unreadable, room, xmp};
use crate::recipe::Provenance;

mod libwebp;

/// Lossy of the given quality, or lossless.
///
/// A lossy picture is held in 1.5 bytes a pixel, a lossless one in 4.
pub(super) fn write(
    provenance: &Provenance,
    quality: Option<u8>,
    rows: &mut Rows<'_>,
) -> Result<Vec<u8>, WriteError> {
    let (width, height) = (provenance.width, provenance.height);
    let bitstream = match quality {
        Some(quality) => {
            let mut picture = libwebp::Lossy::new(width, height)?;
            let full = libwebp::STRIP_ROWS * width as usize * 3;
            let mut strip = Vec::with_capacity(full);
            while let Some(row) = rows.next()? {
                strip.extend_from_slice(row);
                if strip.len() == full {
                    picture.strip(&strip)?;
                    strip.clear();
                }
            }
            if !strip.is_empty() {
                picture.strip(&strip)?;
            }
            picture.encode(quality)?
        }
        None => {
            let mut picture = libwebp::Lossless::new(width, height)?;
            while let Some(row) = rows.next()? {
                picture.row(row);
            }
            picture.encode()?
        }
    };
    libwebp::with_metadata(&bitstream, &exif(&parameters(provenance))?, xmp::packet(provenance).as_bytes())
}

/// A WebP whose header has been read.
pub(super) struct WebP<'a> {
    decoder: WebPDecoder<Cursor<&'a [u8]>>,
}

fn broken(error: DecodingError) -> Unreadable {
    Unreadable::Broken(Format::WebP, error.to_string())
}

pub(super) fn open(file: &[u8]) -> Result<WebP<'_>, Unreadable> {
    let cut = || Unreadable::Broken(Format::WebP, "it is not as long as it says".into());
    let said = file.get(4..8).and_then(|length| length.try_into().ok()).map(u32::from_le_bytes);
    if said.ok_or_else(cut)? as usize + 8 != file.len() {
        return Err(cut());
    }
    let decoder = WebPDecoder::new(Cursor::new(file)).map_err(broken)?;
    if decoder.has_alpha() || decoder.is_animated() {
        return Err(Unreadable::Broken(Format::WebP, "it is animated or transparent".into()));
    }
    Ok(WebP { decoder })
}

impl Opened for WebP<'_> {
    fn size(&self) -> (u32, u32) {
        self.decoder.dimensions()
    }

    fn packet(&mut self) -> Result<Option<Vec<u8>>, Unreadable> {
        self.decoder.xmp_metadata().map_err(broken)
    }

    fn pixels(mut self) -> Result<Pixels, Unreadable> {
        let (width, height) = self.size();
        let mut rgb = room(Format::WebP, (width, height))?;
        self.decoder.read_image(&mut rgb).map_err(broken)?;
        Ok(Pixels { width, height, rgb })
    }
}

//! JPEG: baseline, encoded by rows of blocks as they come.

use std::cell::{Cell, RefCell};
use std::io::{self, Write};

use jpeg_encoder::{ChromaSubsamplingMethod, Encoder, ImageBuffer, JpegColorType, rgb_to_ycbcr};
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;

use super::exif::exif;
use super::parameters::parameters;
use super::rows::Rows;
use super::write::WriteError;
use super::{Format, Opened, Pixels, Unreadable, room, xmp};
use crate::recipe::Provenance;

/// Last two bytes of every whole file. They are nowhere in what is encoded.
const END: [u8; 2] = [0xff, 0xd9];

/// From a quality of 90 on with all the colour of each pixel, below with that of four pixels averaged.
///
/// Huffman tables are the standard ones: better ones would need the whole picture at once.
pub(super) fn write(
    provenance: &Provenance,
    quality: u8,
    rows: &mut Rows<'_>,
) -> Result<Vec<u8>, WriteError> {
    let size = |pixels: u32| u16::try_from(pixels).map_err(|_| too_large(provenance));
    let (width, height) = (size(provenance.width)?, size(provenance.height)?);
    let mut file = Vec::new();
    let broken = Cell::new(false);
    let source = Source {
        width,
        height,
        taking: RefCell::new(Taking { rows, taken: 0, failed: None }),
        broken: &broken,
    };
    let mut encoder = Encoder::new(Target { file: &mut file, broken: &broken }, quality);
    encoder.set_chroma_subsampling_method(ChromaSubsamplingMethod::Average);
    encoder.add_exif_metadata(&exif(&parameters(provenance))?)?;
    for segment in xmp::segments(provenance) {
        encoder.add_app_segment(1, segment)?;
    }
    let encoded = encoder.encode_image(&source);
    if let Some(error) = source.taking.into_inner().failed {
        return Err(error);
    }
    encoded?;
    Ok(file)
}

fn too_large(provenance: &Provenance) -> WriteError {
    let size = format!("{}x{} is too large for a JPEG", provenance.width, provenance.height);
    WriteError::Jpeg(io::Error::other(size).into())
}

/// Hands rows to the encoder, which asks for them in order and for the last one again until its block is full.
struct Source<'a, 'r> {
    width: u16,
    height: u16,
    taking: RefCell<Taking<'a, 'r>>,
    broken: &'a Cell<bool>,
}

struct Taking<'a, 'r> {
    rows: &'a mut Rows<'r>,
    taken: u16,
    failed: Option<WriteError>,
}

impl ImageBuffer for &Source<'_, '_> {
    fn get_jpeg_color_type(&self) -> JpegColorType {
        JpegColorType::Ycbcr
    }

    fn width(&self) -> u16 {
        self.width
    }

    fn height(&self) -> u16 {
        self.height
    }

    fn fill_buffers(&self, y: u16, buffers: &mut [Vec<u8>; 4]) {
        let Taking { rows, taken, failed } = &mut *self.taking.borrow_mut();
        // A side of 65535 rows at most: no overflow.
        if y == *taken && failed.is_none() {
            *taken += 1;
            if let Err(error) = rows.next() {
                *failed = Some(error);
                // The encoder cannot be told here; its next write can.
                self.broken.set(true);
            }
        }
        let [lights, blues, reds, _] = buffers;
        let width = usize::from(self.width);
        let start = lights.len();
        for buffer in [&mut *lights, &mut *blues, &mut *reds] {
            buffer.resize(start + width, 0);
        }
        let pixels = rows.last().as_chunks::<3>().0.iter();
        let targets = lights[start..].iter_mut().zip(&mut blues[start..]).zip(&mut reds[start..]);
        for ([r, g, b], ((light, blue), red)) in pixels.zip(targets) {
            (*light, *blue, *red) = rgb_to_ycbcr(*r, *g, *b);
        }
    }
}

/// The file, which takes no more when the rows have failed.
struct Target<'a> {
    file: &'a mut Vec<u8>,
    broken: &'a Cell<bool>,
}

impl Write for Target<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.broken.get() {
            return Err(io::Error::other("the rows have failed"));
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A JPEG whose header has been read.
pub(super) struct Jpeg<'a> {
    decoder: JpegDecoder<ZCursor<&'a [u8]>>,
    size: (u32, u32),
}

fn broken(error: DecodeErrors) -> Unreadable {
    Unreadable::Broken(Format::Jpeg, format!("{error:?}"))
}

pub(super) fn open(file: &[u8]) -> Result<Jpeg<'_>, Unreadable> {
    if !file.ends_with(&END) {
        return Err(Unreadable::Broken(Format::Jpeg, "its end is missing".into()));
    }
    let side = usize::from(u16::MAX);
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(side)
        .set_max_height(side)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(file), options);
    decoder.decode_headers().map_err(broken)?;
    let size = decoder
        .dimensions()
        .ok_or_else(|| Unreadable::Broken(Format::Jpeg, "it does not say how large it is".into()))?;
    Ok(Jpeg { decoder, size: (size.0 as u32, size.1 as u32) })
}

impl Opened for Jpeg<'_> {
    fn size(&self) -> (u32, u32) {
        self.size
    }

    fn packet(&mut self) -> Result<Option<Vec<u8>>, Unreadable> {
        // The extension alone holds a recipe that is too long for the packet.
        Ok(self.decoder.info().and_then(|info| info.extended_xmp.or(info.xmp_data)))
    }

    fn pixels(mut self) -> Result<Pixels, Unreadable> {
        let (width, height) = self.size;
        let mut rgb = room(Format::Jpeg, self.size)?;
        self.decoder.decode_into(&mut rgb).map_err(broken)?;
        Ok(Pixels { width, height, rgb })
    }
}

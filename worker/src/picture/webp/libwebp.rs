//! The calls into libwebp, which is compiled in.

use std::ffi::c_int;
use std::ptr;
use std::slice;

use libwebp_sys::*;

use crate::picture::write::WriteError;

/// Rows of a strip: an even number, since two rows share their colour.
pub(super) const STRIP_ROWS: usize = 32;
/// Effort, of 0 to 6: files as large as by the default 4, in less than half the time (docs/performance.md).
const LOSSY_METHOD: c_int = 2;
/// Effort, of 0 to 9: a third of the time of the next; files a tenth larger, smooth ones up to a half
/// (docs/performance.md).
const LOSSLESS_LEVEL: c_int = 0;

fn failed(what: &str) -> WriteError {
    WriteError::WebP(format!("libwebp cannot {what}"))
}

fn checked(succeeded: c_int, what: &str) -> Result<(), WriteError> {
    if succeeded == 0 { Err(failed(what)) } else { Ok(()) }
}

/// A picture in libwebp's memory, freed with it.
struct Picture(WebPPicture);

impl Picture {
    fn new(width: u32, height: u32, use_argb: bool) -> Result<Self, WriteError> {
        let mut picture =
            WebPPicture::new().map_err(|()| failed("make a picture: its version is another"))?;
        let side = |pixels: u32| c_int::try_from(pixels).map_err(|_| failed("make so large a picture"));
        picture.use_argb = c_int::from(use_argb);
        picture.width = side(width)?;
        picture.height = side(height)?;
        Ok(Self(picture))
    }

    fn allocate(&mut self) -> Result<(), WriteError> {
        // SAFETY: an initialised picture that owns no memory, or owns what libwebp gave it.
        checked(
            unsafe { WebPPictureAlloc(&mut self.0) },
            "hold the picture: out of memory, or it is too large",
        )
    }

    fn encode(&mut self, config: &WebPConfig) -> Result<Memory, WriteError> {
        let mut memory = Memory::new();
        let picture = &mut self.0;
        picture.writer = Some(WebPMemoryWrite);
        picture.custom_ptr = ptr::from_mut(&mut memory.0).cast();
        // SAFETY: both are initialised, the planes are as large as the picture says, and `memory` outlives the call.
        let encoded = unsafe { WebPEncode(config, picture) };
        picture.custom_ptr = ptr::null_mut();
        if encoded == 0 {
            return Err(WriteError::WebP(format!("libwebp: {}", explained(picture.error_code))));
        }
        Ok(memory)
    }
}

impl Drop for Picture {
    fn drop(&mut self) {
        // SAFETY: it owns what libwebp gave it, or nothing.
        unsafe { WebPPictureFree(&mut self.0) };
    }
}

fn explained(error: WebPEncodingError) -> &'static str {
    match error {
        WebPEncodingError::VP8_ENC_ERROR_OUT_OF_MEMORY
        | WebPEncodingError::VP8_ENC_ERROR_BITSTREAM_OUT_OF_MEMORY => "out of memory",
        WebPEncodingError::VP8_ENC_ERROR_BAD_DIMENSION => "sides are at most 16383 pixels; take PNG",
        WebPEncodingError::VP8_ENC_ERROR_PARTITION0_OVERFLOW
        | WebPEncodingError::VP8_ENC_ERROR_PARTITION_OVERFLOW
        | WebPEncodingError::VP8_ENC_ERROR_FILE_TOO_BIG => {
            "the picture takes more than the format holds; take a lower quality or PNG"
        }
        _ => "it refuses its settings",
    }
}

/// Bytes in libwebp's memory.
pub(super) struct Memory(WebPMemoryWriter);

impl Memory {
    fn new() -> Self {
        let mut writer = WebPMemoryWriter { mem: ptr::null_mut(), size: 0, max_size: 0, pad: [0] };
        // SAFETY: it only sets the fields.
        unsafe { WebPMemoryWriterInit(&mut writer) };
        Self(writer)
    }

    fn data(&self) -> WebPData {
        WebPData { bytes: self.0.mem, size: self.0.size }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: it owns what libwebp gave it, or nothing.
        unsafe { WebPMemoryWriterClear(&mut self.0) };
    }
}

/// A picture in planes of brightness and, for every two by two pixels, of colour.
pub(super) struct Lossy {
    picture: Picture,
    filled: usize,
}

impl Lossy {
    pub(super) fn new(width: u32, height: u32) -> Result<Self, WriteError> {
        let mut picture = Picture::new(width, height, false)?;
        picture.allocate()?;
        Ok(Self { picture, filled: 0 })
    }

    /// Takes the next [`STRIP_ROWS`] rows of RGB, or the last ones, which may be fewer.
    ///
    /// libwebp converts only whole pictures: the strip is one, and its planes become a part of ours.
    pub(super) fn strip(&mut self, rgb: &[u8]) -> Result<(), WriteError> {
        let ours = &self.picture.0;
        let (width, height) = (ours.width as usize, ours.height as usize);
        let rows = rgb.len() / (width * 3);
        assert!(self.filled.is_multiple_of(2) && self.filled + rows <= height, "strips fill the picture");
        let mut strip = Picture::new(width as u32, rows as u32, false)?;
        // SAFETY: `rgb` has as many rows as the strip, of as many pixels.
        let imported = unsafe { WebPPictureImportRGB(&mut strip.0, rgb.as_ptr(), ours.width * 3) };
        checked(imported, "convert rows: out of memory")?;
        let theirs = &strip.0;
        let half = |length: usize| length.div_ceil(2);
        for (to, to_stride, from, from_stride, first, width, rows) in [
            (ours.y, ours.y_stride, theirs.y, theirs.y_stride, self.filled, width, rows),
            (ours.u, ours.uv_stride, theirs.u, theirs.uv_stride, self.filled / 2, half(width), half(rows)),
            (ours.v, ours.uv_stride, theirs.v, theirs.uv_stride, self.filled / 2, half(width), half(rows)),
        ] {
            for row in 0..rows {
                // SAFETY: both planes are allocated with these strides, and the strip ends within our picture.
                unsafe {
                    let from = from.add(row * from_stride as usize);
                    let to = to.add((first + row) * to_stride as usize);
                    ptr::copy_nonoverlapping(from, to, width);
                }
            }
        }
        self.filled += rows;
        Ok(())
    }

    pub(super) fn encode(mut self, quality: u8) -> Result<Memory, WriteError> {
        assert_eq!(self.filled, self.picture.0.height as usize, "all rows have come");
        let mut config = WebPConfig::new_with_preset(WebPPreset::WEBP_PRESET_DEFAULT, quality.into())
            .map_err(|()| failed("take this quality"))?;
        config.method = LOSSY_METHOD;
        self.picture.encode(&config)
    }
}

/// A picture of 32-bit pixels.
pub(super) struct Lossless {
    picture: Picture,
    filled: usize,
}

impl Lossless {
    pub(super) fn new(width: u32, height: u32) -> Result<Self, WriteError> {
        let mut picture = Picture::new(width, height, true)?;
        picture.allocate()?;
        Ok(Self { picture, filled: 0 })
    }

    /// Takes the next row of RGB.
    pub(super) fn row(&mut self, rgb: &[u8]) {
        let picture = &mut self.picture.0;
        let (width, height) = (picture.width as usize, picture.height as usize);
        assert!(self.filled < height, "rows fill the picture");
        let start = self.filled * picture.argb_stride as usize;
        for (at, [r, g, b]) in rgb.as_chunks::<3>().0.iter().take(width).enumerate() {
            // SAFETY: the pixels are allocated with this stride, the row is one of them and so long.
            unsafe { picture.argb.add(start + at).write(u32::from_be_bytes([0xff, *r, *g, *b])) };
        }
        self.filled += 1;
    }

    pub(super) fn encode(mut self) -> Result<Memory, WriteError> {
        assert_eq!(self.filled, self.picture.0.height as usize, "all rows have come");
        let mut config = WebPConfig::new().map_err(|()| failed("take settings: its version is another"))?;
        // SAFETY: an initialised configuration.
        checked(unsafe { WebPConfigLosslessPreset(&mut config, LOSSLESS_LEVEL) }, "take this level")?;
        self.picture.encode(&config)
    }
}

/// A file in the making, freed with it.
struct Mux(*mut WebPMux);

impl Drop for Mux {
    fn drop(&mut self) {
        // SAFETY: it is libwebp's, or null, which it takes too.
        unsafe { WebPMuxDelete(self.0) };
    }
}

/// The file of an encoded picture with EXIF and XMP beside it.
pub(super) fn with_metadata(picture: &Memory, exif: &[u8], xmp: &[u8]) -> Result<Vec<u8>, WriteError> {
    // SAFETY: `picture` outlives the mux, which does not copy it.
    let mux = Mux(unsafe { WebPMuxCreateInternal(&picture.data(), 0, WEBP_MUX_ABI_VERSION as c_int) });
    if mux.0.is_null() {
        return Err(failed("read what it wrote"));
    }
    for (name, bytes) in [(c"EXIF", exif), (c"XMP ", xmp)] {
        let data = WebPData { bytes: bytes.as_ptr(), size: bytes.len() };
        // SAFETY: `bytes` outlives the mux, which does not copy it; names have four letters.
        let set = unsafe { WebPMuxSetChunk(mux.0, name.as_ptr(), &data, 0) };
        if set != WebPMuxError::WEBP_MUX_OK {
            return Err(failed("take the recipe"));
        }
    }
    let mut assembled = WebPData { bytes: ptr::null(), size: 0 };
    // SAFETY: a valid mux; the data is empty before and libwebp's after.
    let done = unsafe { WebPMuxAssemble(mux.0, &mut assembled) };
    if done != WebPMuxError::WEBP_MUX_OK {
        return Err(failed("join picture and recipe"));
    }
    // SAFETY: after success it holds so many bytes, which are freed once.
    let file = unsafe { slice::from_raw_parts(assembled.bytes, assembled.size) }.to_vec();
    unsafe { WebPDataClear(&mut assembled) };
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixels(width: u32, height: u32) -> Vec<u8> {
        (0..width * height * 3).map(|at| (at / 5 * 7 + at % 3 * (at / 900)) as u8).collect()
    }

    fn bytes(memory: &Memory) -> &[u8] {
        // SAFETY: it holds so many.
        unsafe { slice::from_raw_parts(memory.0.mem, memory.0.size) }
    }

    #[test]
    fn strips_make_the_same_file_as_the_whole_picture() {
        for (width, height) in [(1, 1), (64, 64), (37, 65), (131, 95), (16, 31)] {
            let pixels = pixels(width, height);
            // libwebp's own way, all rows at once.
            let mut whole = Lossy::new(width, height).unwrap();
            whole.strip(&pixels).unwrap();
            let mut strips = Lossy::new(width, height).unwrap();
            let strip = STRIP_ROWS * width as usize * 3;
            pixels.chunks(strip).for_each(|rows| strips.strip(rows).unwrap());
            let (whole, strips) = (whole.encode(80).unwrap(), strips.encode(80).unwrap());
            assert!(bytes(&whole) == bytes(&strips), "{width}x{height}");
        }
    }

    #[test]
    fn libwebp_itself_reads_a_lossless_picture_back() {
        let (width, height) = (131, 95);
        let pixels = pixels(width, height);
        let mut picture = Lossless::new(width, height).unwrap();
        pixels.chunks(width as usize * 3).for_each(|row| picture.row(row));
        let memory = picture.encode().unwrap();
        let mut read = vec![0; pixels.len()];
        let (data, stride) = (memory.data(), width as c_int * 3);
        // SAFETY: `read` has room for all rows.
        let decoded =
            unsafe { WebPDecodeRGBInto(data.bytes, data.size, read.as_mut_ptr(), read.len(), stride) };
        assert!(!decoded.is_null() && read == pixels);
    }

    #[test]
    fn sizes_that_the_format_cannot_hold_are_errors() {
        assert!(
            Lossy::new(16_384, 2).is_err() || {
                let mut picture = Lossy::new(16_384, 2).unwrap();
                picture.strip(&pixels(16_384, 2)).unwrap();
                picture.encode(90).is_err()
            }
        );
        assert!(Lossy::new(u32::MAX, 1).is_err() && Lossless::new(1 << 30, 1 << 30).is_err());
    }
}

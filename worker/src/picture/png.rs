//! PNG: rows stream through filter and deflate; the recipe stands in text chunks.

use std::io::{Cursor, Write};

use png::{BitDepth, ColorType, Compression, DecodeOptions, Decoder, DecodingError, Filter, Reader};

use super::parameters::parameters;
use super::rows::Rows;
use super::write::WriteError;
use super::{Format, Pixels, Unreadable, fitting, room};
use crate::recipe::Provenance;

/// Chunk that galleries and the web UI of Automatic1111 read.
pub(super) const PARAMETERS: &str = "parameters";
/// Chunk with all that is needed to render the picture again, as JSON.
const RECIPE: &str = "sanafarm";
/// Bytes of one image data chunk.
const CHUNK_BYTES: usize = 64 << 10;

pub(super) fn write(provenance: &Provenance, rows: &mut Rows<'_>) -> Result<Vec<u8>, WriteError> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, provenance.width, provenance.height);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    // Deflate with a fixed code, made for filtered rows: up to four times as fast as zlib's first level, and mostly
    // smaller (docs/performance.md). One filter for all rows is faster still, and its files are larger.
    encoder.set_compression(Compression::Fast);
    encoder.set_filter(Filter::Adaptive);
    for (keyword, text) in [(PARAMETERS, parameters(provenance)), (RECIPE, provenance.to_json())] {
        if text.chars().all(|letter| u8::try_from(letter).is_ok()) {
            encoder.add_text_chunk(keyword.into(), text)?;
        } else {
            encoder.add_itxt_chunk(keyword.into(), text)?;
        }
    }
    let mut writer = encoder.write_header()?;
    let mut stream = writer.stream_writer_with_size(CHUNK_BYTES)?;
    while let Some(row) = rows.next()? {
        stream.write_all(row).map_err(png::EncodingError::from)?;
    }
    stream.finish()?;
    writer.finish()?;
    Ok(file)
}

fn open(file: &[u8]) -> Result<Reader<Cursor<&[u8]>>, DecodingError> {
    let mut options = DecodeOptions::default();
    // Every checksum counts here, also those that viewers pass over.
    options.set_skip_ancillary_crc_failures(false);
    options.set_ignore_adler32(false);
    Decoder::new_with_options(Cursor::new(file), options).read_info()
}

fn broken(error: DecodingError) -> Unreadable {
    Unreadable::Broken(Format::Png, error.to_string())
}

/// Reads every pixel, one row at a time, and gives the recipe.
pub(super) fn read(file: &[u8]) -> Result<Provenance, Unreadable> {
    let mut reader = open(file).map_err(broken)?;
    let provenance = told(&reader)?;
    while reader.next_row().map_err(broken)?.is_some() {}
    reader.finish().map_err(broken)?;
    Ok(provenance)
}

/// Reads what stands before the pixels.
pub(super) fn recipe(file: &[u8]) -> Result<Provenance, Unreadable> {
    told(&open(file).map_err(broken)?)
}

fn told(reader: &Reader<Cursor<&[u8]>>) -> Result<Provenance, Unreadable> {
    let info = reader.info();
    let latin = info.uncompressed_latin1_text.iter().find(|chunk| chunk.keyword == RECIPE);
    let utf8 = info.utf8_text.iter().find(|chunk| chunk.keyword == RECIPE);
    let json = match (latin, utf8) {
        (Some(chunk), _) => chunk.text.clone(),
        (None, Some(chunk)) => chunk.get_text().map_err(broken)?,
        (None, None) => return Err(Unreadable::NoRecipe),
    };
    let provenance = fitting(&json, info.size())?;
    if is_rgb(reader) { Ok(provenance) } else { Err(Unreadable::WrongSize) }
}

pub(super) fn pixels(file: &[u8]) -> Result<Pixels, Unreadable> {
    let mut reader = open(file).map_err(broken)?;
    let (width, height) = reader.info().size();
    if !is_rgb(&reader) {
        return Err(Unreadable::Broken(Format::Png, "its pixels are not 8-bit RGB".into()));
    }
    let mut rgb = room(Format::Png, (width, height))?;
    reader.next_frame(&mut rgb).map_err(broken)?;
    reader.finish().map_err(broken)?;
    Ok(Pixels { width, height, rgb })
}

fn is_rgb(reader: &Reader<Cursor<&[u8]>>) -> bool {
    (reader.info().color_type, reader.info().bit_depth) == (ColorType::Rgb, BitDepth::Eight)
}

/// Text chunks: kind, keyword, text.
#[cfg(test)]
pub(super) fn texts(file: &[u8]) -> Vec<(&'static str, String, String)> {
    let reader = Decoder::new(Cursor::new(file)).read_info().unwrap();
    let info = reader.info();
    let latin = info.uncompressed_latin1_text.iter();
    let utf8 = info.utf8_text.iter();
    latin
        .map(|chunk| ("tEXt", chunk.keyword.clone(), chunk.text.clone()))
        .chain(utf8.map(|chunk| ("iTXt", chunk.keyword.clone(), chunk.get_text().unwrap())))
        .collect()
}

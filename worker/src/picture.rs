//! PNG files that carry their recipe: written row by row, read back whole.

use std::io::{Cursor, Error, Write};

use png::{BitDepth, ColorType, Compression, Decoder, Filter, Limits};
use sha2::{Digest, Sha256};

use crate::recipe::Provenance;

/// Chunk that galleries and the web UI of Automatic1111 read.
const PARAMETERS: &str = "parameters";
/// Chunk with all that is needed to render the picture again, as JSON.
const RECIPE: &str = "sanafarm";
/// Bytes of one image data chunk.
const CHUNK_BYTES: usize = 64 << 10;

/// Writes a picture of the rows that `next` hands out, any number of bytes at a time, until `None`.
///
/// The file depends on the recipe and the pixels alone, not on how the rows were cut.
pub(crate) fn write(
    provenance: &Provenance,
    mut next: impl FnMut() -> Option<Vec<u8>>,
) -> Result<Vec<u8>, png::EncodingError> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, provenance.width, provenance.height);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
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
    let mut rows = writer.stream_writer_with_size(CHUNK_BYTES)?;
    let mut left = u64::from(provenance.width) * u64::from(provenance.height) * 3;
    while let Some(bytes) = next() {
        // The crate would begin a second picture in the same file.
        left = left
            .checked_sub(bytes.len() as u64)
            .ok_or_else(|| Error::other("more rows than the picture has"))?;
        rows.write_all(&bytes)?;
    }
    rows.finish()?;
    writer.finish()?;
    Ok(file)
}

/// The text that Automatic1111 writes: prompt, negative prompt, one line of settings.
fn parameters(provenance: &Provenance) -> String {
    // A text chunk ends at its first zero byte.
    let clean = |text: &str| text.replace('\0', "\u{fffd}");
    let mut text = clean(&provenance.prompt);
    if !provenance.negative_prompt.is_empty() {
        text.push_str("\nNegative prompt: ");
        text.push_str(&clean(&provenance.negative_prompt));
    }
    let sampler = match provenance.scheduler.as_str() {
        "flow-dpm-solver++" => "DPM++ 2M Flow",
        other => other,
    };
    let hash: String = provenance.weights_sha256.chars().take(10).collect();
    text.push_str(&format!(
        "\nSteps: {}, Sampler: {sampler}, CFG scale: {}, Seed: {}, Size: {}x{}, Model: {}, Model hash: {hash}, \
         Version: {} {}",
        provenance.steps,
        provenance.guidance,
        provenance.seed,
        provenance.width,
        provenance.height,
        clean(&provenance.model),
        provenance.program,
        provenance.version,
    ));
    text
}

/// Why a file is not a whole picture of ours.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("it is no whole PNG file: {0}")]
    Broken(#[from] png::DecodingError),
    #[error("it carries no recipe")]
    NoRecipe,
    #[error("its recipe cannot be read: {0}")]
    BadRecipe(#[from] serde_json::Error),
    #[error("its recipe does not fit its pixels")]
    WrongSize,
}

/// Reads every pixel of a picture and gives its recipe: a file that passes is whole.
pub(crate) fn read(file: &[u8]) -> Result<Provenance, Unreadable> {
    let limits = Limits { bytes: 64 << 20 };
    let mut reader = Decoder::new_with_limits(Cursor::new(file), limits).read_info()?;
    let info = reader.info();
    let latin = info.uncompressed_latin1_text.iter().find(|chunk| chunk.keyword == RECIPE);
    let utf8 = info.utf8_text.iter().find(|chunk| chunk.keyword == RECIPE);
    let json = match (latin, utf8) {
        (Some(chunk), _) => chunk.text.clone(),
        (None, Some(chunk)) => chunk.get_text()?,
        (None, None) => return Err(Unreadable::NoRecipe),
    };
    let provenance: Provenance = serde_json::from_str(&json)?;
    let size_fits = (info.width, info.height) == (provenance.width, provenance.height);
    if !size_fits || info.color_type != ColorType::Rgb || info.bit_depth != BitDepth::Eight {
        return Err(Unreadable::WrongSize);
    }
    while reader.next_row()?.is_some() {}
    reader.finish()?;
    Ok(provenance)
}

/// Checksum of a file, in hex.
pub(crate) fn sha256(file: &[u8]) -> String {
    Sha256::digest(file).iter().map(|byte| format!("{byte:02x}")).collect()
}

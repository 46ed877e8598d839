//! PNG files that carry their recipe: written row by row, read back whole.

use std::io::{Cursor, Error, Write};

use png::{BitDepth, ColorType, Compression, DecodeOptions, Decoder, Filter};
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
    // On the bundled model's samples: 190 MB/s at 47 % of the raw size. Level 2 gives 60 MB/s at 43 %, level 6
    // 12 MB/s at 41 %: a slower encoder would hold up the engine and the disk gains little.
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

/// Bytes that no file of this picture exceeds: what stands there and is larger need not be read.
pub(crate) fn largest_file(provenance: &Provenance) -> u64 {
    let row = u64::from(provenance.width) * 3 + 1;
    let raw = row * u64::from(provenance.height);
    // The fast encoder makes noise larger by two fifths; both text chunks hold the prompts, escaped.
    raw + raw / 2 + 16 * provenance.to_json().len() as u64 + (64 << 10)
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
        "flow-euler" => "Euler Flow",
        "scm" => "SCM",
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
    let mut options = DecodeOptions::default();
    // Every checksum counts here, also those that viewers pass over.
    options.set_skip_ancillary_crc_failures(false);
    options.set_ignore_adler32(false);
    let mut reader = Decoder::new_with_options(Cursor::new(file), options).read_info()?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use sana::{BinMode, DecodeMode};

    fn provenance(prompt: &str, negative_prompt: &str) -> Provenance {
        Provenance {
            program: "sanafarm".into(),
            version: "1.2.3".into(),
            model: "sana-tiny".into(),
            weights_sha256: "0123456789abcdef".repeat(4),
            prompt: prompt.into(),
            negative_prompt: negative_prompt.into(),
            seed: 7,
            width: 300,
            height: 200,
            compute_width: 320,
            compute_height: 224,
            steps: 20,
            guidance: 4.5,
            scheduler: "flow-dpm-solver++".into(),
            dtype: "f32".into(),
            bin: BinMode::Auto,
            decode: DecodeMode::Exact,
        }
    }

    fn pixels() -> Vec<u8> {
        (0..300 * 200 * 3_u32).map(|at| (at / 7 + at % 3 * (at / 900)) as u8).collect()
    }

    fn write_in_pieces(provenance: &Provenance, piece: usize) -> Vec<u8> {
        let pixels = pixels();
        let mut pieces = pixels.chunks(piece).map(<[u8]>::to_vec);
        write(provenance, || pieces.next()).unwrap()
    }

    /// Text chunks as another reader finds them: kind, keyword, text.
    fn texts(file: &[u8]) -> Vec<(&'static str, String, String)> {
        let reader = Decoder::new(Cursor::new(file)).read_info().unwrap();
        let info = reader.info();
        let latin = info.uncompressed_latin1_text.iter();
        let utf8 = info.utf8_text.iter();
        latin
            .map(|chunk| ("tEXt", chunk.keyword.clone(), chunk.text.clone()))
            .chain(utf8.map(|chunk| ("iTXt", chunk.keyword.clone(), chunk.get_text().unwrap())))
            .collect()
    }

    #[test]
    fn the_file_does_not_depend_on_how_the_rows_came() {
        let provenance = provenance("a", "");
        let whole = write_in_pieces(&provenance, usize::MAX);
        for piece in [1, 899, 900, 901, 32 * 900, 65_536] {
            assert!(write_in_pieces(&provenance, piece) == whole, "pieces of {piece} bytes");
        }
        let mut reader = Decoder::new(Cursor::new(&whole)).read_info().unwrap();
        let mut found = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut found).unwrap();
        assert!(found == pixels());
    }

    #[test]
    fn the_parameters_are_what_automatic1111_writes() {
        let latin = texts(&write_in_pieces(&provenance("ein Bär", ""), 900));
        assert_eq!(latin[0].0, "tEXt");
        assert_eq!(
            latin[0].2,
            "ein Bär\nSteps: 20, Sampler: DPM++ 2M Flow, CFG scale: 4.5, Seed: 7, Size: 300x200, Model: sana-tiny, \
             Model hash: 0123456789, Version: sanafarm 1.2.3"
        );
        let negative = texts(&write_in_pieces(&provenance("two\nlines", "blur"), 900));
        assert!(negative[0].2.starts_with("two\nlines\nNegative prompt: blur\nSteps: 20, "), "{negative:?}");
    }

    #[test]
    fn any_prompt_comes_back_as_it_was() {
        for prompt in ["plain", "ein Bär", "赤い熊 🐻", "a\"quote\\, \n\t line", "a\0zero", ""] {
            let written = provenance(prompt, prompt);
            let file = write_in_pieces(&written, 900);
            assert_eq!(read(&file).unwrap(), written, "{prompt:?}");
            let is_latin = prompt.chars().all(|letter| u32::from(letter) < 256);
            for (kind, keyword, text) in texts(&file) {
                let expected = if is_latin && !(prompt.contains('\0') && keyword == PARAMETERS) {
                    "tEXt"
                } else {
                    "iTXt"
                };
                assert_eq!(kind, expected, "{keyword} of {prompt:?}");
                assert!(!text.contains('\0'));
            }
        }
    }

    #[test]
    fn the_text_stands_before_the_pixels() {
        let file = write_in_pieces(&provenance("a", ""), 900);
        let at = |name: &[u8]| file.windows(4).position(|window| window == name).unwrap();
        assert!(at(b"tEXt") < at(b"IDAT"));
    }

    #[test]
    fn too_few_or_too_many_rows_make_no_file() {
        let provenance = provenance("a", "");
        for length in [0, 900 * 199, 900 * 201, 900 * 200 + 1] {
            let mut rows = vec![vec![7; length]].into_iter();
            assert!(write(&provenance, || rows.next()).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn no_picture_is_larger_than_its_largest_file() {
        // A linear congruential generator: noise that no encoder can make smaller.
        let mut state = 1_u64;
        let mut noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        for (width, height) in [(1, 1), (300, 200), (1024, 700)] {
            let picture = Provenance { width, height, ..provenance(&"🐻\0".repeat(3000), "\n") };
            let mut rows = vec![(0..width * height * 3).map(|_| noise()).collect()].into_iter();
            let file = write(&picture, || rows.next()).unwrap();
            let largest = largest_file(&picture);
            assert!(file.len() as u64 <= largest, "{width}x{height}: {} > {largest}", file.len());
        }
    }

    #[test]
    fn only_whole_pictures_are_read() {
        let file = write_in_pieces(&provenance("a", ""), 900);
        assert!(read(&file).is_ok());
        for end in [0, 8, file.len() / 2, file.len() - 13, file.len() - 1] {
            assert!(read(&file[..end]).is_err(), "cut at {end}");
        }
        for at in (0..file.len()).step_by(97) {
            let mut flipped = file.clone();
            flipped[at] ^= 0x10;
            assert!(read(&flipped).is_err(), "a flipped bit at {at} of {}", file.len());
        }
    }
}

//! Pictures of all formats, written and read back.

use std::io::Cursor;

use sana::{BinMode, DecodeMode};
use sanafarm_proto::v1::ErrorClass;

use super::*;
use crate::recipe::Failure;

const CODECS: [Codec; 6] =
    [Codec::Png, Codec::Jpeg(92), Codec::Jpeg(75), Codec::WebP(90), Codec::WebP(20), Codec::WebPLossless];
const LOSSLESS: [Codec; 2] = [Codec::Png, Codec::WebPLossless];

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
        height: 201,
        compute_width: 320,
        compute_height: 224,
        steps: 20,
        guidance: 4.5,
        scheduler: "flow-dpm-solver++".into(),
        dtype: "f32".into(),
        bin: BinMode::Auto,
        decode: DecodeMode::Exact,
        quality: None,
    }
}

/// Bytes of a row and of all rows.
const ROW: usize = 300 * 3;
const ALL: usize = ROW * 201;

/// Smooth colours with an edge.
fn smooth() -> Vec<u8> {
    let pixel = |x: usize, y: usize| [(x / 2) as u8, y as u8, if x + y < 250 { 40 } else { 180 }];
    (0..201).flat_map(|y| (0..300).flat_map(move |x| pixel(x, y))).collect()
}

/// A linear congruential generator: noise that no encoder can make smaller.
fn noise() -> impl FnMut() -> u8 {
    let mut state = 1_u64;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    }
}

fn encoding(codec: Codec) -> Encoding {
    Encoding { codec, thumbnail: false }
}

fn written(provenance: &Provenance, codec: Codec, pieces: &[&[u8]]) -> Result<Written, WriteError> {
    let mut pieces = pieces.iter().map(|piece| piece.to_vec());
    write(provenance, encoding(codec), || pieces.next())
}

fn file(provenance: &Provenance, codec: Codec) -> Vec<u8> {
    written(provenance, codec, &smooth().chunks(ROW).collect::<Vec<_>>()).unwrap().file
}

/// EXIF's comment as another reader finds it: the name of its encoding, and its text.
fn comment(file: &[u8]) -> (String, String) {
    let exif = ::exif::Reader::new().read_from_container(&mut Cursor::new(file)).unwrap();
    let field = exif.get_field(::exif::Tag::UserComment, ::exif::In::PRIMARY).unwrap();
    let ::exif::Value::Undefined(bytes, _) = &field.value else { panic!("{field:?}") };
    let (name, text) = bytes.split_at(8);
    let name = std::str::from_utf8(name).unwrap().trim_end_matches('\0').to_owned();
    let text = if name == "UNICODE" {
        let units: Vec<u16> = text.as_chunks::<2>().0.iter().map(|unit| u16::from_be_bytes(*unit)).collect();
        String::from_utf16(&units).unwrap()
    } else {
        String::from_utf8(text.to_vec()).unwrap()
    };
    (name, text)
}

#[test]
fn the_file_does_not_depend_on_how_the_rows_came() {
    let (provenance, pixels) = (provenance("a", ""), smooth());
    for codec in CODECS {
        let whole = written(&provenance, codec, &[&pixels]).unwrap();
        for piece in [1, ROW - 1, ROW, ROW + 1, 32 * ROW, 65_536] {
            let pieces: Vec<_> = pixels.chunks(piece).collect();
            let cut = written(&provenance, codec, &pieces).unwrap();
            assert!(cut.file == whole.file, "{codec:?} in pieces of {piece} bytes");
            assert_eq!(cut.quality, whole.quality);
        }
        let with_holes: Vec<&[u8]> = pixels.chunks(ROW).flat_map(|row| [&[][..], row, &[]]).collect();
        assert!(written(&provenance, codec, &with_holes).unwrap().file == whole.file, "{codec:?}");
    }
}

#[test]
fn the_pixels_come_back() {
    let expected = smooth();
    for codec in CODECS {
        let found = pixels(&file(&provenance("a", ""), codec)).unwrap();
        assert_eq!((found.width, found.height), (300, 201));
        if LOSSLESS.contains(&codec) {
            assert!(found.rgb == expected, "{codec:?}");
            continue;
        }
        let off = expected.iter().zip(&found.rgb).map(|(a, b)| u64::from(a.abs_diff(*b))).sum::<u64>();
        // Of smooth colours few levels are lost even at quality 20; the edge costs the most.
        assert!(off < 4 * ALL as u64, "{codec:?}: {} a sample", off as f64 / ALL as f64);
    }
}

#[test]
fn the_parameters_are_what_automatic1111_writes() {
    let settings = "Steps: 20, Sampler: DPM++ 2M Flow, CFG scale: 4.5, Seed: 7, Size: 300x201, Model: sana-tiny, \
                    Model hash: 0123456789, Version: sanafarm 1.2.3";
    for (prompt, negative, text) in [
        ("ein Bär", "", format!("ein Bär\n{settings}")),
        ("two\nlines", "blur 🐻", format!("two\nlines\nNegative prompt: blur 🐻\n{settings}")),
        ("a\0b", "", format!("a b\n{settings}")),
    ] {
        let provenance = provenance(prompt, negative);
        let texts = png::texts(&file(&provenance, Codec::Png));
        let found = texts.iter().find(|(_, keyword, _)| keyword == png::PARAMETERS).unwrap();
        assert_eq!(found.2, text);
        for codec in &CODECS[1..] {
            let found = comment(&file(&provenance, *codec));
            assert_eq!(found, ("UNICODE".to_owned(), text.clone()), "{codec:?}");
        }
    }
}

#[test]
fn any_prompt_comes_back_as_it_was() {
    let mut prompts: Vec<String> = [
        "plain",
        "ein Bär",
        "赤い熊 🐻",
        "a\"quote\\, \n\t line",
        "a\0zero",
        "<b>&amp;</b>]]>",
        "\u{fffe}\u{ffff}\r",
        "",
    ]
    .map(str::to_owned)
    .into();
    // The longest that a coordinator takes: 16 KiB of whatever takes most room in UTF-16, JSON or XML.
    for letters in ["x", "é", "赤", "🐻", "\0", "&", "\""] {
        prompts.push(letters.repeat((16 << 10) / letters.len()));
    }
    prompts.push(format!("{}赤", "x".repeat((16 << 10) - 3)));
    for prompt in &prompts {
        let expected = provenance(prompt, prompt);
        for codec in [Codec::Png, Codec::Jpeg(75), Codec::WebP(20), Codec::WebPLossless] {
            let file = file(&expected, codec);
            let start: String = prompt.chars().take(9).collect();
            assert!(read(&file).unwrap() == expected, "{codec:?}, {start:?} of {} bytes", prompt.len());
            if codec != Codec::Png {
                let (name, text) = comment(&file);
                assert!(text == parameters::parameters(&expected), "{codec:?}, {start:?}");
                assert!(matches!(name.as_str(), "UNICODE" | ""));
            }
        }
    }
}

#[test]
fn too_few_or_too_many_rows_make_no_file() {
    let (provenance, mut bytes) = (provenance("a", ""), smooth());
    bytes.extend(vec![7; ROW]);
    for codec in CODECS {
        for length in [0, 1, ROW * 200, ALL - 1] {
            let error = written(&provenance, codec, &[&bytes[..length]]).err();
            assert!(matches!(error, Some(WriteError::TooFewRows)), "{codec:?}, {length} bytes: {error:?}");
        }
        for length in [ALL + 1, ALL + ROW] {
            for pieces in [vec![&bytes[..length]], vec![&bytes[..ALL], &[], &bytes[ALL..length]]] {
                let error = written(&provenance, codec, &pieces).err();
                assert!(matches!(error, Some(WriteError::TooManyRows)), "{codec:?}, {length}: {error:?}");
            }
        }
    }
}

#[test]
fn a_flat_picture_is_a_failure_in_any_format() {
    let mut bytes = vec![7; ALL];
    for codec in CODECS {
        let error = written(&provenance("a", ""), codec, &[&bytes]).err().unwrap();
        let failure = Failure::from(error);
        assert_eq!(failure.class, ErrorClass::BadImage);
        assert!(failure.message.contains("#070707"), "{failure:?}");
    }
    bytes[ALL - 1] = 8;
    assert!(written(&provenance("a", ""), Codec::Png, &[&bytes]).is_ok());
}

#[test]
fn a_thumbnail_is_made_beside_the_picture_when_asked_for() {
    let (provenance, pixels) = (provenance("a", ""), smooth());
    for codec in CODECS {
        let alone = written(&provenance, codec, &[&pixels]).unwrap();
        assert!(alone.thumbnail.is_none());
        let mut rows = pixels.chunks(ROW).map(<[u8]>::to_vec);
        let both = write(&provenance, Encoding { codec, thumbnail: true }, || rows.next()).unwrap();
        assert!(both.file == alone.file, "{codec:?}");
        let small = super::pixels(&both.thumbnail.unwrap()).unwrap();
        assert_eq!((small.width, small.height), (256, 172));
    }
}

#[test]
fn no_picture_is_larger_than_its_largest_file() {
    let codecs = [Codec::Png, Codec::Jpeg(100), Codec::WebP(100), Codec::WebPLossless];
    for (width, height) in [(1, 1), (5, 3), (17, 33), (300, 200), (1024, 700)] {
        let picture = Provenance { width, height, ..provenance(&"🐻\0".repeat(3000), "\n") };
        let mut noise = noise();
        let grey: Vec<u8> = (0..width * height * 3).map(|_| noise()).collect();
        let hard: Vec<u8> = grey.iter().map(|value| if *value < 128 { 0 } else { 255 }).collect();
        for codec in codecs {
            let largest = largest_file(&picture, encoding(codec));
            for pixels in [&grey, &hard] {
                let file = written(&picture, codec, &[pixels]).unwrap().file;
                let length = file.len() as u64;
                assert!(length <= largest, "{codec:?} {width}x{height}: {length} > {largest}");
                assert_eq!(read(&file).unwrap(), picture);
            }
        }
    }
}

#[test]
fn only_whole_pictures_are_read() {
    for codec in CODECS {
        let file = file(&provenance("a", ""), codec);
        assert!(read(&file).is_ok());
        let ends = (0..file.len()).step_by(101).chain([file.len() - 13, file.len() - 2, file.len() - 1]);
        for end in ends {
            assert!(read(&file[..end]).is_err(), "{codec:?} cut at {end} of {}", file.len());
            assert!(pixels(&file[..end]).is_err(), "{codec:?} cut at {end} of {}", file.len());
        }
        // Cut and filled up, so that its length or its end is right.
        let mut filled = file.clone();
        let middle = file.len() / 2;
        filled[middle..file.len() - 2].fill(0);
        if codec == Codec::Png {
            assert!(read(&filled).is_err());
        }
    }
}

#[test]
fn flipped_bits_are_noticed_in_png_and_break_no_reader() {
    for codec in CODECS {
        let file = file(&provenance("a", ""), codec);
        for at in (0..file.len()).step_by(97) {
            let mut flipped = file.clone();
            flipped[at] ^= 0x10;
            let (found, _) = (read(&flipped), pixels(&flipped));
            assert!(found.is_err() || codec != Codec::Png, "a flipped bit at {at} of {}", file.len());
        }
    }
}

#[test]
fn files_of_others_are_told_from_ours() {
    assert!(matches!(read(b"a text"), Err(Unreadable::Format)));
    assert!(matches!(read(b""), Err(Unreadable::Format)));
    for (codec, format) in CODECS.into_iter().zip(["PNG", "JPEG", "JPEG", "WebP", "WebP", "WebP"]) {
        let ours = file(&provenance("a", ""), codec);
        assert_eq!(Format::of(&ours).unwrap().name(), format);
        assert_eq!(encoding(codec).format().name(), format);
        // Of another size than the recipe says, as after a resize.
        let other = Provenance { width: 201, height: 300, ..provenance("a", "") };
        let file = file(&other, codec);
        assert_eq!(read(&file).unwrap(), other);
        let at = |file: &[u8], text: &[u8]| file.windows(text.len()).position(|window| window == text);
        if let Some(at) = at(&file, b"\"width\":201") {
            let mut lying = file.clone();
            lying[at + 8..at + 11].copy_from_slice(b"202");
            let error = read(&lying).unwrap_err();
            match codec {
                Codec::Png => assert!(matches!(error, Unreadable::Broken(Format::Png, _)), "{error}"),
                _ => assert!(matches!(error, Unreadable::WrongSize), "{codec:?}: {error}"),
            }
        } else {
            panic!("{codec:?}: the recipe is not there as text");
        }
    }
    let mut plain = Vec::new();
    let encoder = jpeg_encoder::Encoder::new(&mut plain, 90);
    encoder.encode(&[1, 2, 3, 4, 5, 6], 2, 1, jpeg_encoder::ColorType::Rgb).unwrap();
    assert!(matches!(read(&plain), Err(Unreadable::NoRecipe)));
    assert_eq!(pixels(&plain).unwrap().width, 2);
    let absent = read_file(Path::new("/absent/picture.png")).unwrap_err();
    assert!(matches!(absent, Unreadable::File(_)), "{absent}");
}

#[test]
fn a_recipe_that_fits_no_segment_of_a_jpeg_is_cut_into_several() {
    let of = |letters: &str| provenance(&letters.repeat((16 << 10) / letters.len()), "");
    assert_eq!(xmp::segments(&of("x")).len(), 1);
    let segments = xmp::segments(&of("\0"));
    assert!(segments.len() > 2, "{}", segments.len());
    assert!(segments.iter().all(|segment| segment.len() <= 65_533));
    // The packet names its extension.
    let guid = &segments[1][35..67];
    assert!(segments[0].windows(32).any(|window| window == guid));
    assert!(xmp::recipe(&segments[0][29..]).is_none());
}

#[test]
fn a_png_has_its_texts_before_its_pixels_in_the_narrowest_chunk() {
    for prompt in ["plain", "ein Bär", "赤い熊 🐻", "a\0zero"] {
        let file = file(&provenance(prompt, prompt), Codec::Png);
        let is_latin = prompt.chars().all(|letter| u32::from(letter) < 256);
        for (kind, keyword, text) in png::texts(&file) {
            assert_eq!(kind, if is_latin { "tEXt" } else { "iTXt" }, "{keyword} of {prompt:?}");
            assert!(!text.contains('\0'));
        }
        let at = |name: &[u8]| file.windows(4).position(|window| window == name);
        assert!(at(b"tEXt").or(at(b"iTXt")) < at(b"IDAT"));
    }
}

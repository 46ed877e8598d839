//! Pictures as any other program reads them.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{database, files_below, wait_until};

/// A PNG file.
pub struct Picture {
    pub width: u32,
    pub height: u32,
    pub rgb: Vec<u8>,
    /// Text chunks by keyword.
    pub texts: BTreeMap<String, String>,
}

/// Decodes a PNG file whole.
pub fn read(path: &Path) -> Picture {
    let file = std::io::BufReader::new(std::fs::File::open(path).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
    let frame = reader.next_frame(&mut rgb).unwrap();
    assert_eq!((frame.color_type, frame.bit_depth), (png::ColorType::Rgb, png::BitDepth::Eight));
    reader.finish().unwrap();
    let info = reader.info();
    let plain = info.uncompressed_latin1_text.iter().map(|chunk| (chunk.keyword.clone(), chunk.text.clone()));
    let unicode = info.utf8_text.iter().map(|chunk| (chunk.keyword.clone(), chunk.get_text().unwrap()));
    let texts = plain.chain(unicode).collect();
    Picture { width: frame.width, height: frame.height, rgb, texts }
}

impl Picture {
    /// What is needed to render it again.
    pub fn recipe(&self) -> Value {
        serde_json::from_str(&self.texts["sanafarm"]).unwrap()
    }
}

/// SHA-256 of a file in hex.
pub fn sha256(path: &Path) -> String {
    let digest = Sha256::digest(std::fs::read(path).unwrap());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Every image of the only job is done, once, its file is what the database says, and the output holds
/// nothing else than these files, the manifest and the metadata.
#[track_caller]
pub fn assert_whole(database: &Path, output: &Path, images: usize) {
    let sql = "select object || ' ' || sha256 from audit_images where state = 'done' order by object";
    let rows = database::texts(database, sql);
    assert_eq!(rows.len(), images);
    let all =
        database::texts(database, "select cast(image_index as text) from audit_images order by image_index");
    assert_eq!(all, (0..images).map(|index| index.to_string()).collect::<Vec<_>>());
    assert_stored(output, rows.iter().map(String::as_str));
}

/// An output holds these pictures, each told as its name and its checksum, the files about them, and nothing
/// else.
#[track_caller]
pub fn assert_stored<'a>(output: &Path, pictures: impl Iterator<Item = &'a str>) {
    let own = ["README.md", "manifest.parquet", "manifests/part-000000.parquet", "metadata.jsonl"];
    let mut wanted: Vec<String> = own.map(str::to_owned).to_vec();
    for picture in pictures {
        let (object, sum) = picture.split_once(' ').unwrap();
        assert_eq!(sha256(&output.join(object)), sum, "{object}");
        read(&output.join(object));
        wanted.push(object.to_owned());
    }
    wanted.sort();
    // What somebody is just writing, such as a picture that is there already, has no name yet.
    wait_until("what is being written", || !files_below(output).iter().any(|name| name.ends_with(".part")));
    assert_eq!(files_below(output), wanted);
}

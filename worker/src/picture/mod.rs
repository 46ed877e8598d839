//! Picture files that carry their recipe: PNG, JPEG and WebP, written row by row and read back whole.
//!
//! - [`read`] and [`read_file`] give the recipe of a picture after they have decoded every pixel of it.
//! - [`recipe`] gives it after a look at the head of the file alone.
//! - [`pixels`] gives the pixels, to compare two pictures.
//! - [`write()`] makes a file of rows as they come.
//! - [`Provenance`] is the recipe: all that is needed to render the picture again.
//!
//! Galleries find the text that Automatic1111 writes where they look for it: in a text chunk of a PNG, in EXIF's
//! `UserComment` of a JPEG or WebP. The recipe stands beside it as JSON: in the text chunk `sanafarm` of a PNG, as the
//! property `sanafarm:recipe` of the XMP packet of a JPEG or WebP (ADR 16 in `docs/adr`).

use std::io;
use std::path::Path;

use sana::size::MAX_SIDE;
use sha2::{Digest, Sha256};

pub use crate::recipe::Provenance;

mod encoding;
mod exif;
mod jpeg;
mod parameters;
mod png;
mod quality;
mod rows;
mod thumbnail;
mod webp;
mod write;
mod xmp;

#[cfg(test)]
mod tests;

pub use encoding::{Codec, Encoding};
pub use quality::Quality;
pub(crate) use write::largest_file;
pub use write::{WriteError, Written, write};

/// Kind of a picture file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Lossless, with a checksum for every part.
    Png,
    /// Lossy, without checksums.
    Jpeg,
    /// Lossy or lossless, without checksums.
    WebP,
}

impl Format {
    /// What a file says that it is with its first bytes.
    pub fn of(file: &[u8]) -> Option<Self> {
        match file {
            [0x89, b'P', b'N', b'G', ..] => Some(Self::Png),
            [0xff, 0xd8, 0xff, ..] => Some(Self::Jpeg),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Self::WebP),
            _ => None,
        }
    }

    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Png => "PNG",
            Self::Jpeg => "JPEG",
            Self::WebP => "WebP",
        }
    }
}

/// Why a file is not a whole picture of ours.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// The file cannot be read from its disk.
    #[error("{0}")]
    File(#[from] io::Error),
    /// Its first bytes are of something else.
    #[error("it is no PNG, JPEG or WebP file")]
    Format,
    /// It is cut, altered, or of a variant that is not written here.
    #[error("it is no whole {format} file: {why}", format = .0.name(), why = .1)]
    Broken(Format, String),
    /// A whole picture of somebody else.
    #[error("it carries no recipe")]
    NoRecipe,
    /// Its recipe is of another version of the program, or altered.
    #[error("its recipe cannot be read: {0}")]
    BadRecipe(#[from] serde_json::Error),
    /// It was resized or converted since it was written.
    #[error("its recipe does not fit its pixels")]
    WrongSize,
}

/// The pixels of a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Pixels {
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// Red, green and blue of each pixel, rows from the top.
    pub rgb: Vec<u8>,
}

/// Reads every pixel of a picture and gives its recipe: a file that passes is whole.
///
/// A changed bit is told in a PNG. JPEG and WebP have no checksums: there a changed pixel can pass, a missing one
/// cannot. Blocks for as long as decoding takes.
pub fn read(file: &[u8]) -> Result<Provenance, Unreadable> {
    let format = Format::of(file).ok_or(Unreadable::Format)?;
    match format {
        Format::Png => png::read(file),
        Format::Jpeg => whole(jpeg::open(file)?),
        Format::WebP => whole(webp::open(file)?),
    }
}

/// The recipe of a picture of which no pixel is looked at: what passes may be cut or altered all the same.
pub fn recipe(file: &[u8]) -> Result<Provenance, Unreadable> {
    let format = Format::of(file).ok_or(Unreadable::Format)?;
    match format {
        Format::Png => png::recipe(file),
        Format::Jpeg => told(&mut jpeg::open(file)?),
        Format::WebP => told(&mut webp::open(file)?),
    }
}

/// As [`read`], of a file on a disk.
pub fn read_file(path: &Path) -> Result<Provenance, Unreadable> {
    read(&std::fs::read(path)?)
}

/// Decodes a picture, with a recipe or without.
pub fn pixels(file: &[u8]) -> Result<Pixels, Unreadable> {
    let format = Format::of(file).ok_or(Unreadable::Format)?;
    match format {
        Format::Png => png::pixels(file),
        Format::Jpeg => jpeg::open(file)?.pixels(),
        Format::WebP => webp::open(file)?.pixels(),
    }
}

/// A file whose header has been read.
trait Opened {
    fn size(&self) -> (u32, u32);

    /// The XMP packet that holds the recipe.
    fn packet(&mut self) -> Result<Option<Vec<u8>>, Unreadable>;

    fn pixels(self) -> Result<Pixels, Unreadable>;
}

fn whole(mut file: impl Opened) -> Result<Provenance, Unreadable> {
    // Before the pixels: a foreign file is not worth its decoding.
    let provenance = told(&mut file)?;
    file.pixels()?;
    Ok(provenance)
}

fn told(file: &mut impl Opened) -> Result<Provenance, Unreadable> {
    let json = file.packet()?.and_then(|packet| xmp::recipe(&packet)).ok_or(Unreadable::NoRecipe)?;
    fitting(&json, file.size())
}

/// The recipe in `json`, of a picture of that size.
fn fitting(json: &str, size: (u32, u32)) -> Result<Provenance, Unreadable> {
    let provenance: Provenance = serde_json::from_str(json)?;
    if size == (provenance.width, provenance.height) { Ok(provenance) } else { Err(Unreadable::WrongSize) }
}

/// Room for the pixels of a file that says it is so large.
fn room(format: Format, (width, height): (u32, u32)) -> Result<Vec<u8>, Unreadable> {
    if width > MAX_SIDE || height > MAX_SIDE {
        let why = format!("{width}x{height} is larger than any picture of ours");
        return Err(Unreadable::Broken(format, why));
    }
    Ok(vec![0; width as usize * height as usize * 3])
}

/// Checksum of a file, in hex.
pub(crate) fn sha256(file: &[u8]) -> String {
    hex::encode(Sha256::digest(file))
}

//! The text for galleries as EXIF, where Automatic1111 puts it in JPEG and WebP.

use std::io::Cursor;

use exif::experimental::Writer;
use exif::{Error, Field, In, Tag, Value};

/// Bytes of a comment at most for its own tag and its neighbours to fit a segment of a JPEG.
const COMMENT_BYTES: usize = 65_000;

/// EXIF with the text as its `UserComment`.
pub(super) fn exif(text: &str) -> Result<Vec<u8>, Error> {
    let field = |tag, bytes| Field { tag, ifd_num: In::PRIMARY, value: Value::Undefined(bytes, 0) };
    let version = field(Tag::ExifVersion, b"0232".to_vec());
    let comment = field(Tag::UserComment, comment(text));
    let mut writer = Writer::new();
    writer.push_field(&version);
    writer.push_field(&comment);
    let mut bytes = Vec::new();
    writer.write(&mut Cursor::new(&mut bytes), false)?;
    Ok(bytes)
}

/// In UTF-16 as Automatic1111 writes it. The longest prompts of Latin letters would not fit: these stand in UTF-8 as a
/// comment of undefined encoding, which it reads too.
fn comment(text: &str) -> Vec<u8> {
    let mut bytes = b"UNICODE\0".to_vec();
    bytes.extend(text.encode_utf16().flat_map(u16::to_be_bytes));
    if bytes.len() > COMMENT_BYTES {
        bytes = [&[0; 8], text.as_bytes()].concat();
    }
    bytes
}

//! Rows in the binary format of `COPY`, by far the quickest way in.
//!
//! A header, then each row as its number of fields and each field as its length and its bytes, then a trailer
//! (PostgreSQL documentation, COPY, "Binary Format").

use sqlx::PgConnection;

use crate::store::Result;

/// Signature, flags and length of the header's extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// Bytes sent at a time.
const PART: usize = 256 << 10;

/// Rows of one table on their way in. Each has the fields that were named, in their order.
#[derive(Debug)]
pub(super) struct Rows {
    fields: i16,
    bytes: Vec<u8>,
}

impl Rows {
    /// Room for rows with so many fields.
    pub fn new(fields: i16) -> Self {
        Self { fields, bytes: HEADER.to_vec() }
    }

    /// Begins the next row.
    pub fn row(&mut self) {
        self.bytes.extend(self.fields.to_be_bytes());
    }

    /// A bigint.
    pub fn big(&mut self, value: i64) {
        self.field(&value.to_be_bytes());
    }

    /// An integer.
    pub fn integer(&mut self, value: i32) {
        self.field(&value.to_be_bytes());
    }

    /// A smallint.
    pub fn small(&mut self, value: i16) {
        self.field(&value.to_be_bytes());
    }

    /// A boolean.
    pub fn boolean(&mut self, value: bool) {
        self.field(&[u8::from(value)]);
    }

    /// A text, or a json, whose binary form is its text.
    pub fn text(&mut self, value: &str) {
        self.field(value.as_bytes());
    }

    /// The same, or null.
    pub fn optional_text(&mut self, value: Option<&str>) {
        match value {
            Some(text) => self.text(text),
            None => self.null(),
        }
    }

    /// Nothing.
    pub fn null(&mut self) {
        self.bytes.extend((-1i32).to_be_bytes());
    }

    fn field(&mut self, bytes: &[u8]) {
        let length = i32::try_from(bytes.len()).expect("no text of a prompt list has 2 GiB");
        self.bytes.extend(length.to_be_bytes());
        self.bytes.extend(bytes);
    }

    /// Sends them; `statement` is a `COPY .. FROM STDIN (FORMAT binary)`.
    pub async fn send(mut self, db: &mut PgConnection, statement: &str) -> Result<()> {
        self.bytes.extend((-1i16).to_be_bytes());
        let mut copy = db.copy_in_raw(statement).await?;
        for part in self.bytes.chunks(PART) {
            copy.send(part).await?;
        }
        copy.finish().await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_its_fields_with_their_lengths() {
        let mut rows = Rows::new(4);
        rows.row();
        rows.big(7);
        rows.small(-1);
        rows.optional_text(None);
        rows.text("ü");
        let expected = [
            HEADER,
            &[0, 4],
            &[0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 7],
            &[0, 0, 0, 2, 255, 255],
            &[255; 4],
            &[0, 0, 0, 2, 0xc3, 0xbc],
        ];
        assert_eq!(rows.bytes, expected.concat());
        assert_eq!(HEADER.len(), 19);
    }
}

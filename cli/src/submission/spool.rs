//! The rows of a list, checked and encoded, in a nameless file: a list is read once, whatever it is read from, and
//! never held whole.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::Path;

use prost::Message;
use sanafarm_proto::v1::{PromptBatch, PromptRow};
use sha2::{Digest, Sha256};

use crate::error::Error;

/// Rows of a batch.
const BATCH_ROWS: u32 = 1000;
/// A batch is full when its rows weigh this much. With the longest row on top it stays far below the
/// 4 MiB that gRPC takes by default.
const BATCH_BYTES: usize = 1 << 20;
/// Bytes that are written at a time.
const BUFFER: usize = 1 << 20;

/// Rows in batches, as they are sent.
#[derive(Debug)]
pub struct Spool {
    file: File,
    /// How many rows there are.
    pub rows: u64,
    /// A checksum over what the rows say, in hex. Line numbers are no part of it: a blank line more changes no
    /// picture.
    pub content_sha256: String,
}

/// Takes rows in.
pub struct Writer {
    file: BufWriter<File>,
    place: String,
    rows: u64,
    content: Sha256,
    batch: Vec<u8>,
    batch_rows: u32,
}

impl Writer {
    /// Makes the file, which is gone when the process is, however it ends.
    pub fn new(folder: &Path) -> Result<Self, Error> {
        let place = folder.display().to_string();
        let file = tempfile::tempfile_in(folder).map_err(|error| unwritable(&place, &error))?;
        let file = BufWriter::with_capacity(BUFFER, file);
        let content = Sha256::new();
        Ok(Self { file, place, rows: 0, content, batch: Vec::new(), batch_rows: 0 })
    }

    /// Adds a row. Its protobuf encoding is the same for the same content: it has no maps.
    pub fn add(&mut self, row: &PromptRow) -> Result<(), Error> {
        let bytes = row.encoded_len();
        self.batch.reserve(bytes + prost::length_delimiter_len(bytes));
        row.encode_length_delimited(&mut self.batch).map_err(|error| unwritable(&self.place, &error))?;
        // The line stands last, as fields are encoded in the order of their numbers.
        let line = PromptRow { line: row.line, ..PromptRow::default() }.encoded_len();
        let start = self.batch.len() - bytes;
        self.content.update((bytes - line).to_le_bytes());
        self.content.update(&self.batch[start..start + bytes - line]);
        self.rows += 1;
        self.batch_rows += 1;
        if self.batch_rows >= BATCH_ROWS || self.batch.len() >= BATCH_BYTES {
            self.write_batch().map_err(|error| unwritable(&self.place, &error))?;
        }
        Ok(())
    }

    /// Ends the file.
    pub fn finish(mut self) -> Result<Spool, Error> {
        let written =
            self.write_batch().and_then(|()| self.file.into_inner().map_err(|error| error.into_error()));
        let file = written.map_err(|error| unwritable(&self.place, &error))?;
        Ok(Spool { file, rows: self.rows, content_sha256: hex::encode(self.content.finalize()) })
    }

    /// A batch follows its number of rows and its length.
    fn write_batch(&mut self) -> io::Result<()> {
        if self.batch_rows == 0 {
            return Ok(());
        }
        let bytes = u32::try_from(self.batch.len()).map_err(io::Error::other)?;
        self.file.write_all(&self.batch_rows.to_le_bytes())?;
        self.file.write_all(&bytes.to_le_bytes())?;
        self.file.write_all(&self.batch)?;
        self.batch.clear();
        self.batch_rows = 0;
        Ok(())
    }
}

impl Spool {
    /// All batches from the first on. Two readers at the same time would share one position.
    pub fn batches(&mut self) -> Result<Batches, Error> {
        let file = self.file.rewind().and_then(|()| self.file.try_clone());
        let file = file.map_err(|error| unreadable(&error))?;
        Ok(Batches { file: BufReader::with_capacity(BUFFER, file), left: self.rows, buffer: Vec::new() })
    }
}

/// The reading of a spool.
pub struct Batches {
    file: BufReader<File>,
    left: u64,
    buffer: Vec<u8>,
}

impl Batches {
    fn read(&mut self) -> io::Result<PromptBatch> {
        let (rows, bytes) = (self.number()?, self.number()?);
        self.buffer.resize(bytes as usize, 0);
        self.file.read_exact(&mut self.buffer)?;
        let mut rest = self.buffer.as_slice();
        let row = |_| PromptRow::decode_length_delimited(&mut rest).map_err(io::Error::other);
        let rows: Vec<PromptRow> = (0..rows).map(row).collect::<io::Result<_>>()?;
        self.left = self.left.saturating_sub(rows.len() as u64);
        Ok(PromptBatch { rows })
    }

    fn number(&mut self) -> io::Result<u32> {
        let mut bytes = [0; 4];
        self.file.read_exact(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }
}

impl Iterator for Batches {
    type Item = Result<PromptBatch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        (self.left > 0).then(|| self.read().map_err(|error| unreadable(&error)))
    }
}

fn unwritable(folder: &str, error: &(dyn std::error::Error + 'static)) -> Error {
    Error::mistake(format!("copy the list to a temporary file in {folder}"))
        .caused_by(error)
        .hint("free some space there, or name another folder with --data")
}

fn unreadable(error: &(dyn std::error::Error + 'static)) -> Error {
    Error::failure("read the temporary copy of the list").caused_by(error)
}

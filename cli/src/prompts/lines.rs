//! Lines of a text file, one at a time, with their numbers.

use std::io::{BufRead, Read};

use super::Error;

/// Longest line that is read, in bytes: what a batch of rows may weigh on the wire follows from it.
pub const MAX_LINE: usize = 1 << 20;

/// Reads lines and says what is wrong with them in the words of the list.
pub struct Lines {
    reader: Box<dyn BufRead + Send>,
    list: String,
    number: u64,
    /// The line read last, without its end and without a byte order mark.
    line: String,
}

impl Lines {
    /// Starts before the first line of the list called `list`.
    pub fn new(reader: Box<dyn BufRead + Send>, list: &str) -> Self {
        Self { reader, list: list.to_owned(), number: 0, line: String::new() }
    }

    /// Number of the line read last, counted from 1.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The line read last.
    pub fn line(&self) -> &str {
        &self.line
    }

    /// Reads the next line; false after the last. After an [`Error::Line`] the next one can be read.
    pub fn next_line(&mut self) -> Result<bool, Error> {
        let mut bytes = std::mem::take(&mut self.line).into_bytes();
        bytes.clear();
        let read = self.read_until_newline(&mut bytes, MAX_LINE + 1)?;
        if read == 0 {
            return Ok(false);
        }
        self.number += 1;
        let ended = bytes.pop_if(|byte| *byte == b'\n').is_some();
        if !ended && read > MAX_LINE {
            self.skip_to_newline(bytes)?;
            return Err(self.error(format!("longer than {} KiB", MAX_LINE / 1024)));
        }
        bytes.pop_if(|byte| *byte == b'\r');
        if self.number == 1 && bytes.starts_with(b"\xef\xbb\xbf") {
            bytes.drain(..3);
        }
        self.line = String::from_utf8(bytes).map_err(|error| {
            self.error(format!("not UTF-8 at byte {}", error.utf8_error().valid_up_to() + 1))
        })?;
        Ok(true)
    }

    /// Reads on to the next line that holds more than spaces; false when there is none.
    pub fn next_filled(&mut self) -> Result<bool, Error> {
        while self.next_line()? {
            if !self.line.trim().is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// An error of the line read last.
    pub fn error(&self, what: impl Into<String>) -> Error {
        self.error_at(self.number, what)
    }

    /// An error of a row that begins in an earlier line and ends in the line read last.
    pub fn error_at(&self, line: u64, what: impl Into<String>) -> Error {
        Error::Line { list: self.list.clone(), line, last: self.number, what: what.into() }
    }

    /// An error of the whole list.
    pub fn list_error(&self, what: impl Into<String>) -> Error {
        Error::List { list: self.list.clone(), what: what.into() }
    }

    fn read_until_newline(&mut self, bytes: &mut Vec<u8>, at_most: usize) -> Result<usize, Error> {
        let result = self.reader.by_ref().take(at_most as u64).read_until(b'\n', bytes);
        result.map_err(|source| Error::Read { list: self.list.clone(), source })
    }

    fn skip_to_newline(&mut self, mut bytes: Vec<u8>) -> Result<(), Error> {
        loop {
            bytes.clear();
            let read = self.read_until_newline(&mut bytes, MAX_LINE)?;
            if read == 0 || bytes.last() == Some(&b'\n') {
                return Ok(());
            }
        }
    }
}

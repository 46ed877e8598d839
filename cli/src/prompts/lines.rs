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
    buffer: Vec<u8>,
    /// A read failed: nothing more will come.
    broken: bool,
}

impl Lines {
    /// Starts before the first line of the list called `list`.
    pub fn new(reader: Box<dyn BufRead + Send>, list: &str) -> Self {
        Self { reader, list: list.to_owned(), number: 0, buffer: Vec::new(), broken: false }
    }

    /// Number of the line read last, counted from 1.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The next line without its end and without a byte order mark; `None` after the last.
    pub fn next_line(&mut self) -> Result<Option<String>, Error> {
        if self.broken {
            return Ok(None);
        }
        self.buffer.clear();
        let read = self.read_until_newline(MAX_LINE + 1)?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        let ended = self.buffer.pop_if(|byte| *byte == b'\n').is_some();
        if !ended && read > MAX_LINE {
            self.skip_to_newline()?;
            return Err(self.error(format!("longer than {} KiB", MAX_LINE / 1024)));
        }
        self.buffer.pop_if(|byte| *byte == b'\r');
        let mut bytes = self.buffer.as_slice();
        if self.number == 1 {
            bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        }
        match str::from_utf8(bytes) {
            Ok(line) => Ok(Some(line.to_owned())),
            Err(error) => Err(self.error(format!("not UTF-8 at byte {}", error.valid_up_to() + 1))),
        }
    }

    /// The next line that holds more than spaces.
    pub fn next_filled(&mut self) -> Result<Option<String>, Error> {
        loop {
            match self.next_line()? {
                Some(line) if line.trim().is_empty() => {}
                line => return Ok(line),
            }
        }
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

    fn read_until_newline(&mut self, at_most: usize) -> Result<usize, Error> {
        let result = self.reader.by_ref().take(at_most as u64).read_until(b'\n', &mut self.buffer);
        result.map_err(|source| {
            self.broken = true;
            Error::Read { list: self.list.clone(), source }
        })
    }

    fn skip_to_newline(&mut self) -> Result<(), Error> {
        loop {
            self.buffer.clear();
            let read = self.read_until_newline(MAX_LINE)?;
            if read == 0 || self.buffer.last() == Some(&b'\n') {
                return Ok(());
            }
        }
    }
}

//! Lists on other machines, read where blocking is allowed.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use sanafarm_storage::{Error, Input, Reading};
use tokio::runtime::Handle;

/// An object that streams in.
pub struct Download {
    input: Input,
    reading: Reading,
    chunk: Bytes,
    runtime: Handle,
}

impl Download {
    /// Asks for the object. To be called within the async runtime, where blocking is allowed.
    pub fn start(input: &Input) -> io::Result<Self> {
        let runtime = Handle::current();
        let reading = runtime.block_on(input.read()).map_err(|error| unread(input, error))?;
        Ok(Self { input: input.clone(), reading, chunk: Bytes::new(), runtime })
    }
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.runtime.block_on(self.reading.next()).map_err(|error| unread(&self.input, error))? {
                Some(chunk) => self.chunk = chunk,
                None => return Ok(0),
            }
        }
        let bytes = self.chunk.len().min(buffer.len());
        self.chunk.copy_to_slice(&mut buffer[..bytes]);
        Ok(bytes)
    }
}

/// Why an object could not be read, with what to try.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
struct Unread {
    error: Error,
    advice: &'static str,
}

fn unread(input: &Input, error: Error) -> io::Error {
    io::Error::other(Unread { error, advice: input.advice() })
}

/// What to try, when the error is of an object.
pub fn advice(error: &io::Error) -> Option<&'static str> {
    let unread = error.get_ref().and_then(|inner| inner.downcast_ref::<Unread>());
    unread.map(|unread| unread.advice)
}

//! Outputs that were written before, opened to be looked at.

use std::io::{self, Read};
use std::path::Path;

use bytes::Bytes;
use sanafarm_storage::{Output, Reading};
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;

use crate::error::Error;
use crate::submission::blocking;

/// Opens an output; a folder that is not there is a mistake and is not made.
pub async fn open(place: &str) -> Result<Output, Error> {
    let folder = if place.contains("://") { place.strip_prefix("file://") } else { Some(place) };
    if folder.is_some_and(|folder| !Path::new(folder).is_dir()) {
        return Err(Error::mistake(format!("there is no output folder {place} on this machine"))
            .hint("run this where the folder is, or name it as it is seen from here with --output"));
    }
    let name = place.to_owned();
    let opened = blocking(move || Output::open(&name)).await?;
    opened.map_err(|error| storage_error(format!("open output {place}"), &error))
}

/// What an error of an output means for a command.
pub fn storage_error(what: impl Into<String>, error: &sanafarm_storage::Error) -> Error {
    let told = match error {
        sanafarm_storage::Error::Denied(_)
        | sanafarm_storage::Error::Invalid(_)
        | sanafarm_storage::Error::NotFound(_) => Error::mistake(what),
        sanafarm_storage::Error::Full(_) | sanafarm_storage::Error::Unavailable(_) => Error::failure(what),
    };
    told.caused_by(error).hint(error.hint())
}

/// Bytes of an object as they come, for a thread that may wait; counted and hashed on their way.
pub struct Incoming {
    reading: Reading,
    runtime: Handle,
    chunk: Bytes,
    hash: Sha256,
    bytes: u64,
    failure: Option<sanafarm_storage::Error>,
}

impl Incoming {
    /// To be made on the runtime, and read anywhere else.
    pub fn new(reading: Reading) -> Self {
        let runtime = Handle::current();
        Self { reading, runtime, chunk: Bytes::new(), hash: Sha256::new(), bytes: 0, failure: None }
    }

    /// How many bytes came, and their hash; an error when the output could not be read any further.
    pub fn finish(self) -> Result<(u64, String), sanafarm_storage::Error> {
        match self.failure {
            Some(failure) => Err(failure),
            None => Ok((self.bytes, hex::encode(self.hash.finalize()))),
        }
    }
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.runtime.block_on(self.reading.next()) {
                Ok(Some(chunk)) => {
                    self.hash.update(&chunk);
                    self.bytes += chunk.len() as u64;
                    self.chunk = chunk;
                }
                Ok(None) => return Ok(0),
                Err(error) => {
                    let told = io::Error::other(error.to_string());
                    self.failure = Some(error);
                    return Err(told);
                }
            }
        }
        let length = buffer.len().min(self.chunk.len());
        buffer[..length].copy_from_slice(&self.chunk.split_to(length));
        Ok(length)
    }
}

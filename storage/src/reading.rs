//! Objects on their way to us.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt;

use crate::Error;

/// Bytes read or hashed at a time.
const CHUNK: usize = 1 << 20;

/// An object on its way, in constant memory.
pub struct Reading {
    bytes: u64,
    chunks: BoxStream<'static, Result<Bytes, Error>>,
}

impl Reading {
    pub(crate) fn new(bytes: u64, chunks: impl Stream<Item = Result<Bytes, Error>> + Send + 'static) -> Self {
        Self { bytes, chunks: chunks.boxed() }
    }

    /// How many bytes the object has.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next bytes; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        self.chunks.next().await.transpose()
    }

    /// Reads it through.
    pub(crate) async fn digest(mut self) -> Result<Digest, Error> {
        let mut bytes = 0;
        let mut hash = Sha256::new();
        let mut waiting = Vec::new();
        let mut length = 0;
        loop {
            let chunk = self.next().await?;
            let ended = chunk.is_none();
            length += chunk.as_ref().map_or(0, Bytes::len);
            waiting.extend(chunk);
            if !ended && length < CHUNK {
                continue;
            }
            bytes += length as u64;
            let chunks = std::mem::take(&mut waiting);
            length = 0;
            let hashed = tokio::task::spawn_blocking(move || {
                chunks.iter().for_each(|chunk| hash.update(chunk));
                hash
            });
            hash = hashed.await.map_err(|error| Error::Unavailable(format!("hash an object: {error}")))?;
            if ended {
                let sha256 = hex::encode(hash.finalize());
                return Ok(Digest { bytes, sha256 });
            }
        }
    }
}

impl Stream for Reading {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.chunks.poll_next_unpin(context)
    }
}

/// What an object holds, in short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, in lower-case hex.
    pub sha256: String,
}

/// A local file in chunks.
pub(crate) fn file_chunks(
    file: tokio::fs::File,
    chunk: usize,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    futures::stream::try_unfold(file, move |mut file| async move {
        let mut read = BytesMut::with_capacity(chunk);
        let length = file.read_buf(&mut read).await?;
        Ok((length > 0).then(|| (read.freeze(), file)))
    })
}

/// An open file as an object; `doing` says what its errors interrupt.
pub(crate) fn read_file(file: std::fs::File, bytes: u64, doing: String) -> Reading {
    let chunks = file_chunks(tokio::fs::File::from_std(file), CHUNK);
    Reading::new(bytes, chunks.map(move |chunk| chunk.map_err(|error| Error::from_io(&doing, &error))))
}

/// Opens a local file that is to be sent, and its size.
pub(crate) async fn open_source(file: &Path) -> Result<(tokio::fs::File, u64), Error> {
    let opened = async {
        let opened = tokio::fs::File::open(file).await?;
        let bytes = opened.metadata().await?.len();
        Ok((opened, bytes))
    };
    opened.await.map_err(|error: io::Error| Error::from_io(&format!("read {}", file.display()), &error))
}

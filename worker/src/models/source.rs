//! Where a model comes from, as the cache sees it.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use super::Error;

/// A place that can list a model's files and hand them out.
#[async_trait]
pub(super) trait Source: Send + Sync {
    /// What is there now.
    async fn survey(&self) -> Result<Survey, Error>;

    /// The bytes of a file from `offset` on, or all of them where the server cannot start in the middle.
    async fn read(&self, version: &str, file: &RemoteFile, offset: u64) -> Result<Reading, Error>;
}

/// What a place holds.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Survey {
    /// Changes whenever a file does: the commit, or a hash over the listing.
    pub(super) version: String,
    pub(super) files: Vec<RemoteFile>,
}

/// A file and what the place promises about it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct RemoteFile {
    /// Relative to the model, with `/` between folders.
    pub(super) name: String,
    pub(super) bytes: Option<u64>,
    /// In hex.
    pub(super) sha256: Option<String>,
    /// When it was written, in seconds since 1970, and the source's own mark of it.
    pub(super) stamp: Option<(u64, Option<String>)>,
}

impl RemoteFile {
    /// Whether two halves that were read at different times surely belong to the same file.
    pub(super) fn is_told_apart(&self) -> bool {
        self.sha256.is_some() || self.stamp.is_some()
    }
}

/// A file on its way.
pub(super) struct Reading {
    /// Where the bytes begin: as asked, or at 0.
    pub(super) offset: u64,
    pub(super) chunks: BoxStream<'static, Result<Bytes, Error>>,
}

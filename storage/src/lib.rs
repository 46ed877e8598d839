//! Where Sanafarm's pictures go: a folder or an object store.

use std::sync::Arc;

use bytes::Bytes;
use object_store::ObjectStore;

/// Why the output could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something else went wrong.
    #[error("{0}")]
    Other(String),
}

/// The place that a job's pictures are written to.
#[derive(Clone, Debug)]
pub struct Output {
    /// The store below which all names of this output lie.
    pub store: Arc<dyn ObjectStore>,
}

/// What `put_new` found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The object was written.
    Created,
    /// An object of this name was there and was left alone.
    Exists,
}

impl Output {
    /// Opens an output named by a folder path, a `file://` URL or an object-store URL.
    pub fn open(_output: &str) -> Result<Self, Error> {
        todo!()
    }
    /// Writes an object unless there is one of this name already; readers see it whole or not at all.
    pub async fn put_new(&self, _name: &str, _bytes: Bytes) -> Result<Put, Error> {
        todo!()
    }
    /// Writes or replaces an object; readers see the old or the new one, whole.
    pub async fn replace(&self, _name: &str, _bytes: Bytes) -> Result<(), Error> {
        todo!()
    }
    /// Reads an object.
    pub async fn get(&self, _name: &str) -> Result<Option<Bytes>, Error> {
        todo!()
    }
    /// Writes and removes a small object, so that a place that cannot be written is known before work starts.
    pub async fn check_writable(&self) -> Result<(), Error> {
        todo!()
    }
    /// Removes what a killed process was about to give its name; how many objects that were.
    pub async fn sweep_staging(&self) -> Result<u64, Error> {
        todo!()
    }
}

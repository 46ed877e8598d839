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
    pub fn open(output: &str) -> Result<Self, Error> {
        std::fs::create_dir_all(output).map_err(other)?;
        let store = object_store::local::LocalFileSystem::new_with_prefix(output).map_err(other)?;
        Ok(Self { store: Arc::new(store) })
    }
    /// Writes an object unless there is one of this name already; readers see it whole or not at all.
    pub async fn put_new(&self, name: &str, bytes: Bytes) -> Result<Put, Error> {
        let path = object_store::path::Path::parse(name).map_err(other)?;
        let mode = object_store::PutMode::Create.into();
        match self.store.put_opts(&path, bytes.into(), mode).await {
            Ok(_) => Ok(Put::Created),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(Put::Exists),
            Err(error) => Err(other(error)),
        }
    }
    /// Writes or replaces an object; readers see the old or the new one, whole.
    pub async fn replace(&self, name: &str, bytes: Bytes) -> Result<(), Error> {
        let path = object_store::path::Path::parse(name).map_err(other)?;
        self.store.put_opts(&path, bytes.into(), Default::default()).await.map_err(other)?;
        Ok(())
    }
    /// Writes or replaces an object with the content of a local file.
    pub async fn replace_file(&self, name: &str, path: &std::path::Path) -> Result<(), Error> {
        let bytes = tokio::fs::read(path).await.map_err(other)?;
        self.replace(name, bytes.into()).await
    }
    /// Reads an object.
    pub async fn get(&self, name: &str) -> Result<Option<Bytes>, Error> {
        let path = object_store::path::Path::parse(name).map_err(other)?;
        match self.store.get_opts(&path, Default::default()).await {
            Ok(found) => Ok(Some(found.bytes().await.map_err(other)?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(other(error)),
        }
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

fn other(error: impl std::fmt::Display) -> Error {
    Error::Other(error.to_string())
}

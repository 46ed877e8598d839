//! One place for a job's objects.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::prefix::PrefixStore;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use tokio::io::AsyncReadExt;
use url::Url;

use crate::{Error, staging};

/// Bytes of one part of a streamed object; object stores take parts of 5 MiB and more.
const PART_BYTES: usize = 8 << 20;

/// The place that a job's pictures are written to. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Output {
    store: Arc<dyn ObjectStore>,
    /// The folder or the URL, for people.
    place: Arc<str>,
    /// The folder, when the place is one.
    folder: Option<Arc<Path>>,
}

/// What [`Output::put_new`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The object was written.
    Created,
    /// An object of this name was there and was left alone.
    Exists,
}

impl Output {
    /// Opens an output named by a folder path, a `file://` URL or an object-store URL. A folder is made
    /// absolute and created.
    ///
    /// Blocks for some file system calls.
    pub fn open(output: &str) -> Result<Self, Error> {
        if output.is_empty() {
            return Err(Error::Invalid("open output: its name is empty".into()));
        }
        if !output.contains("://") {
            return Self::open_folder(Path::new(output));
        }
        let url =
            Url::parse(output).map_err(|error| Error::Invalid(format!("open output {output}: {error}")))?;
        match url.scheme() {
            "file" => {
                let folder = url.to_file_path().map_err(|()| {
                    Error::Invalid(format!("open output {output}: not a folder on this machine"))
                })?;
                Self::open_folder(&folder)
            }
            "memory" => {
                Err(Error::Invalid(format!("open output {output}: pictures in memory would be lost")))
            }
            _ => Self::open_url(&url),
        }
    }

    fn open_folder(folder: &Path) -> Result<Self, Error> {
        let doing = format!("open output folder {}", folder.display());
        let folder = std::path::absolute(folder).map_err(|error| Error::from_io(&doing, &error))?;
        std::fs::create_dir_all(&folder).map_err(|error| Error::from_io(&doing, &error))?;
        // Durable before the database says that a picture is there: a power cut must not take it back.
        let store = LocalFileSystem::new_with_prefix(&folder)
            .map_err(|error| Error::from_store(&doing, &error))?
            .with_fsync(true);
        Ok(Self {
            store: Arc::new(store),
            place: folder.display().to_string().into(),
            folder: Some(folder.into()),
        })
    }

    fn open_url(url: &Url) -> Result<Self, Error> {
        let (store, prefix) = object_store::parse_url(url).map_err(|error| {
            Error::Invalid(format!(
                "open output {url}: {error}; this version writes to folders, object stores such as S3 come in a \
                 later one"
            ))
        })?;
        Ok(Self {
            store: Arc::new(PrefixStore::new(store, prefix)),
            place: url.as_str().into(),
            folder: None,
        })
    }

    /// The absolute folder or the URL.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The absolute folder, when the output is one.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Writes an object unless there is one of this name already; readers see it whole or not at all, and it
    /// is durable when this returns.
    pub async fn put_new(&self, name: &str, bytes: Bytes) -> Result<Put, Error> {
        let path = object_path(name)?;
        let options = PutOptions::from(PutMode::Create);
        match self.store.put_opts(&path, PutPayload::from_bytes(bytes), options).await {
            Ok(_) => Ok(Put::Created),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(Put::Exists),
            Err(error) => Err(self.error("write", name, &error)),
        }
    }

    /// Writes or replaces an object; readers see the old or the new one, whole.
    pub async fn replace(&self, name: &str, bytes: Bytes) -> Result<(), Error> {
        let path = object_path(name)?;
        let put = self.store.put(&path, PutPayload::from_bytes(bytes)).await;
        put.map(drop).map_err(|error| self.error("write", name, &error))
    }

    /// Writes or replaces an object with the content of a local file of any size, in constant memory; readers
    /// see the old or the new one, whole.
    pub async fn replace_file(&self, name: &str, file: &Path) -> Result<(), Error> {
        let path = object_path(name)?;
        let mut source = tokio::fs::File::open(file).await.map_err(|error| read_error(file, &error))?;
        let first = read_part(&mut source, file).await?;
        if first.len() < PART_BYTES {
            return self.replace(name, first).await;
        }
        let mut upload =
            self.store.put_multipart(&path).await.map_err(|error| self.error("write", name, &error))?;
        let sent = self.send_parts(upload.as_mut(), name, first, &mut source, file).await;
        if sent.is_err() {
            // The first error is the one to tell; parts left behind are swept like those of a killed process.
            let _ = upload.abort().await;
        }
        sent
    }

    async fn send_parts(
        &self,
        upload: &mut dyn MultipartUpload,
        name: &str,
        first: Bytes,
        source: &mut tokio::fs::File,
        file: &Path,
    ) -> Result<(), Error> {
        let mut part = first;
        while !part.is_empty() {
            let put = upload.put_part(PutPayload::from_bytes(part)).await;
            put.map_err(|error| self.error("write", name, &error))?;
            part = read_part(source, file).await?;
        }
        upload.complete().await.map(drop).map_err(|error| self.error("write", name, &error))
    }

    /// Reads an object; `None` when there is none of this name.
    pub async fn get(&self, name: &str) -> Result<Option<Bytes>, Error> {
        let path = object_path(name)?;
        let read = match self.store.get(&path).await {
            Ok(found) => found.bytes().await,
            Err(error) => Err(error),
        };
        match read {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.error("read", name, &error)),
        }
    }

    /// Writes, reads and removes a small object, so that an output that cannot be written shows before hours
    /// of work and not after.
    pub async fn check_writable(&self) -> Result<(), Error> {
        static CHECKS: AtomicU64 = AtomicU64::new(0);
        let check = CHECKS.fetch_add(1, Ordering::Relaxed);
        // Such a name as the sweep takes for its own, in case this process dies in the next line.
        let name = format!("sanafarm-check-{}-{check}.tmp", std::process::id());
        let path = object_path(&name)?;
        let options = PutOptions::from(PutMode::Create);
        match self.store.put_opts(&path, PutPayload::from_static(b"can this be written?"), options).await {
            // Left behind by a killed process of the same number.
            Ok(_) | Err(object_store::Error::AlreadyExists { .. }) => {}
            Err(error) => return Err(self.error("write", &name, &error)),
        }
        self.store.delete(&path).await.map_err(|error| self.error("remove", &name, &error))
    }

    /// Removes what a killed process left half-written in an output folder and says how many files it were.
    /// Only for a caller that knows of no other writer: it would take a living writer's files too.
    pub async fn sweep_staging(&self) -> Result<u64, Error> {
        let Some(folder) = self.folder.clone() else { return Ok(0) };
        let swept = tokio::task::spawn_blocking(move || staging::sweep(&folder)).await;
        swept.map_err(|error| Error::Unavailable(format!("sweep {}: {error}", self.place)))?
    }

    fn error(&self, verb: &str, name: &str, error: &object_store::Error) -> Error {
        Error::from_store(&format!("{verb} {name} in {}", self.place), error)
    }
}

/// Checks that a name is relative and stays below the output.
fn object_path(name: &str) -> Result<ObjectPath, Error> {
    let invalid = |why: &str| Error::Invalid(format!("object name {name:?}: {why}"));
    if name.is_empty() {
        return Err(invalid("it is empty"));
    }
    if name.starts_with('/') || name.ends_with('/') {
        return Err(invalid("it must be relative and must not end in a slash"));
    }
    if name.contains('\\') {
        return Err(invalid("it holds a backslash"));
    }
    if staging::is_staged(name) {
        return Err(invalid("it ends like an unfinished file (#NUMBER)"));
    }
    ObjectPath::parse(name).map_err(|error| invalid(&error.to_string()))
}

/// Up to [`PART_BYTES`] bytes: fewer only at the end of the file.
async fn read_part(source: &mut tokio::fs::File, file: &Path) -> Result<Bytes, Error> {
    let mut part = Vec::with_capacity(PART_BYTES);
    let read = source.take(PART_BYTES as u64).read_to_end(&mut part).await;
    read.map_err(|error| read_error(file, &error))?;
    Ok(part.into())
}

fn read_error(file: &Path, error: &std::io::Error) -> Error {
    Error::from_io(&format!("read {}", PathBuf::from(file).display()), error)
}

//! One place for a job's objects.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path as ObjectPath;
use object_store::prefix::PrefixStore;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use tokio::io::AsyncReadExt;
use url::Url;

use crate::folder::Folder;
use crate::input::Scheme;
use crate::{Error, staging};

/// Bytes of one part of a streamed object; object stores take parts of 5 MiB and more.
const PART_BYTES: usize = 8 << 20;

/// The place that a job's pictures are written to. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Output {
    store: Store,
    /// The folder or the URL, for people.
    place: Arc<str>,
}

#[derive(Clone, Debug)]
enum Store {
    /// Not behind `object_store`, which stages beside the objects and cannot tell whose staged files live.
    Folder(Arc<Folder>),
    Objects(Arc<dyn ObjectStore>),
}

/// What [`Output::put_new`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The object was written.
    Created,
    /// An object of this name was there and was left alone.
    Exists,
}

/// What [`Output::get`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// There is no object of this name.
    Nothing,
    /// The whole object.
    Object(Bytes),
    /// It has more bytes than were asked for, or no end at all.
    Larger,
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
        let opened = std::path::absolute(folder).and_then(Folder::open);
        let folder = opened.map_err(|error| Error::from_io(&doing, &error))?;
        let place = folder.path().display().to_string().into();
        Ok(Self { store: Store::Folder(Arc::new(folder)), place })
    }

    fn open_url(url: &Url) -> Result<Self, Error> {
        // Lists are read from object stores, pictures are not written there yet.
        let refused = |why: &dyn std::fmt::Display| {
            Error::Invalid(format!(
                "open output {url}: {why}; this version writes to folders, object stores such as S3 come in a \
                 later one"
            ))
        };
        if Scheme::of(url).is_some() {
            return Err(refused(&"no folder"));
        }
        let (store, prefix) = object_store::parse_url(url).map_err(|error| refused(&error))?;
        let store = Store::Objects(Arc::new(PrefixStore::new(store, prefix)));
        Ok(Self { store, place: url.as_str().into() })
    }

    /// The absolute folder or the URL.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The absolute folder, when the output is one.
    pub fn folder(&self) -> Option<&Path> {
        match &self.store {
            Store::Folder(folder) => Some(folder.path()),
            Store::Objects(_) => None,
        }
    }

    /// Writes an object unless there is one of this name already; readers see it whole or not at all, and it
    /// is durable when this returns.
    pub async fn put_new(&self, name: &str, bytes: Bytes) -> Result<Put, Error> {
        let path = object_path(name)?;
        let store = match &self.store {
            Store::Folder(folder) => {
                let (folder, object) = (folder.clone(), name.to_owned());
                return self.block("write", name, move || folder.put_new(&object, write_all(bytes))).await;
            }
            Store::Objects(store) => store,
        };
        let options = PutOptions::from(PutMode::Create);
        match store.put_opts(&path, PutPayload::from_bytes(bytes), options).await {
            Ok(_) => Ok(Put::Created),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(Put::Exists),
            Err(error) => Err(self.error("write", name, &error)),
        }
    }

    /// Writes or replaces an object; readers see the old or the new one, whole.
    pub async fn replace(&self, name: &str, bytes: Bytes) -> Result<(), Error> {
        let path = object_path(name)?;
        match &self.store {
            Store::Folder(folder) => {
                let (folder, object) = (folder.clone(), name.to_owned());
                self.block("write", name, move || folder.replace(&object, write_all(bytes))).await
            }
            Store::Objects(store) => {
                let put = store.put(&path, PutPayload::from_bytes(bytes)).await;
                put.map(drop).map_err(|error| self.error("write", name, &error))
            }
        }
    }

    /// Writes or replaces an object with the content of a local file of any size, in constant memory; readers
    /// see the old or the new one, whole.
    pub async fn replace_file(&self, name: &str, file: &Path) -> Result<(), Error> {
        let path = object_path(name)?;
        match &self.store {
            Store::Folder(folder) => {
                let (folder, object) = (folder.clone(), name.to_owned());
                let mut source = File::open(file).map_err(|error| read_error(file, &error))?;
                let copy = move |target: &mut File| io::copy(&mut source, target).map(drop);
                self.block("write", name, move || folder.replace(&object, copy)).await
            }
            Store::Objects(store) => self.upload(store.as_ref(), &path, name, file).await,
        }
    }

    async fn upload(
        &self,
        store: &dyn ObjectStore,
        path: &ObjectPath,
        name: &str,
        file: &Path,
    ) -> Result<(), Error> {
        let mut source = tokio::fs::File::open(file).await.map_err(|error| read_error(file, &error))?;
        let first = read_part(&mut source, file).await?;
        if first.len() < PART_BYTES {
            return self.replace(name, first).await;
        }
        let mut upload =
            store.put_multipart(path).await.map_err(|error| self.error("write", name, &error))?;
        let sent = self.send_parts(upload.as_mut(), name, first, &mut source, file).await;
        if sent.is_err() {
            // The first error is the one to tell; parts left behind are the bucket's to expire.
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

    /// Reads an object of up to `limit` bytes.
    pub async fn get(&self, name: &str, limit: u64) -> Result<Found, Error> {
        let path = object_path(name)?;
        let store = match &self.store {
            Store::Folder(folder) => {
                let (folder, object) = (folder.clone(), name.to_owned());
                return self.block("read", name, move || folder.get(&object, limit)).await;
            }
            Store::Objects(store) => store,
        };
        let read = match store.get(&path).await {
            Ok(found) if found.meta.size > limit => return Ok(Found::Larger),
            Ok(found) => found.bytes().await,
            Err(error) => Err(error),
        };
        match read {
            Ok(bytes) => Ok(Found::Object(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(Found::Nothing),
            Err(error) => Err(self.error("read", name, &error)),
        }
    }

    /// Writes and removes a small object, so that an output that cannot be written shows before hours of work
    /// and not after. Any number of processes may do so at once.
    pub async fn check_writable(&self) -> Result<(), Error> {
        let name = staging::fresh_name();
        let store = match &self.store {
            Store::Folder(folder) => {
                let folder = folder.clone();
                return self.block("write", "a file", move || folder.check_writable()).await;
            }
            Store::Objects(store) => store,
        };
        let path = ObjectPath::from(name.as_str());
        let put = store.put(&path, PutPayload::from_static(b"can this be written?")).await;
        put.map_err(|error| self.error("write", &name, &error))?;
        match store.delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.error("remove", &name, &error)),
        }
    }

    /// Looks whether something stands in the way of [`Output::replace`], such as a folder of this name.
    pub async fn check_replaceable(&self, name: &str) -> Result<(), Error> {
        object_path(name)?;
        match &self.store {
            Store::Folder(folder) => {
                let (folder, object) = (folder.clone(), name.to_owned());
                self.block("write", name, move || folder.check_replaceable(&object)).await
            }
            Store::Objects(_) => Ok(()),
        }
    }

    /// Removes what killed processes left half-written in an output folder and says how many files it were.
    /// What living ones write is left alone.
    pub async fn sweep_staging(&self) -> Result<u64, Error> {
        match &self.store {
            Store::Folder(folder) => {
                let folder = folder.clone();
                self.block("sweep", "leftovers", move || staging::sweep(folder.path())).await
            }
            Store::Objects(_) => Ok(0),
        }
    }

    /// Works on the folder away from the async threads.
    async fn block<T: Send + 'static>(
        &self,
        verb: &str,
        name: &str,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let doing = format!("{verb} {name} in {}", self.place);
        match tokio::task::spawn_blocking(work).await {
            Ok(worked) => worked.map_err(|error| Error::from_io(&doing, &error)),
            Err(error) => Err(Error::Unavailable(format!("{doing}: {error}"))),
        }
    }

    fn error(&self, verb: &str, name: &str, error: &object_store::Error) -> Error {
        Error::from_store(&format!("{verb} {name} in {}", self.place), error)
    }
}

fn write_all(bytes: Bytes) -> impl FnOnce(&mut File) -> io::Result<()> {
    move |file| file.write_all(&bytes)
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
        return Err(invalid("such names are for unfinished files"));
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

fn read_error(file: &Path, error: &io::Error) -> Error {
    Error::from_io(&format!("read {}", file.display()), error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;

    #[tokio::test]
    async fn an_object_store_keeps_the_promises_of_a_folder() {
        let store = Store::Objects(Arc::new(InMemory::new()));
        let output = Output { store, place: "test://bucket/".into() };
        let small = Bytes::from_static(b"small");
        output.check_writable().await.unwrap();
        assert_eq!(output.put_new("a.png", small.clone()).await.unwrap(), Put::Created);
        assert_eq!(output.put_new("a.png", Bytes::new()).await.unwrap(), Put::Exists);
        assert_eq!(output.get("a.png", 5).await.unwrap(), Found::Object(small));
        assert_eq!(output.get("a.png", 4).await.unwrap(), Found::Larger);
        assert_eq!(output.get("b.png", 4).await.unwrap(), Found::Nothing);
        output.replace("a.png", Bytes::new()).await.unwrap();
        assert_eq!(output.get("a.png", 0).await.unwrap(), Found::Object(Bytes::new()));

        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("manifest");
        for length in [1, PART_BYTES, 2 * PART_BYTES + 1] {
            let content: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            std::fs::write(&file, &content).unwrap();
            output.replace_file("manifest", &file).await.unwrap();
            assert!(
                output.get("manifest", u64::MAX).await.unwrap() == Found::Object(content.into()),
                "{length}"
            );
        }
        assert_eq!((output.sweep_staging().await, output.folder()), (Ok(0), None));
    }
}

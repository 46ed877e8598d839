//! One place for a job's objects.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt};
use object_store::path::Path as ObjectPath;
use tokio::sync::mpsc;
use url::Url;

use crate::folder::Folder;
use crate::name::object_path;
use crate::objects::Objects;
use crate::reading::{open_source, read_file};
use crate::remote::{Scheme, for_people};
use crate::{Digest, Entry, Error, Reading, Settings, staging, walk};

/// Entries of a list that wait for the reader.
const LISTED_AHEAD: usize = 256;

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
    Objects(Arc<Objects>),
}

/// What became of an object that was to be new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The object was written.
    Created,
    /// An object of this name was there and was left alone. It may be our own, of a try whose answer was lost.
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

/// What a signed URL is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Writing the object if it is not there.
    Put,
    /// Reading it.
    Get,
}

impl Output {
    /// Opens an output named by a folder path, a `file://` URL or the URL of an object store: `s3://`, `gs://` or `az://`
    /// with a bucket and a prefix. A folder is made absolute and created; credentials and endpoints of object stores come from
    /// the usual environment variables of each, and nobody is asked yet.
    ///
    /// Blocks for some file system calls.
    pub fn open(output: &str) -> Result<Self, Error> {
        Self::open_with(output, &Settings::default())
    }

    /// As [`Output::open`], with settings beside those of the environment.
    pub fn open_with(output: &str, settings: &Settings) -> Result<Self, Error> {
        if output.is_empty() {
            return Err(Error::Invalid("open output: its name is empty".into()));
        }
        if !output.contains("://") {
            return Self::open_folder(Path::new(output));
        }
        let url =
            Url::parse(output).map_err(|error| Error::Invalid(format!("open output {output}: {error}")))?;
        let refused = |why: &str| Error::Invalid(format!("open output {}: {why}", for_people(url.clone()).0));
        match Scheme::of(&url) {
            Some(Scheme::File) => {
                let folder = url.to_file_path().map_err(|()| refused("not a folder on this machine"))?;
                Self::open_folder(&folder)
            }
            Some(scheme @ (Scheme::S3 | Scheme::Gcs | Scheme::Azure)) => {
                if url.host_str().is_none_or(str::is_empty) {
                    return Err(refused("it names no bucket"));
                }
                let objects = Objects::open(scheme, &url, settings)?;
                let place = objects.place().into();
                Ok(Self { store: Store::Objects(Arc::new(objects)), place })
            }
            Some(Scheme::Http) => {
                Err(refused("web servers are only read from; name a folder or an s3, gs or az URL"))
            }
            None if url.scheme() == "memory" => Err(refused("pictures in memory would be lost")),
            None => Err(refused("only folders and s3, gs, az and file URLs are written to")),
        }
    }

    fn open_folder(folder: &Path) -> Result<Self, Error> {
        let doing = format!("open output folder {}", folder.display());
        let opened = std::path::absolute(folder).and_then(Folder::open);
        let folder = opened.map_err(|error| Error::from_io(&doing, &error))?;
        let place = folder.path().display().to_string().into();
        Ok(Self { store: Store::Folder(Arc::new(folder)), place })
    }

    /// The absolute folder or the URL, without secrets.
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
        match &self.store {
            Store::Folder(folder) => {
                self.block("write", folder, name, move |folder, name| folder.put_new(name, write_all(bytes)))
                    .await
            }
            Store::Objects(objects) => objects.put_new(name, &path, bytes).await,
        }
    }

    /// As [`Output::put_new`], from a local file of any size, in constant memory. An object store cannot leave alone what
    /// another writer puts at the same name in the meantime when the file is large: the name should be of one attempt.
    pub async fn put_new_file(&self, name: &str, file: &Path) -> Result<Put, Error> {
        let path = object_path(name)?;
        match &self.store {
            Store::Folder(folder) => {
                let mut source = open_source(file).await?.0.into_std().await;
                let copy = move |target: &mut File| io::copy(&mut source, target).map(drop);
                self.block("write", folder, name, move |folder, name| folder.put_new(name, copy)).await
            }
            Store::Objects(objects) => objects.put_new_file(name, &path, file).await,
        }
    }

    /// Writes or replaces an object; readers see the old or the new one, whole.
    pub async fn replace(&self, name: &str, bytes: Bytes) -> Result<(), Error> {
        let path = object_path(name)?;
        match &self.store {
            Store::Folder(folder) => {
                self.block("write", folder, name, move |folder, name| folder.replace(name, write_all(bytes)))
                    .await
            }
            Store::Objects(objects) => objects.replace(name, &path, bytes).await,
        }
    }

    /// Writes or replaces an object with the content of a local file of any size, in constant memory; readers
    /// see the old or the new one, whole.
    pub async fn replace_file(&self, name: &str, file: &Path) -> Result<(), Error> {
        let path = object_path(name)?;
        match &self.store {
            Store::Folder(folder) => {
                let mut source = open_source(file).await?.0.into_std().await;
                let copy = move |target: &mut File| io::copy(&mut source, target).map(drop);
                self.block("write", folder, name, move |folder, name| folder.replace(name, copy)).await
            }
            Store::Objects(objects) => objects.replace_file(name, &path, file).await,
        }
    }

    /// Reads an object of up to `limit` bytes.
    pub async fn get(&self, name: &str, limit: u64) -> Result<Found, Error> {
        let path = object_path(name)?;
        match &self.store {
            Store::Folder(folder) => {
                self.block("read", folder, name, move |folder, name| folder.get(name, limit)).await
            }
            Store::Objects(objects) => objects.get(name, &path, limit).await,
        }
    }

    /// Reads an object of any size in pieces.
    pub async fn read(&self, name: &str) -> Result<Option<Reading>, Error> {
        let path = object_path(name)?;
        match &self.store {
            Store::Folder(folder) => {
                let found = self.block("read", folder, name, |folder, name| folder.read(name)).await?;
                Ok(found.map(|(file, bytes)| read_file(file, bytes, self.doing("read", name))))
            }
            Store::Objects(objects) => objects.read(name, &path).await,
        }
    }

    /// Reads an object that was listed, from a byte on; none when it is not there any more, or was written anew since.
    pub async fn read_listed(&self, entry: &Entry, first: u64) -> Result<Option<Reading>, Error> {
        let name = &entry.name;
        let path = object_path(name)?;
        match &self.store {
            Store::Folder(folder) => {
                let found = self
                    .block("read", folder, name, move |folder, name| folder.read_from(name, first))
                    .await?;
                let listed = found.filter(|(_, bytes)| *bytes == entry.bytes);
                Ok(listed.map(|(file, bytes)| read_file(file, bytes - first, self.doing("read", name))))
            }
            Store::Objects(objects) => objects.read_listed(entry, &path, first).await,
        }
    }

    /// How many bytes an object has; none when it is not there.
    pub async fn size(&self, name: &str) -> Result<Option<u64>, Error> {
        let path = object_path(name)?;
        match &self.store {
            Store::Folder(folder) => {
                self.block("look for", folder, name, |folder, name| folder.size(name)).await
            }
            Store::Objects(objects) => objects.size(name, &path).await,
        }
    }

    /// Reads an object through and says what it holds; none when it is not there.
    pub async fn digest(&self, name: &str) -> Result<Option<Digest>, Error> {
        match self.read(name).await? {
            Some(reading) => reading.digest().await.map(Some),
            None => Ok(None),
        }
    }

    /// Gives a finished object its final name, if that is free. With [`Put::Exists`] the old name may still be there: the
    /// caller compares and removes it. An object whose old name is gone was published before, and exists.
    ///
    /// An object store copies it without sending it here, and then deletes the old one.
    pub async fn publish(&self, from: &str, to: &str) -> Result<Put, Error> {
        let (from_path, to_path) = (object_path(from)?, object_path(to)?);
        match &self.store {
            Store::Folder(folder) => {
                let from = from.to_owned();
                self.block("publish", folder, to, move |folder, to| folder.publish(&from, to)).await
            }
            Store::Objects(objects) => objects.publish((from, &from_path), (to, &to_path)).await,
        }
    }

    /// Removes an object; false when there was none.
    pub async fn remove(&self, name: &str) -> Result<bool, Error> {
        let path = object_path(name)?;
        match &self.store {
            Store::Folder(folder) => {
                self.block("remove", folder, name, |folder, name| folder.remove(name)).await
            }
            Store::Objects(objects) => objects.remove(name, &path).await,
        }
    }

    /// All objects, in byte order of their names, in constant memory; those after a name when one is given, whether
    /// there is such an object or not. Unfinished files are none. What comes and goes meanwhile may or may not be in it.
    pub fn list(&self, after: Option<&str>) -> impl Stream<Item = Result<Entry, Error>> + Send + use<> {
        let after = after.unwrap_or_default().to_owned();
        match &self.store {
            Store::Folder(folder) => list_folder(folder.clone(), after, self.doing("list", "files")),
            Store::Objects(objects) => objects.list(after).boxed(),
        }
    }

    /// A URL by which somebody without keys can write or read one object for a time. Folders cannot sign
    /// ([`Error::Invalid`]).
    pub async fn sign(&self, name: &str, access: Access, lifetime: Duration) -> Result<Url, Error> {
        let path = object_path(name)?;
        match &self.store {
            Store::Folder(_) => Err(Error::Invalid(format!(
                "sign {name} in {}: a folder cannot be reached by signed URLs",
                self.place
            ))),
            Store::Objects(objects) => objects.sign(name, &path, access, lifetime).await,
        }
    }

    /// Writes and removes a small object, so that an output that cannot be written shows before hours of work
    /// and not after. Any number of processes may do so at once.
    pub async fn check_writable(&self) -> Result<(), Error> {
        match &self.store {
            Store::Folder(folder) => {
                self.block("write", folder, "a file", |folder, _| folder.check_writable()).await
            }
            Store::Objects(objects) => objects.check_writable().await,
        }
    }

    /// Looks whether something stands in the way of [`Output::replace`], such as a folder of this name.
    pub async fn check_replaceable(&self, name: &str) -> Result<(), Error> {
        object_path(name)?;
        match &self.store {
            Store::Folder(folder) => {
                self.block("write", folder, name, |folder, name| folder.check_replaceable(name)).await
            }
            Store::Objects(_) => Ok(()),
        }
    }

    /// Removes what killed processes left half-written in an output folder and says how many files it were.
    /// What living ones write is left alone.
    pub async fn sweep_staging(&self) -> Result<u64, Error> {
        match &self.store {
            Store::Folder(folder) => {
                self.block("sweep", folder, "leftovers", |folder, _| staging::sweep(folder.path())).await
            }
            // Parts of unfinished uploads show in no list; the bucket's own rules remove them.
            Store::Objects(_) => Ok(0),
        }
    }

    /// What killed processes left half-written, as [`Output::sweep_staging`] would remove it; in an object store what its
    /// check for writing left.
    pub async fn leftovers(&self) -> Result<Vec<Entry>, Error> {
        match &self.store {
            Store::Folder(folder) => {
                self.block("look for", folder, "leftovers", |folder, _| staging::leftovers(folder.path()))
                    .await
            }
            Store::Objects(objects) => objects.leftovers().await,
        }
    }

    /// Removes one of [`Output::leftovers`], unless a living process writes it; false when it stays or is gone.
    pub async fn remove_leftover(&self, name: &str) -> Result<bool, Error> {
        if !staging::is_staged(name) {
            return Err(Error::Invalid(format!("remove {name} in {}: it is no leftover", self.place)));
        }
        match &self.store {
            Store::Folder(folder) => {
                self.block("remove", folder, name, |folder, name| {
                    staging::remove_leftover(&folder.path().join(name))
                })
                .await
            }
            Store::Objects(objects) => objects.remove(name, &ObjectPath::from(name)).await,
        }
    }

    /// Works on the folder away from the async threads.
    async fn block<T: Send + 'static>(
        &self,
        verb: &str,
        folder: &Arc<Folder>,
        name: &str,
        work: impl FnOnce(&Folder, &str) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let (folder, object) = (folder.clone(), name.to_owned());
        match tokio::task::spawn_blocking(move || work(&folder, &object)).await {
            Ok(worked) => worked.map_err(|error| Error::from_io(&self.doing(verb, name), &error)),
            Err(error) => Err(Error::Unavailable(format!("{}: {error}", self.doing(verb, name)))),
        }
    }

    fn doing(&self, verb: &str, name: &str) -> String {
        format!("{verb} {name} in {}", self.place)
    }
}

fn write_all(bytes: Bytes) -> impl FnOnce(&mut File) -> io::Result<()> {
    move |file| file.write_all(&bytes)
}

/// The walk ends when nobody reads the stream any more.
fn list_folder(
    folder: Arc<Folder>,
    after: String,
    doing: String,
) -> BoxStream<'static, Result<Entry, Error>> {
    let start = async move {
        let (found, entries) = mpsc::channel(LISTED_AHEAD);
        tokio::task::spawn_blocking(move || walk::walk(folder.path(), &after, &found));
        futures::stream::unfold(Some(entries), |entries| async move {
            let mut entries = entries?;
            match entries.recv().await {
                Some(Some(entry)) => Some((entry, Some(entries))),
                Some(None) => None,
                // A walk that ended early is not the end of the list.
                None => Some((Err(io::Error::other("the thread that lists them ended early")), None)),
            }
        })
    };
    start.flatten_stream().map(move |entry| entry.map_err(|error| Error::from_io(&doing, &error))).boxed()
}

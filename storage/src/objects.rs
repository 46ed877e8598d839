//! Objects of an object store.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use object_store::path::Path as ObjectPath;
use object_store::prefix::PrefixStore;
use object_store::signer::{HeaderName, HeaderValue, Method, SignedUrlOptions};
use object_store::{
    Attribute, Attributes, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode,
    PutOptions, PutPayload,
};
use url::Url;

use crate::name::{content_type, object_path};
use crate::remote::{Answer, Failure, Remote, Scheme, for_people, hide};
use crate::{Access, Entry, Error, Found, Put, Reading, Settings, staging};

/// How often a list is taken up again after an error, without a new entry in between.
const LIST_TRIES: u32 = 3;

/// All objects of a bucket whose names begin with a prefix.
#[derive(Debug)]
pub(crate) struct Objects {
    scheme: Scheme,
    remote: Arc<Remote>,
    pub(crate) store: PrefixStore<Arc<dyn ObjectStore>>,
    prefix: ObjectPath,
    place: String,
    /// What errors of the store may repeat and nobody should read.
    secret: Option<String>,
}

impl Objects {
    pub(crate) fn open(scheme: Scheme, url: &Url, settings: &Settings) -> Result<Self, Error> {
        let (place, secret) = for_people(url.clone());
        let prefix = ObjectPath::from_url_path(url.path())
            .map_err(|error| Error::Invalid(format!("open output {place}: {error}")))?;
        let remote = Remote::open(scheme, url, settings)
            .map_err(|error| Error::Invalid(format!("open output {place}: {error}")))?;
        Ok(Self::new(scheme, remote, prefix, place, secret))
    }

    pub(crate) fn new(
        scheme: Scheme,
        remote: Arc<Remote>,
        prefix: ObjectPath,
        place: String,
        secret: Option<String>,
    ) -> Self {
        let store = PrefixStore::new(remote.store.clone(), prefix.clone());
        Self { scheme, remote, store, prefix, place, secret }
    }

    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    pub(crate) fn error(&self, verb: &str, name: &str, error: &object_store::Error) -> Error {
        let error = Error::from_store(&format!("{verb} {name} in {}", self.place), error);
        error.map(|text| hide(&text, self.secret.as_deref()))
    }

    /// None when an object is not there, unless its whole bucket is not.
    fn if_there<T>(
        &self,
        verb: &str,
        name: &str,
        asked: object_store::Result<T>,
    ) -> Result<Option<T>, Error> {
        match asked {
            Ok(found) => Ok(Some(found)),
            Err(error @ object_store::Error::NotFound { .. }) => {
                let answer = Failure::of(&error).and_then(|failure| failure.answer());
                let bucket = answer.is_some_and(|answer| answer.no_bucket());
                if bucket { Err(self.error(verb, name, &error)) } else { Ok(None) }
            }
            Err(error) => Err(self.error(verb, name, &error)),
        }
    }

    pub(crate) async fn put_new(&self, name: &str, path: &ObjectPath, bytes: Bytes) -> Result<Put, Error> {
        let options =
            PutOptions { mode: PutMode::Create, attributes: attributes(name), ..PutOptions::default() };
        match self.store.put_opts(path, PutPayload::from_bytes(bytes), options).await {
            Ok(_) => Ok(Put::Created),
            Err(object_store::Error::AlreadyExists { source, .. }) if !is_conflict(source.as_ref()) => {
                Ok(Put::Exists)
            }
            // Somebody else is about to write it and may yet fail.
            Err(error @ object_store::Error::AlreadyExists { .. }) => match self.size(name, path).await? {
                Some(_) => Ok(Put::Exists),
                None => Err(self.error("write", name, &error)),
            },
            Err(error) => Err(self.error("write", name, &error)),
        }
    }

    pub(crate) async fn replace(&self, name: &str, path: &ObjectPath, bytes: Bytes) -> Result<(), Error> {
        let options = PutOptions { attributes: attributes(name), ..PutOptions::default() };
        let put = self.store.put_opts(path, PutPayload::from_bytes(bytes), options).await;
        put.map(drop).map_err(|error| self.error("write", name, &error))
    }

    pub(crate) async fn get(&self, name: &str, path: &ObjectPath, limit: u64) -> Result<Found, Error> {
        let Some(found) = self.if_there("read", name, self.store.get(path).await)? else {
            return Ok(Found::Nothing);
        };
        if found.meta.size > limit {
            return Ok(Found::Larger);
        }
        found.bytes().await.map(Found::Object).map_err(|error| self.error("read", name, &error))
    }

    pub(crate) async fn read(
        self: &Arc<Self>,
        name: &str,
        path: &ObjectPath,
    ) -> Result<Option<Reading>, Error> {
        let Some(found) = self.if_there("read", name, self.store.get(path).await)? else { return Ok(None) };
        let (objects, name) = (self.clone(), name.to_owned());
        let bytes = found.meta.size;
        let chunks = found.into_stream().map_err(move |error| objects.error("read", &name, &error));
        Ok(Some(Reading::new(bytes, chunks)))
    }

    pub(crate) async fn read_listed(
        self: &Arc<Self>,
        listed: &Entry,
        path: &ObjectPath,
        first: u64,
    ) -> Result<Option<Reading>, Error> {
        let name = listed.name.clone();
        let range = (first > 0).then_some(GetRange::Offset(first));
        let asked = self.store.get_opts(path, GetOptions { range, ..GetOptions::default() }).await;
        let Some(found) = self.if_there("read", &name, asked)? else { return Ok(None) };
        if !listed.agrees(&entry(name.clone(), &found.meta)) {
            return Ok(None);
        }
        let objects = self.clone();
        let chunks = found.into_stream().map_err(move |error| objects.error("read", &name, &error));
        Ok(Some(Reading::new(listed.bytes - first.min(listed.bytes), chunks)))
    }

    pub(crate) async fn size(&self, name: &str, path: &ObjectPath) -> Result<Option<u64>, Error> {
        match self.store.head(path).await {
            // An answer without a body does not say whether it is the object that is missing or the bucket.
            Err(object_store::Error::NotFound { .. }) => {
                let asked = self.if_there("look for", name, self.store.get(path).await)?;
                Ok(asked.map(|found| found.meta.size))
            }
            asked => Ok(self.if_there("look for", name, asked)?.map(|meta| meta.size)),
        }
    }

    pub(crate) async fn publish(
        &self,
        (from, from_path): (&str, &ObjectPath),
        (to, to_path): (&str, &ObjectPath),
    ) -> Result<Put, Error> {
        // Also where a server does not know how to copy on a condition.
        if self.size(to, to_path).await?.is_some() {
            return Ok(Put::Exists);
        }
        let copied = match self.store.copy_if_not_exists(from_path, to_path).await {
            Err(object_store::Error::NotSupported { .. } | object_store::Error::NotImplemented { .. }) => {
                self.store.copy(from_path, to_path).await
            }
            copied => copied,
        };
        if let Err(error) = copied {
            // Somebody was quicker, or it was copied and the answer lost: the caller compares.
            return match self.size(to, to_path).await? {
                Some(_) => Ok(Put::Exists),
                None => Err(self.error(&format!("publish {from} as"), to, &error)),
            };
        }
        self.delete(from, from_path).await?;
        Ok(Put::Created)
    }

    pub(crate) async fn remove(&self, name: &str, path: &ObjectPath) -> Result<bool, Error> {
        let there = self.size(name, path).await?.is_some();
        if there {
            self.delete(name, path).await?;
        }
        Ok(there)
    }

    async fn delete(&self, name: &str, path: &ObjectPath) -> Result<(), Error> {
        let deleted = self.store.delete(path).await;
        self.if_there("remove", name, deleted).map(drop)
    }

    /// Everything that an output takes: that the store writes, leaves alone what is there, and deletes.
    pub(crate) async fn check_writable(&self) -> Result<(), Error> {
        let name = staging::fresh_name();
        let path = ObjectPath::from(name.as_str());
        let probe = Bytes::from_static(b"can this be written?");
        self.put_new(&name, &path, probe.clone()).await?;
        let again = self.put_new(&name, &path, probe).await;
        self.delete(&name, &path).await?;
        match again? {
            Put::Exists => Ok(()),
            Put::Created => Err(Error::Invalid(format!(
                "write to {}: this server overwrites objects although it is told not to (`If-None-Match: *`): \
                 use one that knows conditional writes",
                self.place
            ))),
        }
    }

    /// Objects after a name in byte order, taken up again where an error cut the list off.
    pub(crate) fn list(
        self: &Arc<Self>,
        after: String,
    ) -> impl Stream<Item = Result<Entry, Error>> + Send + use<> {
        let listing = Listing { objects: self.clone(), last: after, told: false, page: None, failures: 0 };
        futures::stream::try_unfold(listing, |mut listing| async move {
            Ok(listing.next().await?.map(|entry| (entry, listing)))
        })
    }

    /// What a check for writing left that was killed in the middle.
    pub(crate) async fn leftovers(&self) -> Result<Vec<Entry>, Error> {
        let failed = |error| self.error("list", "leftovers", &error);
        let mut listed = self.store.list_with_offset(None, &ObjectPath::from(staging::PREFIX));
        let mut found = Vec::new();
        while let Some(meta) = listed.try_next().await.map_err(failed)? {
            let name = meta.location.as_ref().to_owned();
            if !name.starts_with(staging::PREFIX) {
                break;
            }
            if staging::is_staged(&name) {
                found.push(entry(name, &meta));
            }
        }
        Ok(found)
    }

    pub(crate) async fn sign(
        &self,
        name: &str,
        path: &ObjectPath,
        access: Access,
        lifetime: Duration,
    ) -> Result<Url, Error> {
        let Some(signer) = &self.remote.signer else {
            return Err(Error::Invalid(format!("sign {name} in {}: it cannot sign URLs", self.place)));
        };
        let path: ObjectPath = self.prefix.parts().chain(path.parts()).collect();
        let signed = match access {
            Access::Get => signer.signed_url(Method::GET, &path, lifetime).await,
            Access::Put => {
                let options = only_new(self.scheme);
                signer.signed_url_opts(Method::PUT, &path, lifetime, &options).await
            }
        };
        signed.map_err(|error| self.error("sign", name, &error))
    }
}

/// Who has the URL can write what is not there yet, and no more, where a signature can say so.
fn only_new(scheme: Scheme) -> SignedUrlOptions {
    let (name, value) = match scheme {
        Scheme::S3 => ("if-none-match", "*"),
        Scheme::Gcs => ("x-goog-if-generation-match", "0"),
        Scheme::Azure | Scheme::File | Scheme::Http => return SignedUrlOptions::default(),
    };
    SignedUrlOptions::default()
        .with_signed_header(HeaderName::from_static(name), HeaderValue::from_static(value))
}

/// Whether a server refused because of a write that is not over, and not because of an object.
fn is_conflict(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    Answer::find(&error.to_string()).is_some_and(|answer| answer.status() == 409)
}

/// What servers keep beside an object.
pub(crate) fn attributes(name: &str) -> Attributes {
    Attributes::from_iter([(Attribute::ContentType, content_type(name))])
}

fn entry(name: String, meta: &ObjectMeta) -> Entry {
    Entry { name, bytes: meta.size, modified: meta.last_modified.into(), e_tag: meta.e_tag.clone() }
}

/// A list on its way.
struct Listing {
    objects: Arc<Objects>,
    /// The last name that was told or is not wanted.
    last: String,
    /// Whether `last` came from the store.
    told: bool,
    page: Option<BoxStream<'static, object_store::Result<ObjectMeta>>>,
    failures: u32,
}

impl Listing {
    async fn next(&mut self) -> Result<Option<Entry>, Error> {
        loop {
            let page = match &mut self.page {
                Some(page) => page,
                None => {
                    let objects = &self.objects;
                    let last = ObjectPath::parse(&self.last).map_err(|error| {
                        Error::Invalid(format!(
                            "list objects in {} after {}: {error}",
                            objects.place, self.last
                        ))
                    })?;
                    let page = match self.last.as_str() {
                        "" => objects.store.list(None),
                        _ => objects.store.list_with_offset(None, &last),
                    };
                    self.page.insert(page)
                }
            };
            let meta = match page.next().await {
                None => return Ok(None),
                Some(Ok(meta)) => meta,
                Some(Err(error)) => {
                    let error = self.objects.error("list", "objects", &error);
                    self.failures += 1;
                    if !error.is_transient() || self.failures == LIST_TRIES {
                        return Err(error);
                    }
                    self.page = None;
                    continue;
                }
            };
            self.failures = 0;
            let name = meta.location.as_ref().to_owned();
            if name <= self.last {
                if self.told {
                    return Err(Error::Invalid(format!(
                        "list objects in {}: the store does not list them in the order of their names",
                        self.objects.place
                    )));
                }
                continue;
            }
            (self.last, self.told) = (name.clone(), true);
            if object_path(&name).is_ok() {
                return Ok(Some(entry(name, &meta)));
            }
        }
    }
}

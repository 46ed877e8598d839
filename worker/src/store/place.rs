//! Where objects of a lease go: straight to the output, or to URLs that the coordinator signs.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use sanafarm_proto::v1::SignedObject;
use sanafarm_storage::{Digest, Error, Found, Output, Put, Signed};
use tokio::sync::Semaphore;
use url::Url;

use super::{Problem, publish};
use crate::leases::LeaseKey;
use crate::session::Session;

/// What is written.
#[derive(Clone, Debug)]
pub(super) enum Source {
    Memory(Bytes),
    File(PathBuf),
}

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// It was written.
    New,
    /// An object of this name was there and was left alone.
    There,
    /// Its image has a result already: the coordinator lets nobody write it any more.
    Unwanted,
}

impl From<Put> for Written {
    fn from(put: Put) -> Self {
        match put {
            Put::Created => Self::New,
            Put::Exists => Self::There,
        }
    }
}

/// The output of a lease. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Place {
    kind: Kind,
    /// A turn for each object that is written at the same time.
    turns: Arc<Semaphore>,
}

#[derive(Clone, Debug)]
enum Kind {
    /// This worker may write there.
    Own(Output),
    /// It has no keys: every object has a URL of its own.
    Signed { client: Signed, session: Session, name: Arc<str> },
}

impl Place {
    /// Opens the output of a lease, to which so many objects are written at once.
    pub(super) async fn open(
        name: &str,
        presigned: bool,
        session: &Session,
        width: usize,
    ) -> Result<Self, Problem> {
        let kind = match presigned {
            false => Kind::Own(publish::open(name).await?),
            true => Kind::Signed { client: Signed::new()?, session: session.clone(), name: name.into() },
        };
        Ok(Self { kind, turns: Arc::new(Semaphore::new(width)) })
    }

    /// Whether anything can be written there; not known without keys.
    pub(super) async fn is_writable(&self) -> bool {
        match &self.kind {
            Kind::Own(output) => output.check_writable().await.is_ok(),
            Kind::Signed { .. } => false,
        }
    }

    /// The folder or the URL, for people.
    pub(super) fn name(&self) -> &str {
        match &self.kind {
            Kind::Own(output) => output.place(),
            Kind::Signed { name, .. } => name,
        }
    }

    /// Writes an object unless there is one of this name already.
    pub(super) async fn put_new(
        &self,
        lease: &LeaseKey,
        object: &str,
        source: &Source,
    ) -> Result<Written, Problem> {
        // It is never closed.
        let _turn = self.turns.acquire().await;
        match &self.kind {
            Kind::Own(output) => {
                let put = match source {
                    Source::Memory(bytes) => output.put_new(object, bytes.clone()).await?,
                    Source::File(file) => output.put_new_file(object, file).await?,
                };
                Ok(put.into())
            }
            Kind::Signed { client, session, .. } => {
                let (mut signed, mut kept) = sign(session, lease, object, false).await?;
                loop {
                    if signed.put_url.is_empty() {
                        return Ok(Written::Unwanted);
                    }
                    let url = url(&signed.put_url)?;
                    let put = match source {
                        Source::Memory(bytes) => client.put_new(&url, bytes.clone()).await,
                        Source::File(file) => client.put_new_file(&url, file).await,
                    };
                    match put {
                        Err(Error::Denied(why)) if kept => {
                            (signed, kept) = sign_again(session, lease, object, &why).await?;
                        }
                        put => return Ok(put?.into()),
                    }
                }
            }
        }
    }

    /// Reads an object of up to `limit` bytes.
    pub(super) async fn get(&self, lease: &LeaseKey, object: &str, limit: u64) -> Result<Found, Problem> {
        match &self.kind {
            Kind::Own(output) => Ok(output.get(object, limit).await?),
            Kind::Signed { client, session, .. } => {
                let (mut signed, mut kept) = sign(session, lease, object, false).await?;
                loop {
                    match client.get(&url(&signed.get_url)?, limit).await {
                        Err(Error::Denied(why)) if kept => {
                            (signed, kept) = sign_again(session, lease, object, &why).await?;
                        }
                        found => return Ok(found?),
                    }
                }
            }
        }
    }

    /// Size and checksum of an object that is there; `None` also when it cannot be read in constant memory.
    pub(super) async fn digest(&self, object: &str) -> Result<Option<Digest>, Problem> {
        match &self.kind {
            Kind::Own(output) => Ok(output.digest(object).await?),
            Kind::Signed { .. } => Ok(None),
        }
    }

    /// Removes an object that is nobody's; one that stays is an orphan that harms nothing.
    pub(super) async fn remove(&self, object: &str) {
        match &self.kind {
            Kind::Own(output) => {
                if let Err(error) = output.remove(object).await {
                    tracing::warn!(%error, object, "a tar that was refused stays in the output");
                }
            }
            Kind::Signed { .. } => {
                tracing::info!(object, "a tar that was refused stays in the output: nobody signs removals");
            }
        }
    }
}

/// Another URL than the one that was kept: keys may have changed since that was signed.
async fn sign_again(
    session: &Session,
    lease: &LeaseKey,
    object: &str,
    why: &str,
) -> Result<(SignedObject, bool), Problem> {
    tracing::debug!(object, why, "asking for another URL");
    let (signed, _) = sign(session, lease, object, true).await?;
    // It is not asked for a third time, also when another upload has asked for this one.
    Ok((signed, false))
}

/// A URL for an object, and whether it was kept from an earlier answer.
async fn sign(
    session: &Session,
    lease: &LeaseKey,
    object: &str,
    anew: bool,
) -> Result<(SignedObject, bool), Problem> {
    let signed = session.urls().of(session, lease, object, anew).await.map_err(|error| match error {
        // It has no keys for this output, as a worker of its own might have none.
        error if error.is_of_setting() => Problem::Refused(Error::Denied(error.to_string())),
        error => error.into(),
    })?;
    signed.ok_or_else(|| Problem::Later(format!("sign {object}: the coordinator sent no URL for it")))
}

fn url(text: &str) -> Result<Url, Error> {
    // It is a secret for as long as it is good.
    Url::parse(text).map_err(|error| Error::Invalid(format!("a URL that the coordinator signed: {error}")))
}

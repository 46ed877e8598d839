//! Where objects of a lease go: straight to the output, or to URLs that the coordinator signs.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use sanafarm_proto::v1::SignedObject;
use sanafarm_storage::{Digest, Error, Found, Output, Put, Signed};
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
pub(super) enum Place {
    /// This worker may write there.
    Own(Output),
    /// It has no keys: every object has a URL of its own.
    Signed { client: Signed, session: Session, name: Arc<str> },
}

impl Place {
    /// Opens the output of a lease.
    pub(super) async fn open(name: &str, presigned: bool, session: &Session) -> Result<Self, Problem> {
        if !presigned {
            return Ok(Self::Own(publish::open(name).await?));
        }
        Ok(Self::Signed { client: Signed::new()?, session: session.clone(), name: name.into() })
    }

    /// The folder or the URL, for people.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Own(output) => output.place(),
            Self::Signed { name, .. } => name,
        }
    }

    /// Writes an object unless there is one of this name already.
    pub(super) async fn put_new(
        &self,
        lease: &LeaseKey,
        object: &str,
        source: &Source,
    ) -> Result<Written, Problem> {
        let put = match self {
            Self::Own(output) => match source {
                Source::Memory(bytes) => output.put_new(object, bytes.clone()).await?,
                Source::File(file) => output.put_new_file(object, file).await?,
            },
            Self::Signed { client, session, .. } => {
                let signed = sign(session, lease, object).await?;
                if signed.put_url.is_empty() {
                    return Ok(Written::Unwanted);
                }
                let url = url(&signed.put_url)?;
                match source {
                    Source::Memory(bytes) => client.put_new(&url, bytes.clone()).await?,
                    Source::File(file) => client.put_new_file(&url, file).await?,
                }
            }
        };
        Ok(put.into())
    }

    /// Reads an object of up to `limit` bytes.
    pub(super) async fn get(&self, lease: &LeaseKey, object: &str, limit: u64) -> Result<Found, Problem> {
        match self {
            Self::Own(output) => Ok(output.get(object, limit).await?),
            Self::Signed { client, session, .. } => {
                let signed = sign(session, lease, object).await?;
                Ok(client.get(&url(&signed.get_url)?, limit).await?)
            }
        }
    }

    /// Size and checksum of an object that is there; `None` also when it cannot be read in constant memory.
    pub(super) async fn digest(&self, object: &str) -> Result<Option<Digest>, Problem> {
        match self {
            Self::Own(output) => Ok(output.digest(object).await?),
            Self::Signed { .. } => Ok(None),
        }
    }

    /// Removes an object that is nobody's; one that stays is an orphan that harms nothing.
    pub(super) async fn remove(&self, object: &str) {
        match self {
            Self::Own(output) => {
                if let Err(error) = output.remove(object).await {
                    tracing::warn!(%error, object, "a tar that was refused stays in the output");
                }
            }
            Self::Signed { .. } => {
                tracing::info!(object, "a tar that was refused stays in the output: nobody signs removals");
            }
        }
    }
}

async fn sign(session: &Session, lease: &LeaseKey, object: &str) -> Result<SignedObject, Problem> {
    let mut signed = session.sign(lease, vec![object.to_owned()]).await?;
    match signed.pop() {
        Some(signed) if signed.object == object => Ok(signed),
        Some(_) | None => Err(Problem::Later(format!("sign {object}: the coordinator sent no URL for it"))),
    }
}

fn url(text: &str) -> Result<Url, Problem> {
    // It is a secret for as long as it is good.
    Url::parse(text)
        .map_err(|error| Error::Invalid(format!("a URL that the coordinator signed: {error}")).into())
}

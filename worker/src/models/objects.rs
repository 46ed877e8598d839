//! All below a prefix of an object store.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures::StreamExt;
use sanafarm_storage::{Entry, Input, Output};
use sha2::{Digest, Sha256};

use super::Error;
use super::source::{Reading, RemoteFile, Source, Survey};

/// Objects that a prefix may have: a bucket full of other things is no model.
const MAX_OBJECTS: usize = 10_000;
/// Letters of a version: as those of a commit.
const VERSION: usize = 40;

/// A prefix with a model below it.
pub(super) struct Objects {
    place: Output,
    url: String,
}

impl Objects {
    /// Blocks for nothing and asks nobody.
    pub(super) fn new(url: &str) -> Result<Self, Error> {
        let wrong = |error: sanafarm_storage::Error| Error::Reference {
            reference: url.to_owned(),
            why: error.to_string(),
        };
        Ok(Self { place: Output::open(url).map_err(wrong)?, url: url.to_owned() })
    }

    fn error(&self, error: sanafarm_storage::Error) -> Error {
        use sanafarm_storage::Error as Kind;
        match error {
            Kind::Denied(what) => Error::Denied { what, hint: self.advice() },
            Kind::NotFound(what) => Error::Unknown(what),
            Kind::Invalid(why) => Error::Reference { reference: self.url.clone(), why },
            Kind::Unavailable(what) | Kind::Full(what) => Error::Unreachable(what),
        }
    }

    /// Where credentials come from.
    fn advice(&self) -> &'static str {
        let object = Input::open(&format!("{}/model_index.json", self.url));
        object.map_or("check the address and the credentials", |object| object.advice())
    }
}

#[async_trait]
impl Source for Objects {
    async fn survey(&self) -> Result<Survey, Error> {
        let mut entries = self.place.list(None);
        let (mut hasher, mut files) = (Sha256::new(), Vec::new());
        while let Some(entry) = entries.next().await.transpose().map_err(|error| self.error(error))? {
            if files.len() == MAX_OBJECTS {
                let why = format!("it holds more than {MAX_OBJECTS} objects: name the folder of one model");
                return Err(Error::Layout { reference: self.url.clone(), why });
            }
            let stamp = (seconds(entry.modified), entry.e_tag);
            hasher.update(format!("{}\0{}\0{stamp:?}\0", entry.name, entry.bytes));
            files.push(RemoteFile {
                name: entry.name,
                bytes: Some(entry.bytes),
                sha256: None,
                stamp: Some(stamp),
            });
        }
        if files.is_empty() {
            return Err(Error::Unknown(format!("there is nothing below {}", self.url)));
        }
        Ok(Survey { version: hex::encode(hasher.finalize())[..VERSION].to_owned(), files })
    }

    async fn read(&self, _version: &str, file: &RemoteFile, offset: u64) -> Result<Reading, Error> {
        let (modified, e_tag) = file.stamp.clone().unwrap_or_default();
        let entry = Entry {
            name: file.name.clone(),
            bytes: file.bytes.unwrap_or_default(),
            modified: SystemTime::UNIX_EPOCH + Duration::from_secs(modified),
            e_tag,
        };
        let found = self.place.read_listed(&entry, offset).await.map_err(|error| self.error(error))?;
        let changed = || {
            Error::Damaged(format!(
                "{} in {} was changed or removed while it was downloaded",
                file.name, self.url
            ))
        };
        let reading = found.ok_or_else(changed)?;
        let chunks = reading.map(|chunk| chunk.map_err(|error| Error::Unreachable(error.to_string())));
        Ok(Reading { offset, chunks: chunks.boxed() })
    }
}

/// Since 1970; 0 for what is older.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

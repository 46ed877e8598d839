//! All below a prefix of an object store. A store tells no checksums that mean the same everywhere: they come from a file
//! `SHA256SUMS` beside the model, where there is one.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures::StreamExt;
use sanafarm_storage::{Entry, Found, Input, Output};
use sha2::{Digest, Sha256};

use super::Error;
use super::source::{Reading, RemoteFile, Source, Survey};

/// Objects that a prefix may have: a bucket full of other things is no model.
const MAX_OBJECTS: usize = 10_000;
/// What `sha256sum` writes.
const SUMS: &str = "SHA256SUMS";
/// A file that is larger has no sums of a model.
const MAX_SUMS: u64 = 4 << 20;
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

    /// What the files should be, by their names.
    async fn sums(&self) -> Result<BTreeMap<String, String>, Error> {
        let found = self.place.get(SUMS, MAX_SUMS).await.map_err(|error| self.error(error))?;
        let wrong = |why: String| Error::Damaged(format!("{SUMS} in {}: {why}", self.url));
        match found {
            Found::Object(text) => sums(&String::from_utf8_lossy(&text)).map_err(wrong),
            Found::Larger => Err(wrong(format!("it has more than {MAX_SUMS} bytes"))),
            Found::Nothing => Err(wrong("it was removed while the model was looked at".to_owned())),
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
        if files.iter().any(|file| file.name == SUMS) {
            let sums = self.sums().await?;
            for file in &mut files {
                file.sha256 = sums.get(&file.name).cloned();
            }
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

/// Reads lines of 64 hexadecimal digits, a space, a space or `*`, and a name.
fn sums(text: &str) -> Result<BTreeMap<String, String>, String> {
    let read = |line: &str| {
        let (sum, name) = line.split_once(' ')?;
        let name = name.strip_prefix([' ', '*'])?;
        let is_sum = sum.len() == 64 && sum.bytes().all(|digit| digit.is_ascii_hexdigit());
        let name = name.strip_prefix("./").unwrap_or(name);
        is_sum.then(|| (name.to_owned(), sum.to_ascii_lowercase()))
    };
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| {
            read(line).ok_or_else(|| format!("line {} is not what sha256sum writes", number + 1))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::sums;

    #[test]
    fn sums_are_read_as_sha256sum_writes_them() {
        let (a, b) = ("a".repeat(64), "B".repeat(64));
        let read = sums(&format!("{a}  vae/config.json\n{b} *./a b.safetensors\n\n")).unwrap();
        assert_eq!(read["vae/config.json"], a);
        assert_eq!((read["a b.safetensors"].as_str(), read.len()), ("b".repeat(64).as_str(), 2));
        for bad in ["a  x", &format!("{a} x"), &a, &format!("{}g  x", "a".repeat(63))] {
            assert_eq!(sums(&format!("{b}  x\n{bad}")).unwrap_err(), "line 2 is not what sha256sum writes");
        }
    }
}

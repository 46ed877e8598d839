//! What an outbox writes down about a picture and about a tar, and how it tells a whole record from a broken one.

use sanafarm_proto::v1::image_result::Outcome;
use sanafarm_proto::v1::{ImageDone, ImageResult};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::leases::LeaseKey;
use crate::picture::{self, Encoding, Quality};

/// First word of a record file, and the version of what follows.
const MAGIC: &str = "sanafarm-outbox-1";

/// A finished picture that no coordinator has acknowledged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The lease that it was rendered under.
    pub(crate) lease: LeaseKey,
    pub(crate) job: String,
    pub(crate) index: u64,
    /// As the lease names it.
    pub(crate) output: String,
    /// Its name below the output, or in the tar.
    pub(crate) object: String,
    /// Written to URLs that the coordinator signs.
    pub(crate) presigned: bool,
    /// Of the file that lies beside the record.
    pub(crate) picture: File,
    /// All that is needed to render it again, as JSON.
    pub(crate) recipe: String,
    pub(crate) encoding: Encoding,
    pub(crate) quality: Quality,
    pub(crate) thumbnail: Option<Thumbnail>,
    pub(crate) device: String,
    pub(crate) render_seconds: f64,
    pub(crate) decode_seconds: f64,
    pub(crate) log: String,
    /// It belongs in a tar.
    pub(crate) sample: Option<Sample>,
    /// It lies at its name in the output: this is what lies there.
    pub(crate) stored: Option<Stored>,
}

/// Size and checksum of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct File {
    pub(crate) bytes: u64,
    /// In hex.
    pub(crate) sha256: String,
}

impl File {
    /// Of a file in memory.
    pub(crate) fn of(file: &[u8]) -> Self {
        Self { bytes: file.len() as u64, sha256: picture::sha256(file) }
    }
}

/// A small picture of a picture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Thumbnail {
    /// Its name below the output.
    pub(crate) object: String,
    pub(crate) file: File,
}

/// What a tar tells about a picture beside its recipe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// The tar of its lease, below the output.
    pub(crate) archive: String,
    /// The row's own name; empty without one.
    pub(crate) id: String,
    /// Pass-through columns as one JSON object; empty for none.
    pub(crate) extra: String,
}

/// The object that stands for a picture: of this attempt or of an earlier one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub(crate) file: File,
    pub(crate) recipe: String,
}

impl Record {
    /// As the coordinator is told.
    pub(crate) fn result(&self) -> ImageResult {
        let (file, recipe) = match &self.stored {
            Some(stored) => (&stored.file, &stored.recipe),
            None => (&self.picture, &self.recipe),
        };
        let done = ImageDone {
            object: self.object.clone(),
            bytes: file.bytes,
            sha256: file.sha256.clone(),
            recipe: recipe.clone(),
            quality: Some(self.quality.into()),
        };
        ImageResult {
            index: self.index,
            outcome: Some(Outcome::Done(done)),
            device_id: self.device.clone(),
            render_seconds: self.render_seconds,
            decode_seconds: self.decode_seconds,
            log: self.log.clone(),
        }
    }
}

/// A tar of one lease that is to be uploaded, or was, and is not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tar {
    pub(crate) lease: LeaseKey,
    /// How many tars of this lease were refused before.
    pub(crate) turn: u32,
    /// Its name below the output.
    pub(crate) object: String,
    pub(crate) file: File,
    /// Indices of the images in it, in order.
    pub(crate) images: Vec<u64>,
}

/// Why a record cannot be believed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("it does not begin as a record of this version does")]
    Header,
    #[error("its checksum is not that of its text")]
    Checksum,
    #[error("its text cannot be read: {0}")]
    Text(#[from] serde_json::Error),
}

/// The file of a record: its version, its checksum, and JSON.
pub(crate) fn write<T: Serialize>(record: &T) -> Result<String, serde_json::Error> {
    let text = serde_json::to_string(record)?;
    let sum = picture::sha256(text.as_bytes());
    Ok(format!("{MAGIC} {sum}\n{text}\n"))
}

/// Reads what [`write`] wrote, whole and unchanged.
pub(crate) fn read<T: DeserializeOwned>(file: &[u8]) -> Result<T, Broken> {
    let file = str::from_utf8(file).map_err(|_| Broken::Checksum)?;
    let (header, text) = file.split_once('\n').ok_or(Broken::Header)?;
    let sum = header.strip_prefix(MAGIC).and_then(|rest| rest.strip_prefix(' ')).ok_or(Broken::Header)?;
    let text = text.strip_suffix('\n').ok_or(Broken::Checksum)?;
    if picture::sha256(text.as_bytes()) != sum {
        return Err(Broken::Checksum);
    }
    Ok(serde_json::from_str(text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar() -> Tar {
        Tar {
            lease: LeaseKey { shard_id: "a".into(), attempt: 3 },
            turn: 1,
            object: "a-3-1.tar".into(),
            file: File { bytes: 7, sha256: "00".repeat(32) },
            images: vec![1, 2, 5],
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        assert_eq!(read::<Tar>(write(&tar()).unwrap().as_bytes()).unwrap(), tar());
    }

    #[test]
    fn no_changed_or_cut_record_is_believed() {
        let whole = write(&tar()).unwrap().into_bytes();
        for at in 0..whole.len() {
            assert!(read::<Tar>(&whole[..at]).is_err(), "cut at {at}");
            let mut flipped = whole.clone();
            flipped[at] ^= 0x01;
            assert!(read::<Tar>(&flipped).is_err(), "a flipped bit at {at}");
        }
        assert!(matches!(read::<Tar>(b"sanafarm-outbox-9 0\n{}\n"), Err(Broken::Header)));
        assert!(matches!(read::<Record>(&whole), Err(Broken::Text(_))), "another kind of record");
    }
}

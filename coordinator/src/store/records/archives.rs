//! Tars in the layout webdataset.

use crate::domain::Invalid;
use crate::domain::archive;
use crate::domain::id::JobId;
use crate::store::records::{LeaseRef, Outcome, Report};

/// A tar that a worker reports with the pictures in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewArchive {
    /// Where it is, below the output.
    pub object: String,
    /// Size of it.
    pub bytes: u64,
    /// Of it, in hex.
    pub sha256: String,
}

/// A committed tar with the number of its final name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// Job of its pictures.
    pub job: JobId,
    /// Attempt that it came from.
    pub lease: LeaseRef,
    /// Where the worker has put it.
    pub object: String,
    /// Size of it.
    pub bytes: u64,
    /// Of it, in hex.
    pub sha256: String,
    /// Pictures in it.
    pub images: u64,
    /// Of its final name.
    pub number: u64,
}

impl Archive {
    /// Its final name below the output.
    pub fn name(&self) -> String {
        archive::final_name(self.number)
    }
}

impl Report {
    /// The tar of a report, if that is one that can be committed: of this attempt, with pictures only, each once.
    pub(in crate::store) fn checked_archive(&self) -> Result<Option<&NewArchive>, Invalid> {
        let Some(archive) = &self.archive else { return Ok(None) };
        let LeaseRef { shard, attempt } = &self.lease;
        let refuse = |what: String| Err(Invalid::job(what));
        if !archive::is_staged_name(&archive.object, shard.as_str(), *attempt) {
            return refuse(format!(
                "the archive {:?} is none of attempt {attempt} of shard {shard}",
                archive.object
            ));
        }
        let done = |outcome: &Outcome| matches!(outcome, Outcome::Done { .. });
        if self.results.is_empty() || !self.results.iter().all(|result| done(&result.outcome)) {
            return refuse("a report with an archive tells of its pictures and of nothing else".to_owned());
        }
        let mut indices: Vec<u64> = self.results.iter().map(|result| result.index).collect();
        indices.sort_unstable();
        match indices.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => refuse(format!("image {} is in the archive twice", pair[0])),
            None => Ok(Some(archive)),
        }
    }

    /// What is wrong with pictures that come without a tar where their job wants one, or with one where it does not.
    pub(in crate::store) fn wrong_layout(&self) -> Invalid {
        Invalid::job(match self.archive {
            None => "pictures of this job are reported with the archive that they are in",
            Some(_) => "pictures of this job are objects of their own and in no archive",
        })
    }

    /// What is wrong with another tar of an attempt that has one.
    pub(in crate::store) fn second_archive(&self) -> Invalid {
        let LeaseRef { shard, attempt } = &self.lease;
        Invalid::job(format!("attempt {attempt} of shard {shard} has its archive already"))
    }
}

//! Images of a list that are the same: one prompt, negative prompt, seed and settings, in one model.
//!
//! Each image that was seen is 128 bits of a SHA-256; with the room that hash tables keep free that is 20 to 39 bytes an
//! image: 40 MB for a million.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::path::Path;

use sanafarm_coordinator::domain::seed::image_seed;
use sanafarm_proto::v1::{JobSpec, PromptRow, Settings};
use sha2::{Digest, Sha256};

use super::spool::{Spool, Writer};
use crate::error::Error;
use crate::prompts::Numbering;

/// How many tables hold what was seen, as a power of 2.
const TABLE_BITS: u32 = 8;

/// Looks at the images of a job, in their order.
pub struct Duplicates<'s> {
    spec: &'s JobSpec,
    settings: Settings,
    seen: Seen,
    /// Images so far; the next one has this index.
    images: u64,
}

/// What merging has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Rows that were dropped: all their images were there.
    pub rows: u64,
    /// Images that they would have been.
    pub images: u64,
    /// Images that are there twice all the same, as some other image of their row is not.
    pub left: u64,
}

impl<'s> Duplicates<'s> {
    /// Before the first image of a job that has this spec.
    pub fn new(spec: &'s JobSpec) -> Self {
        let settings = spec.settings.unwrap_or_default();
        Self { spec, settings, seen: Seen::default(), images: 0 }
    }

    /// How many images of a row were there before; they all count as seen now.
    pub fn add(&mut self, row: &PromptRow) -> u64 {
        let names = self.names(row);
        let before = names.iter().filter(|name| self.seen.contains(**name)).count();
        self.take(names);
        before as u64
    }

    fn take(&mut self, names: Vec<u128>) {
        self.images += names.len() as u64;
        names.into_iter().for_each(|name| self.seen.insert(name));
    }

    /// What tells the images of the next row from all others.
    fn names(&self, row: &PromptRow) -> Vec<u128> {
        let mut content = Sha256::new();
        for text in [&row.prompt, row.negative_prompt.as_ref().unwrap_or(&self.spec.negative_prompt)] {
            content.update(text.len().to_le_bytes());
            content.update(text);
        }
        content.update(row.width.unwrap_or(self.settings.width).to_le_bytes());
        content.update(row.height.unwrap_or(self.settings.height).to_le_bytes());
        content.update(row.steps.unwrap_or(self.settings.steps).to_le_bytes());
        // 0.0 and -0.0 are one guidance.
        content.update((row.guidance.unwrap_or(self.settings.guidance) + 0.0).to_le_bytes());
        let name = |copy| {
            let seed = image_seed(self.spec.seed, row.seed, self.images + copy, copy);
            let digest = content.clone().chain_update(seed.to_le_bytes()).finalize();
            let (name, _) = digest.split_at(16);
            name.iter().fold(0, |name, byte| name << 8 | u128::from(*byte))
        };
        (0..u64::from(self.spec.images_per_prompt)).map(name).collect()
    }
}

/// Refuses a list in which an image is there twice, and names the first two rows.
pub fn refuse(spool: &mut Spool, spec: &JobSpec, numbering: &Numbering) -> Result<(), Error> {
    let mut duplicates = Duplicates::new(spec);
    for batch in spool.batches()? {
        for row in batch?.rows {
            let names = duplicates.names(&row);
            let Some(twice) = names.iter().copied().find(|name| duplicates.seen.contains(*name)) else {
                duplicates.take(names);
                continue;
            };
            let first = first_line(spool, spec, twice)?;
            let what = format!("the same image as {}", numbering.name(first));
            return Err(Error::mistake(numbering.error(row.line, what).to_string()).hint(
                "prompt, negative prompt, seed and settings are equal; mend the list, or drop later copies with \
                 --on-duplicate merge",
            ));
        }
    }
    Ok(())
}

fn first_line(spool: &mut Spool, spec: &JobSpec, wanted: u128) -> Result<u64, Error> {
    let mut duplicates = Duplicates::new(spec);
    for batch in spool.batches()? {
        for row in batch?.rows {
            let names = duplicates.names(&row);
            if names.contains(&wanted) {
                return Ok(row.line);
            }
            duplicates.images += names.len() as u64;
        }
    }
    Err(Error::failure("find the first of two equal rows again"))
}

/// The same list without the later copies of images. Those after a dropped row have the seeds of their new places.
pub fn merge(mut spool: Spool, spec: &JobSpec, folder: &Path) -> Result<(Spool, Merged), Error> {
    let mut duplicates = Duplicates::new(spec);
    let mut merged = Merged::default();
    let mut kept = Writer::new(folder)?;
    for batch in spool.batches()? {
        for row in batch?.rows {
            let names = duplicates.names(&row);
            let twice = names.iter().filter(|name| duplicates.seen.contains(**name)).count();
            if twice == names.len() {
                merged.rows += 1;
                merged.images += names.len() as u64;
                continue;
            }
            merged.left += twice as u64;
            kept.add(&row)?;
            duplicates.take(names);
        }
    }
    Ok((kept.finish()?, merged))
}

/// Names that were seen, in many small tables: one that grows is there twice for a moment, and all of them never are.
struct Seen {
    tables: Vec<HashSet<u128, BuildHasherDefault<Digits>>>,
}

impl Default for Seen {
    fn default() -> Self {
        Self { tables: vec![HashSet::default(); 1 << TABLE_BITS] }
    }
}

impl Seen {
    fn contains(&self, name: u128) -> bool {
        self.tables[Self::table(name)].contains(&name)
    }

    fn insert(&mut self, name: u128) {
        self.tables[Self::table(name)].insert(name);
    }

    fn table(name: u128) -> usize {
        (name >> (u128::BITS - TABLE_BITS)) as usize
    }
}

/// Names are digits of a checksum: as evenly spread as any hash of them.
#[derive(Default)]
pub struct Digits(u64);

impl Hasher for Digits {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0 << 8 | u64::from(*byte);
        }
    }

    fn write_u128(&mut self, name: u128) {
        self.0 = name as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

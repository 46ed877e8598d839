//! What an earlier run left: read, checked against its checksums, or set aside.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use sanafarm_telemetry::image_log::ImageLog;

use super::folder::{Aside, Folder, Id, measure};
use super::record::{self, Record, Tar};
use super::{Entry, Outbox, Payload};
use crate::leases::LeaseKey;

/// What can be used.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    pub(super) entries: Vec<Entry>,
    pub(super) tars: Vec<(Id, Tar)>,
    /// What was set aside and why.
    pub(super) troubles: Vec<String>,
}

/// Reads all that lies in the folder.
pub(super) fn recover(folder: &Folder) -> io::Result<Recovered> {
    let listing = folder.list()?;
    let mut recovered = Recovered::default();
    for id in listing.records {
        match read_entry(folder, id) {
            Ok(entry) => recovered.entries.push(entry),
            Err(why) => recovered.set_aside(folder, id, &why)?,
        }
    }
    let mut collected: BTreeMap<&LeaseKey, BTreeSet<u64>> = BTreeMap::new();
    for Entry { record, .. } in recovered.entries.iter().filter(|entry| entry.collects()) {
        collected.entry(&record.lease).or_default().insert(record.index);
    }
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    // The newest first: an older one of the same lease was refused.
    let mut seen = BTreeSet::new();
    for id in listing.tars.into_iter().rev() {
        match read_tar(folder, id, &collected) {
            Ok(Some(tar)) if seen.insert(tar.lease.clone()) => good.push((id, tar)),
            // Nothing of it is left to be committed.
            Ok(_) => folder.discard_tar(id)?,
            Err(why) => bad.push((id, why)),
        }
    }
    recovered.tars = good;
    for (id, why) in bad {
        recovered.set_aside(folder, id, &why)?;
    }
    Ok(recovered)
}

impl Recovered {
    fn set_aside(&mut self, folder: &Folder, id: Id, why: &str) -> io::Result<()> {
        let place = folder.set_aside(id, Aside::Corrupt)?;
        tracing::error!(entry = %id, folder = %place.display(), why, "set a corrupt record of the outbox aside");
        self.troubles.push(format!("corrupt record {id} was moved to {}: {why}", place.display()));
        Ok(())
    }
}

fn read_entry(folder: &Folder, id: Id) -> Result<Entry, String> {
    let file = folder.read_record(id).map_err(|error| format!("read the record: {error}"))?;
    let record: Record = record::read(&file).map_err(|error| format!("the record: {error}"))?;
    if record.stored.is_some() {
        // It may have been killed before this.
        folder.drop_files(id).map_err(|error| format!("drop the stored picture: {error}"))?;
        return Ok(recovered(id, record, Payload::Gone));
    }
    for (what, path, expected) in files(folder, id, &record) {
        check(what, &path, expected)?;
    }
    Ok(recovered(id, record, Payload::Disk))
}

/// Compares a file with what was written there.
type Check = fn(&str, &Path, &record::File) -> Result<(), String>;

/// The files of a record, and what was written there.
fn files<'a>(
    folder: &Folder,
    id: Id,
    record: &'a Record,
) -> impl Iterator<Item = (&'static str, PathBuf, &'a record::File)> + use<'a> {
    let thumbnail = record.thumbnail.as_ref();
    let small = thumbnail.map(|thumbnail| ("the thumbnail", folder.thumbnail(id), &thumbnail.file));
    std::iter::once(("the picture", folder.picture(id), &record.picture)).chain(small)
}

impl Outbox {
    /// Reads the files of an entry through; the error says how they are not what was written.
    pub(crate) async fn check(&self, entry: &Entry) -> Result<(), String> {
        self.check_files(entry, check_now).await
    }

    /// Looks at the sizes alone.
    pub(crate) async fn check_sizes(&self, entry: &Entry) -> Result<(), String> {
        self.check_files(entry, check_size).await
    }

    async fn check_files(&self, entry: &Entry, check: Check) -> Result<(), String> {
        if !matches!(entry.payload, Payload::Disk) {
            return Ok(());
        }
        let (id, record) = (entry.id, entry.record.clone());
        let checked = self.block(move |folder| {
            let mut files = files(folder, id, &record);
            Ok(files.try_for_each(|(what, path, expected)| check(what, &path, expected)))
        });
        // No answer is no reason to give a picture up.
        checked.await.unwrap_or(Ok(()))
    }

    /// Whether the file of a tar has the size that was written.
    pub(crate) async fn has_tar(&self, id: Id, tar: &Tar) -> bool {
        self.check_tar(id, tar, check_size).await
    }

    /// Whether the file of a tar, read through, is what was written.
    pub(crate) async fn has_whole_tar(&self, id: Id, tar: &Tar) -> bool {
        self.check_tar(id, tar, check_now).await
    }

    async fn check_tar(&self, id: Id, tar: &Tar, check: Check) -> bool {
        let expected = tar.file.clone();
        let checked = self.block(move |folder| Ok(check("the tar", &folder.tar(id), &expected).is_ok()));
        checked.await.unwrap_or(true)
    }
}

fn recovered(id: Id, record: Record, payload: Payload) -> Entry {
    let log = ImageLog::going_on(&record.job, record.index, &record.log);
    let thumbnail_is_stored = AtomicBool::new(false);
    Entry { id, record, payload, log, origin: None, recovered: true, thumbnail_is_stored }
}

/// The tar of a lease that has images here. One of other images than these counts as the last that was refused.
fn read_tar(
    folder: &Folder,
    id: Id,
    collected: &BTreeMap<&LeaseKey, BTreeSet<u64>>,
) -> Result<Option<Tar>, String> {
    let file = folder.read_tar_record(id).map_err(|error| format!("read the record of a tar: {error}"))?;
    let tar: Tar = record::read(&file).map_err(|error| format!("the record of a tar: {error}"))?;
    let Some(images) = collected.get(&tar.lease) else { return Ok(None) };
    if images.iter().eq(&tar.images) {
        check("the tar", &folder.tar(id), &tar.file)?;
    }
    Ok(Some(tar))
}

fn check(what: &str, path: &Path, expected: &record::File) -> Result<(), String> {
    compare(what, measure(path).map_err(|error| format!("{what}: {error}"))?, expected)
}

/// The same at work, where the process may have no file or no memory to spare: that is no fault of the picture.
fn check_now(what: &str, path: &Path, expected: &record::File) -> Result<(), String> {
    match measure(path) {
        Ok(found) => compare(what, found, expected),
        Err(error) if is_passing(&error) => Ok(()),
        Err(error) => Err(format!("{what}: {error}")),
    }
}

fn check_size(what: &str, path: &Path, expected: &record::File) -> Result<(), String> {
    match std::fs::metadata(path) {
        Ok(found) if found.len() == expected.bytes => Ok(()),
        Ok(found) => Err(format!("{what} has {} bytes instead of {}", found.len(), expected.bytes)),
        Err(error) if is_passing(&error) => Ok(()),
        Err(error) => Err(format!("{what}: {error}")),
    }
}

fn compare(what: &str, found: record::File, expected: &record::File) -> Result<(), String> {
    if found.bytes != expected.bytes {
        return Err(format!("{what} has {} bytes instead of {}", found.bytes, expected.bytes));
    }
    if found.sha256 != expected.sha256 {
        return Err(format!("{what} is not what was written: its checksum is another"));
    }
    Ok(())
}

/// Too many files are open, in the process or on the machine, or there is no memory.
fn is_passing(error: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    matches!(error.raw_os_error(), Some(ENFILE | EMFILE)) || error.kind() == io::ErrorKind::OutOfMemory
}

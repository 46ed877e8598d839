//! What an earlier run left: read, checked against its checksums, or set aside.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use sanafarm_telemetry::image_log::ImageLog;

use super::folder::{Aside, Folder, Id, measure};
use super::record::{self, Record, Tar};
use super::{Entry, Payload};
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
    check("the picture", &folder.picture(id), &record.picture)?;
    if let Some(thumbnail) = &record.thumbnail {
        check("the thumbnail", &folder.thumbnail(id), &thumbnail.file)?;
    }
    Ok(recovered(id, record, Payload::Disk))
}

fn recovered(id: Id, record: Record, payload: Payload) -> Entry {
    let log = ImageLog::going_on(&record.job, record.index, &record.log);
    Entry { id, record, payload, log, origin: None, recovered: true }
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

fn check(what: &str, path: &std::path::Path, expected: &record::File) -> Result<(), String> {
    let found = measure(path).map_err(|error| format!("{what}: {error}"))?;
    if found.bytes != expected.bytes {
        return Err(format!("{what} has {} bytes instead of {}", found.bytes, expected.bytes));
    }
    if found.sha256 != expected.sha256 {
        return Err(format!("{what} is not what was written: its checksum is another"));
    }
    Ok(())
}

//! The books of an outbox: what lies in it, and whose turn it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::folder::Id;
use super::record::Tar;
use super::{Entry, Work};
use crate::leases::LeaseKey;
use crate::report::Report;

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) entries: BTreeMap<Id, Arc<Entry>>,
    /// Room that entries and tars take.
    pub(super) bytes: u64,
    /// Entries that lie in memory alone.
    pub(super) in_memory: usize,
    /// Of the images that lie here, by job.
    pub(super) images: BTreeSet<(String, u64)>,
    /// Images that were committed while a lease was on its way that may have been given before, with them in it.
    pub(super) committed: BTreeSet<(String, u64)>,
    pub(super) tars: BTreeMap<LeaseKey, (Id, Tar)>,
    /// Leases whose pictures collect no more.
    pub(super) packing: BTreeSet<LeaseKey>,
    /// Both channels hold no more than lies here.
    pub(super) work: Option<mpsc::UnboundedSender<Work>>,
    pub(super) reports: Option<mpsc::UnboundedSender<Report>>,
}

impl State {
    /// Adds an entry, or puts it in the place of the one with its id.
    pub(super) fn insert(&mut self, entry: Arc<Entry>) {
        self.take(entry.id);
        self.images.insert((entry.record.job.clone(), entry.record.index));
        self.bytes += entry.bytes();
        self.in_memory += usize::from(entry.is_in_memory());
        self.entries.insert(entry.id, entry);
    }

    pub(super) fn take(&mut self, id: Id) -> Option<Arc<Entry>> {
        let entry = self.entries.remove(&id)?;
        self.images.remove(&(entry.record.job.clone(), entry.record.index));
        self.bytes -= entry.bytes();
        self.in_memory -= usize::from(entry.is_in_memory());
        Some(entry)
    }

    /// Adds the tar of a lease; gives the one before it.
    pub(super) fn put_tar(&mut self, id: Id, tar: Tar) -> Option<Id> {
        let old = self.take_tar(&tar.lease);
        self.bytes += tar.file.bytes;
        self.tars.insert(tar.lease.clone(), (id, tar));
        old
    }

    pub(super) fn take_tar(&mut self, lease: &LeaseKey) -> Option<Id> {
        let (id, tar) = self.tars.remove(lease)?;
        self.bytes -= tar.file.bytes;
        Some(id)
    }

    pub(super) fn of_lease(&self, lease: &LeaseKey) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.values().filter(move |entry| entry.collects() && entry.record.lease == *lease)
    }

    pub(super) fn send(&self, work: Work) {
        // A stage that has ended leaves the rest to the next run.
        if let Some(queue) = &self.work {
            let _ = queue.send(work);
        }
    }

    pub(super) fn report(&self, report: Report) {
        // The same.
        if let Some(queue) = &self.reports {
            let _ = queue.send(report);
        }
    }
}

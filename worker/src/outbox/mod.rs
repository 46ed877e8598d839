//! The outbox: finished pictures on local disk until a coordinator has acknowledged them.
//!
//! A picture is written here before anything else is done with it. From then on it survives the worker, its host's
//! restart and the network: it is uploaded (`store`), reported (`report`) and removed when it is acknowledged; what is left
//! of it when the worker ends is taken up by the next one of the same name. Pictures that belong in a tar collect here until
//! their lease has nothing left to render.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use sanafarm_proto::v1::ImageResult;
use sanafarm_telemetry::image_log::{self, ImageLog};
use tokio::sync::{Notify, mpsc};
use tracing::Span;

use crate::leases::LeaseKey;
use crate::recipe::Failure;
use crate::report::Report;
use crate::stats::{Kept, Stats};
use crate::told::Origin;

mod entry;
pub(crate) mod folder;
mod open;
pub(crate) mod record;
mod recover;
mod state;

pub(crate) use entry::{Entry, Payload, Work};
pub(crate) use folder::Id;
use folder::{Aside, Folder};
use record::{Record, Stored, Tar};
use state::State;

/// Where an outbox lies and how much it may hold.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Folder of outboxes: each worker has one of its own in it.
    pub folder: PathBuf,
    /// Bytes of finished pictures that may wait for a coordinator: the device waits beyond that.
    pub limit: u64,
}

/// The outbox of one worker.
#[derive(Debug)]
pub(crate) struct Outbox {
    folder: Arc<Folder>,
    limit: u64,
    stats: Arc<Stats>,
    state: Mutex<State>,
    changed: Notify,
}

/// The receiving ends of an outbox.
#[derive(Debug)]
pub(crate) struct Queues {
    pub(crate) work: mpsc::UnboundedReceiver<Work>,
    pub(crate) reports: mpsc::UnboundedReceiver<Report>,
}

impl Outbox {
    /// Its folder.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Keeps a finished picture; it is stored and reported from now on, or collects for its tar. When the disk does not take
    /// it, it goes its way from memory, unless it is for a tar: then the error says why.
    pub(crate) async fn add(
        &self,
        record: Record,
        picture: Bytes,
        thumbnail: Option<Bytes>,
        log: ImageLog,
        origin: Option<Arc<Origin>>,
    ) -> Result<(), String> {
        let id = Id::fresh();
        let kept = {
            let (record, picture, thumbnail) = (record.clone(), picture.clone(), thumbnail.clone());
            self.block(move |folder| folder.keep(id, &record, &picture, thumbnail.as_deref())).await
        };
        let payload = match kept {
            Ok(()) => {
                self.stats.set_trouble("outbox disk", None);
                Payload::Disk
            }
            Err(error) => {
                let trouble = format!("write to the outbox {}: {error}", self.path().display());
                tracing::error!(index = record.index, trouble, "a finished image cannot be kept on disk");
                self.stats.set_trouble("outbox disk", Some(trouble.clone()));
                if record.sample.is_some() {
                    return Err(trouble);
                }
                Payload::Memory { picture, thumbnail }
            }
        };
        let entry = Arc::new(Entry {
            id,
            record,
            payload,
            log,
            origin,
            recovered: false,
            thumbnail_is_stored: AtomicBool::new(false),
        });
        let mut state = self.lock();
        state.insert(entry.clone());
        if !entry.collects() {
            state.send(Work::Picture(entry));
        }
        self.tell(&state);
        Ok(())
    }

    /// No image of this lease will be added any more: those that collected are packed. Whether there are any.
    pub(crate) fn pack(&self, lease: &LeaseKey) -> bool {
        let mut state = self.lock();
        let collected = state.of_lease(lease).next().is_some();
        if collected && state.packing.insert(lease.clone()) {
            state.send(Work::Archive(lease.clone()));
        }
        collected
    }

    /// The pictures of a lease, by index.
    pub(crate) fn of_lease(&self, lease: &LeaseKey) -> Vec<Arc<Entry>> {
        let mut entries: Vec<_> = self.lock().of_lease(lease).cloned().collect();
        entries.sort_by_key(|entry| entry.record.index);
        entries
    }

    /// The tar of a lease that was packed and not acknowledged.
    pub(crate) fn tar(&self, lease: &LeaseKey) -> Option<(Id, Tar)> {
        self.lock().tars.get(lease).cloned()
    }

    /// A tar was written to its unfinished place: it counts from now on.
    pub(crate) async fn keep_tar(&self, id: Id, tar: Tar) -> io::Result<()> {
        let kept = tar.clone();
        self.block(move |folder| folder.keep_tar(id, &kept)).await?;
        let replaced = {
            let mut state = self.lock();
            let replaced = state.put_tar(id, tar);
            self.tell(&state);
            replaced
        };
        match replaced {
            Some(old) => self.block(move |folder| folder.discard_tar(old)).await,
            None => Ok(()),
        }
    }

    /// The tar of a lease is not wanted any more.
    pub(crate) async fn discard_tar(&self, lease: &LeaseKey) {
        let Some(id) = self.lock().take_tar(lease) else { return };
        if let Err(error) = self.block(move |folder| folder.discard_tar(id)).await {
            tracing::warn!(%error, outbox = %self.path().display(), "a tar stays in the outbox");
        }
        self.tell(&self.lock());
    }

    /// A picture lies in the output: its file is dropped, and its result is to be reported.
    pub(crate) async fn stored(&self, entry: &Entry, stored: Stored) {
        let id = entry.id;
        let record = Record { stored: Some(stored), log: entry.log.text(), ..entry.record.clone() };
        if matches!(entry.payload, Payload::Disk) {
            let written = record.clone();
            let noted = self.block(move |folder| {
                folder.write_record(id, &written)?;
                folder.drop_files(id)
            });
            if let Err(error) = noted.await {
                // Whoever finds it here uploads it again, and finds it there.
                tracing::warn!(%error, index = record.index, "not noted in the outbox that an image is stored");
            }
        }
        let mut state = self.lock();
        let (log, origin) = (entry.log.clone(), entry.origin.clone());
        let entry = Arc::new(Entry {
            id,
            record,
            payload: Payload::Gone,
            log,
            origin,
            recovered: entry.recovered,
            thumbnail_is_stored: AtomicBool::new(true),
        });
        state.insert(entry.clone());
        state.report(entry.report());
        self.tell(&state);
    }

    /// A picture cannot be stored, by no fault of the output: that is to be reported instead.
    pub(crate) fn failed(&self, entry: &Entry, failure: Failure) {
        let record = &entry.record;
        let report = Report::failed(
            record.lease.clone(),
            record.job.clone(),
            record.index,
            record.device.clone(),
            failure,
        );
        let (render_seconds, decode_seconds) = (record.render_seconds, record.decode_seconds);
        let log = entry.log.text();
        let result = ImageResult { render_seconds, decode_seconds, log, ..report.result };
        let (origin, recovered) = (entry.origin.clone(), entry.recovered);
        let report = Report { entry: Some(entry.id), origin, recovered, result, ..report };
        self.lock().report(report);
    }

    /// The logs of the images that this work is about.
    pub(crate) fn about(&self, work: &Work) -> Span {
        match work {
            Work::Picture(entry) => entry.log.span().clone(),
            Work::Archive(lease) => image_log::together(self.of_lease(lease).iter().map(|entry| &entry.log)),
        }
    }

    /// Reports what has nothing to be kept.
    pub(crate) fn report(&self, report: Report) {
        self.lock().report(report);
    }

    /// The pictures of these have been committed.
    pub(crate) async fn committed(&self, ids: Vec<Id>) {
        {
            let mut state = self.lock();
            // Of leases that seem to be held too: the coordinator may have given the shard to this worker again.
            let entries = ids.iter().filter_map(|id| state.entries.get(id));
            let images: Vec<_> =
                entries.map(|entry| (entry.record.job.clone(), entry.record.index)).collect();
            state.committed.extend(images);
        }
        self.remove(ids).await;
    }

    /// These have been acknowledged.
    pub(crate) async fn remove(&self, ids: Vec<Id>) {
        let removed = ids.clone();
        let discarded = self.block(move |folder| removed.into_iter().try_for_each(|id| folder.discard(id)));
        if let Err(error) = discarded.await {
            tracing::warn!(%error, outbox = %self.path().display(), "acknowledged images stay in the outbox");
        }
        self.forget(&ids);
    }

    /// This one cannot be used, or nobody takes it: it is kept where it is nobody's work, and named.
    pub(crate) async fn set_aside(&self, id: Id, why: Aside, message: &str) {
        let moved = self.block(move |folder| folder.set_aside(id, why)).await;
        match moved {
            Ok(folder) => {
                let trouble = format!("{id} was moved to {}: {message}", folder.display());
                tracing::error!(entry = %id, folder = %folder.display(), why = message, "set a finished image aside");
                self.stats.set_trouble("outbox", Some(trouble));
            }
            Err(error) => {
                tracing::error!(entry = %id, %error, why = message, "a finished image cannot be set aside")
            }
        }
        self.forget(&[id]);
    }

    fn forget(&self, ids: &[Id]) {
        let mut state = self.lock();
        for id in ids {
            if let Some(entry) = state.take(*id) {
                let lease = &entry.record.lease;
                if state.packing.contains(lease) && state.of_lease(lease).next().is_none() {
                    state.packing.remove(lease);
                }
            }
        }
        self.tell(&state);
    }

    /// Whether the image lies here: it is not to be rendered again.
    pub(crate) fn holds(&self, job: &str, index: u64) -> bool {
        self.lock().images.contains(&(job.to_owned(), index))
    }

    /// A lease is asked for: what is committed from now on may still be in it.
    pub(crate) fn lease_is_asked_for(&self) {
        self.lock().committed.clear();
    }

    /// Whether the image was committed from here since a lease was asked for last, and might have been in it.
    pub(crate) fn has_committed(&self, job: &str, index: u64) -> bool {
        self.lock().committed.contains(&(job.to_owned(), index))
    }

    /// Whether an image may be started while others in hand need up to `in_hand` bytes and it up to `bytes`. A picture of any
    /// size is taken when nothing is here that could make room.
    pub(crate) fn has_room(&self, in_hand: u64, bytes: u64) -> bool {
        let state = self.lock();
        if state.in_memory > 0 {
            return false;
        }
        let waits = |entry: &Arc<Entry>| entry.collects() && !state.packing.contains(&entry.record.lease);
        state.bytes + in_hand + bytes <= self.limit || (in_hand == 0 && state.entries.values().all(waits))
    }

    /// Waits for a change of what lies here; one that nobody has waited for counts.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Images that are here.
    pub(crate) fn images(&self) -> u64 {
        self.lock().entries.len() as u64
    }

    /// Nothing more will be added or packed: the store stage ends when all is done.
    pub(crate) fn close(&self) {
        self.lock().work = None;
    }

    /// Nothing more will be reported: the reporter ends when all is told.
    pub(crate) fn close_reports(&self) {
        self.lock().reports = None;
    }

    pub(crate) fn folder(&self) -> Arc<Folder> {
        self.folder.clone()
    }

    pub(crate) fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// Works on the folder away from the async threads.
    pub(crate) async fn block<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Folder) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let folder = self.folder.clone();
        tokio::task::spawn_blocking(move || work(&folder)).await.map_err(io::Error::other).flatten()
    }

    fn tell(&self, state: &State) {
        self.stats.set_outbox(Kept { images: state.entries.len() as u64, bytes: state.bytes });
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No critical section above leaves the books half-kept.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

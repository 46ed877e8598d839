//! Opening an outbox: what an earlier run left is queued again.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, mpsc};

use super::folder::{self, Folder};
use super::recover::{self, Recovered};
use super::state::State;
use super::{Outbox, Payload, Queues, Settings, Work};
use crate::Error;
use crate::stats::Stats;

impl Outbox {
    /// Opens the outbox of a worker and queues what lies there. The error says what to try.
    pub(crate) async fn open(
        settings: &Settings,
        worker: &str,
        stats: Arc<Stats>,
    ) -> Result<(Arc<Self>, Queues), Error> {
        let path = settings.folder.join(folder::name_for(worker));
        let shown = path.display().to_string();
        let opened = tokio::task::spawn_blocking(move || {
            let Some(folder) = Folder::open(&path)? else { return Ok(None) };
            recover::recover(&folder).map(|recovered| Some((folder, recovered)))
        });
        let failed = |error: io::Error| {
            Error::Outbox(format!(
                "open the outbox {shown}: {error}; name a folder on a local disk with --outbox"
            ))
        };
        let (folder, recovered) = match opened.await.map_err(io::Error::other).flatten().map_err(failed)? {
            Some(opened) => opened,
            None => {
                return Err(Error::OutboxInUse(format!(
                    "another worker uses the outbox {shown}: name this one otherwise, or give it a folder of its own \
                     with --outbox"
                )));
            }
        };
        let (work, works) = mpsc::unbounded_channel();
        let (reports, to_report) = mpsc::unbounded_channel();
        let state = State { work: Some(work), reports: Some(reports), ..State::default() };
        let outbox = Arc::new(Self {
            folder: Arc::new(folder),
            limit: settings.limit,
            stats,
            state: Mutex::new(state),
            changed: Notify::new(),
        });
        outbox.take_up(recovered);
        Ok((outbox, Queues { work: works, reports: to_report }))
    }

    fn take_up(&self, recovered: Recovered) {
        let Recovered { entries, tars, troubles } = recovered;
        if !entries.is_empty() {
            let images = entries.len();
            tracing::info!(images, outbox = %self.path().display(), "found finished images of an earlier run");
        }
        if !troubles.is_empty() {
            self.stats.set_trouble("outbox", Some(troubles.join("; ")));
        }
        let mut state = self.lock();
        for (id, tar) in tars {
            state.put_tar(id, tar);
        }
        let mut leases = BTreeSet::new();
        for entry in entries {
            let entry = Arc::new(entry);
            state.insert(entry.clone());
            if entry.collects() {
                leases.insert(entry.record.lease.clone());
            } else if matches!(entry.payload, Payload::Gone) {
                // Its output is not needed any more.
                state.report(entry.report());
            } else {
                state.send(Work::Picture(entry));
            }
        }
        for lease in leases {
            state.packing.insert(lease.clone());
            state.send(Work::Archive(lease));
        }
        self.tell(&state);
    }
}

//! Gives committed tars their final names while their jobs run: first the number, which is theirs for ever, then the part
//! of the manifest, then the name, then the record of it. A crash in between does it all again.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::PathBuf;
use std::sync::Arc;

use super::manifest::{self, Error};
use super::rounds::Rounds;
use crate::domain::id::JobId;
use crate::farm::Farm;
use crate::store;
use crate::store::records::{Archive, Duty, Job};
use futures::{StreamExt, TryStreamExt, stream};
use sanafarm_storage::{Output, Put};

/// Tars of one output on their way to their names at the same time, where each is copied. In a folder, where a name costs
/// nothing, one follows the other, so that there is no hole at any moment.
const COPIES: usize = 8;
/// Tars of one look at the store.
const PAGE: u32 = 100;
/// What went wrong with a tar of this job, or with the whole output.
#[derive(Debug)]
struct Failed {
    job: Option<JobId>,
    error: Error,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { job: None, error }
    }
}

impl From<store::Error> for Failed {
    fn from(error: store::Error) -> Self {
        Error::from(error).into()
    }
}

/// Outputs on their way.
struct Publisher {
    farm: Arc<Farm>,
    outputs: Rounds<String, Result<bool, Failed>>,
}

pub(super) async fn run(farm: Arc<Farm>) {
    Publisher { farm, outputs: Rounds::new() }.run().await;
}

impl Publisher {
    async fn run(&mut self) {
        let farm = Arc::clone(&self.farm);
        loop {
            if let Err(error) = self.start().await {
                tracing::warn!(%error, "look for archives to publish");
            }
            tokio::select! {
                () = farm.stop.cancelled() => return,
                Some((output, ended)) = self.outputs.next() => {
                    self.ended(output, ended.map_err(|error| Error::from(error).into()).flatten()).await;
                }
                () = farm.live.until_archived() => {}
                () = tokio::time::sleep(farm.options.sweep_interval) => {}
            }
        }
    }

    async fn start(&mut self) -> store::Result<()> {
        let found = self.farm.store.outputs_to_publish().await?;
        self.outputs.start(found, |output| publish(Arc::clone(&self.farm), output));
        Ok(())
    }

    async fn ended(&mut self, output: String, published: Result<bool, Failed>) {
        match published {
            Ok(true) => {
                self.outputs.done(&output);
                // Jobs may have waited for nothing else.
                self.farm.live.job_changed();
                self.farm.live.job_complete();
            }
            Ok(false) => self.outputs.leave_to_others(&output),
            Err(failed) => self.note_trouble(&output, &failed).await,
        }
    }

    async fn note_trouble(&mut self, output: &String, Failed { job, error }: &Failed) {
        let wait = self.outputs.failed(output);
        tracing::error!(output, %error, retry_seconds = wait.as_secs(), "publish archives");
        // When the database is in trouble, the output is not.
        let Some(job) = job.as_ref().filter(|_| !matches!(error, Error::Store(_))) else { return };
        if let Err(error) = self.record(job, &error.to_string()).await {
            tracing::warn!(%job, %error, "record output error");
        }
    }

    /// Once per trouble, not once per attempt.
    async fn record(&self, job: &JobId, text: &str) -> store::Result<()> {
        let store = &self.farm.store;
        if store.job(job.as_str()).await?.output_error.as_deref() != Some(text) {
            store.record_output_error(job, text, store.clock()).await?;
            self.farm.live.job_changed();
        }
        Ok(())
    }
}

/// Publishes all tars of an output; false when another coordinator is at it.
async fn publish(farm: Arc<Farm>, place: String) -> Result<bool, Failed> {
    let Some(_turn) = farm.store.turn(&Duty::Publish(place.clone())).await? else { return Ok(false) };
    let mut jobs: HashMap<JobId, Arc<Of>> = HashMap::new();
    let mut output = None;
    loop {
        let archives = farm.store.number_archives(&place, PAGE).await?;
        let Some(first) = archives.first() else { return Ok(true) };
        let of_first = |error: Error| Failed { job: Some(first.job.clone()), error };
        let output = match &mut output {
            Some(output) => output,
            none => none.insert(manifest::open(&place).await.map_err(of_first)?),
        };
        let mut tars = Vec::with_capacity(archives.len());
        for archive in archives {
            let of = match jobs.entry(archive.job.clone()) {
                Entry::Occupied(known) => Arc::clone(known.get()),
                Entry::Vacant(room) => {
                    Arc::clone(room.insert(Arc::new(Of::read(&farm, &archive.job).await?)))
                }
            };
            tars.push(Tar { farm: Arc::clone(&farm), output: output.clone(), of, archive });
        }
        let at_once = if output.folder().is_some() { 1 } else { COPIES };
        stream::iter(tars.into_iter().map(Tar::publish)).buffered(at_once).try_collect::<()>().await?;
    }
}

/// What a tar's part of the manifest tells of its job.
struct Of {
    job: Job,
    columns: Vec<String>,
}

impl Of {
    async fn read(farm: &Farm, job: &JobId) -> Result<Self, Error> {
        Ok(Self { job: farm.store.job(job.as_str()).await?, columns: farm.store.columns(job).await? })
    }
}

/// A tar on its way to its name.
struct Tar {
    farm: Arc<Farm>,
    output: Output,
    of: Arc<Of>,
    archive: Archive,
}

impl Tar {
    async fn publish(self) -> Result<(), Failed> {
        let job = self.archive.job.clone();
        self.try_publish().await.map_err(|error| Failed { job: Some(job), error })
    }

    async fn try_publish(&self) -> Result<(), Error> {
        let Self { farm, output, of, archive } = self;
        let rows = farm.store.archive_rows(archive).await?;
        if rows.len() as u64 != archive.images {
            let what = format!("{} has {} images, not {}", archive.object, rows.len(), archive.images);
            return Err(store::Error::Corrupt(what).into());
        }
        let scratch: &PathBuf = &farm.options.scratch;
        manifest::write_archive(output, &of.job, &of.columns, archive, rows, scratch).await?;
        let name = archive.name();
        match output.publish(&archive.object, &name).await? {
            Put::Created => {}
            Put::Exists => self.recognise(&name).await?,
        }
        farm.store.archive_published(&archive.lease, farm.store.clock()).await?;
        tracing::debug!(output = output.place(), name, images = archive.images, "archive published");
        Ok(())
    }

    /// Whether what stands there is this tar, named before a crash; then nothing is left of its old name.
    async fn recognise(&self, name: &str) -> Result<(), Error> {
        let found = self.output.digest(name).await?;
        let known = |digest: &sanafarm_storage::Digest| {
            digest.bytes == self.archive.bytes && digest.sha256 == self.archive.sha256
        };
        if !found.as_ref().is_some_and(known) {
            return Err(Error::Conflict { name: name.to_owned(), place: self.output.place().to_owned() });
        }
        self.output.remove(&self.archive.object).await?;
        Ok(())
    }
}

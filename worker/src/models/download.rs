//! From a reference to a whole model in the cache.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::cache::Entry;
use super::choose::{choose, is_outline};
use super::fetch::fetch;
use super::hub::Hub;
use super::lock::{Kind, Lock};
use super::meter::Meter;
use super::objects::Objects;
use super::record::{Here, Record, hash};
use super::reference::Remote;
use super::source::{RemoteFile, Source, Survey};
use super::{Error, Held, Models};
use crate::retry::Backoff;

/// Tries to reach a source before its last known version is taken.
const SURVEYS: u32 = 4;
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(4);

impl Models {
    /// The whole model, and the right to use it.
    pub(super) async fn obtain(&self, remote: &Remote) -> Result<Held, Error> {
        // A commit never changes: nobody needs to be asked.
        if let Some(commit) = remote.commit()
            && let Some(held) = self.whole(remote, commit).await?
        {
            return Ok(held);
        }
        let source = self.source(remote)?;
        let survey = match survey(source.as_ref(), remote).await {
            Ok(survey) => survey,
            Err(error) if error.is_transient() => return self.last_known(remote, error).await,
            Err(error) => return Err(error),
        };
        let version = survey.version.clone();
        let (entry, in_use) = self.enter(remote, &version).await?;
        self.note(remote, &version);
        let chosen = chosen(remote, &survey)?;
        let folder = self.bring(remote, source.as_ref(), &entry, &version, &chosen, |_| true).await?;
        Ok(Held { folder, reference: remote.pinned(&version), _in_use: Some(in_use) })
    }

    /// The model's folder with at least the small files that tell what it is.
    pub(super) async fn obtain_outline(&self, remote: &Remote) -> Result<Held, Error> {
        if let Some(commit) = remote.commit()
            && let Some(held) = self.whole(remote, commit).await?
        {
            return Ok(held);
        }
        let source = self.source(remote)?;
        let survey = survey(source.as_ref(), remote).await?;
        let version = survey.version.clone();
        let (entry, in_use) = self.enter(remote, &version).await?;
        self.note(remote, &version);
        let chosen = chosen(remote, &survey)?;
        let folder = self.bring(remote, source.as_ref(), &entry, &version, &chosen, is_outline).await?;
        Ok(Held { folder, reference: remote.pinned(&version), _in_use: Some(in_use) })
    }

    fn source(&self, remote: &Remote) -> Result<Box<dyn Source>, Error> {
        match remote {
            Remote::Hub { repository, revision } => {
                let token = self.options.token.clone();
                Ok(Box::new(Hub::new(&self.options.hub, token, repository, revision)?))
            }
            Remote::Objects { url } => Ok(Box::new(Objects::new(url)?)),
        }
    }

    /// What is here of a model whose source is out of reach.
    async fn last_known(&self, remote: &Remote, error: Error) -> Result<Held, Error> {
        let Some(version) = self.cache.remembered(remote) else { return Err(error) };
        let Some(held) = self.whole(remote, &version).await? else { return Err(error) };
        tracing::warn!(model = %remote, %version, %error, "source out of reach: using the version that was last seen");
        Ok(held)
    }

    /// A version that is here and whole.
    async fn whole(&self, remote: &Remote, version: &str) -> Result<Option<Held>, Error> {
        let entry = self.cache.entry(remote, version);
        let failed =
            |error| Error::io(format!("look at {remote} in {}", self.options.cache.display()), error);
        if entry.record().map_err(failed)?.is_none() {
            return Ok(None);
        }
        let (entry, in_use) = self.enter(remote, version).await?;
        match entry.record().map_err(failed)? {
            Some(record) if entry.looks_whole(&record).map_err(failed)? => {
                let folder = std::path::absolute(entry.model(&record)).map_err(failed)?;
                Ok(Some(Held { folder, reference: remote.pinned(version), _in_use: Some(in_use) }))
            }
            Some(_) | None => Ok(None),
        }
    }

    /// From now on nobody removes this version, whether it is here or not.
    async fn enter(&self, remote: &Remote, version: &str) -> Result<(Entry, Lock), Error> {
        let entry = self.cache.entry(remote, version);
        let waiting = || tracing::debug!(model = %remote, "waiting until another process has looked at it or removed it");
        let failed = |error| Error::io(format!("lock {}", entry.use_lock().display()), error);
        let in_use = Lock::take(&entry.use_lock(), Kind::Shared, waiting).await.map_err(failed)?;
        entry.touch().map_err(failed)?;
        Ok((entry, in_use))
    }

    fn note(&self, remote: &Remote, version: &str) {
        if let Err(error) = self.cache.remember(remote, version) {
            tracing::warn!(model = %remote, %error, "version not remembered: the source is asked next time too");
        }
    }

    /// Sees to it that all wanted files are here and as they should be; the model's folder.
    async fn bring(
        &self,
        remote: &Remote,
        source: &dyn Source,
        entry: &Entry,
        version: &str,
        chosen: &[RemoteFile],
        is_wanted: impl Fn(&str) -> bool,
    ) -> Result<PathBuf, Error> {
        let failed = |error| Error::io(format!("keep {remote} in {}", self.options.cache.display()), error);
        let fresh = || Record::new(remote.source(), version.to_owned(), remote.name(), chosen);
        let known = known_files(entry.record().map_err(failed)?, chosen);
        let missing = |record: &Record| missing(entry, record, &is_wanted);
        if let Some(record) = &known
            && missing(record).map_err(failed)?.is_empty()
        {
            return std::path::absolute(entry.model(record)).map_err(failed);
        }
        let waiting =
            || tracing::info!(model = %remote, "another process downloads this model: waiting for it");
        let _fetching = Lock::take(&entry.fetch_lock(), Kind::Exclusive, waiting).await.map_err(failed)?;
        // It may be here by now.
        let record = known_files(entry.record().map_err(failed)?, chosen);
        let mut record = record.unwrap_or_else(fresh);
        let mut missing = missing(&record).map_err(failed)?;
        recognise(entry, &mut record, &mut missing).await.map_err(failed)?;
        if !missing.is_empty() {
            self.make_room(remote, entry, &record).await?;
            self.fetch_all(remote, source, entry, &mut record, &missing).await?;
        }
        std::path::absolute(entry.model(&record)).map_err(failed)
    }

    async fn fetch_all(
        &self,
        remote: &Remote,
        source: &dyn Source,
        entry: &Entry,
        record: &mut Record,
        missing: &[usize],
    ) -> Result<(), Error> {
        let size = |index: &usize| record.files[*index].bytes.unwrap_or(0);
        let total: u64 = missing.iter().map(size).sum();
        let observer = self.observer.clone();
        let mut meter = Meter::start(remote.to_string(), total, observer);
        for &index in missing {
            let (file, part) = (record.files[index].there(), entry.part(&record.files[index]));
            let sha256 = fetch(source, &record.version, &file, &part, &mut meter).await?;
            let kept = entry.adopt(record, index, sha256);
            kept.map_err(|error| Error::io(format!("keep {} of {remote}", file.name), error))?;
        }
        meter.finish();
        Ok(())
    }
}

fn chosen(remote: &Remote, survey: &Survey) -> Result<Vec<RemoteFile>, Error> {
    choose(&survey.files).map_err(|why| Error::Layout { reference: remote.to_string(), why })
}

/// A record that speaks of the same files as the source does.
fn known_files(record: Option<Record>, chosen: &[RemoteFile]) -> Option<Record> {
    record.filter(|record| {
        record.files.len() == chosen.len()
            && record.files.iter().zip(chosen).all(|(here, there)| here.is_promised(there))
    })
}

/// The wanted files that are not here, or not as they were when they were checked.
fn missing(entry: &Entry, record: &Record, is_wanted: impl Fn(&str) -> bool) -> io::Result<Vec<usize>> {
    let model = entry.model(record);
    let mut missing = Vec::new();
    for (index, file) in record.files.iter().enumerate().filter(|(_, file)| is_wanted(&file.name)) {
        let is_here = match &file.here {
            Some(here) => here.looks_unchanged(&model.join(&file.name))?,
            None => false,
        };
        if !is_here {
            missing.push(index);
        }
    }
    Ok(missing)
}

/// A file that only looks changed, as after a copy of the whole cache, is not fetched again; one that was altered is.
async fn recognise(entry: &Entry, record: &mut Record, missing: &mut Vec<usize>) -> io::Result<()> {
    let model = entry.model(record);
    let mut changed = false;
    let mut left = Vec::new();
    for index in std::mem::take(missing) {
        let file = &mut record.files[index];
        let path = model.join(&file.name);
        let Some(here) = file.here.take().filter(|_| path.exists()) else {
            left.push(index);
            continue;
        };
        changed = true;
        let mut hasher = Sha256::new();
        let same_length = std::fs::metadata(&path)?.len() == here.bytes;
        if same_length {
            hash(&mut File::open(&path)?, &mut hasher).await?;
        }
        if same_length && hex::encode(hasher.finalize()) == here.sha256 {
            file.here = Some(Here::new(&path, here.sha256)?);
        } else {
            tracing::warn!(file = %path.display(), "file was altered or cut short since it was downloaded: refused, fetching it again");
            left.push(index);
        }
    }
    *missing = left;
    if changed { entry.write_record(record) } else { Ok(()) }
}

/// Asks the source, a few times when it is out of reach.
async fn survey(source: &dyn Source, remote: &Remote) -> Result<Survey, Error> {
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    let mut tries = 1;
    loop {
        match source.survey().await {
            Err(error) if error.is_transient() && tries < SURVEYS => {
                let wait = backoff.wait();
                tracing::warn!(model = %remote, %error, ?wait, "source does not answer: trying again");
                tokio::time::sleep(wait).await;
                tries += 1;
            }
            told => return told,
        }
    }
}

//! One tar for the pictures of a lease: packed on local disk, uploaded under a name that no other attempt has, and reported
//! whole. Images that have a result from elsewhere are left out of the next one.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::sync::Arc;
use std::time::SystemTime;

use futures::{FutureExt, StreamExt, TryStreamExt};
use sanafarm_proto::v1;
use sanafarm_telemetry::worker::UPLOAD_BYTES;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use super::place::{Place, Source, Written};
use super::{Context, Problem, blame, set_aside, store_thumbnail};
use crate::leases::LeaseKey;
use crate::outbox::folder::{Aside, Folder};
use crate::outbox::record::{self, Record, Tar};
use crate::outbox::{Entry, Id};
use crate::report::Acknowledged;
use crate::told::Period;

/// Commits all pictures that collected for a lease.
pub(super) async fn commit(
    context: &Context,
    place: &Place,
    lease: &LeaseKey,
    recovered: bool,
) -> Result<(), Problem> {
    let outbox = &context.outbox;
    let mut next_turn = None;
    loop {
        let entries = outbox.of_lease(lease);
        if entries.is_empty() {
            outbox.discard_tar(lease).await;
            return Ok(());
        }
        let packed = match next_turn.take() {
            Some(turn) => repack(context, lease, &entries, turn).await,
            None => packed(context, lease, &entries).await,
        };
        let (id, tar) = match packed {
            Ok(packed) => packed,
            Err(Unpacked::Picture(at, why)) => {
                if let Some(entry) = entries.get(at) {
                    set_aside(context, entry, Aside::Corrupt, &why).await;
                }
                continue;
            }
            // Its pictures are kept: there may be room later.
            Err(Unpacked::Tar(error)) => {
                let folder = outbox.path().display();
                return Err(Problem::Later(format!("pack a tar in the outbox {folder}: {error}")));
            }
        };
        {
            let _busy = context.stage.busy();
            let start = SystemTime::now();
            match store_thumbnails(context, place, &entries).await {
                Ok(()) => {}
                Err((entry, Problem::Local(why))) => {
                    set_aside(context, entry, Aside::Corrupt, &why).await;
                    continue;
                }
                Err((_, problem)) => return Err(problem),
            }
            if !upload(context, place, id, &tar).await? {
                // Of an earlier run whose outbox is lost: the next name is free.
                next_turn = Some(tar.turn + 1);
                continue;
            }
            let uploaded = Period::since(start);
            entries.iter().for_each(|entry| entry.which().was_in("upload", uploaded));
            metrics::counter!(UPLOAD_BYTES).increment(tar.file.bytes);
        }
        let start = SystemTime::now();
        let answer = match report(context, lease, &tar, &entries).await {
            Ok(answer) => answer,
            Err(Problem::Coordinator(error)) if recovered && error.is_about_request() => {
                for entry in &entries {
                    set_aside(context, entry, Aside::Refused, &error.to_string()).await;
                }
                place.remove(&tar.object).await;
                continue;
            }
            Err(problem) => return Err(problem),
        };
        let is_taken = |entry: &&Arc<Entry>| answer.taken.contains(&entry.record.index);
        let gone: Vec<_> = match answer.taken.is_empty() {
            true => entries.iter().collect(),
            false => entries.iter().filter(is_taken).collect(),
        };
        if gone.is_empty() {
            return Err(Problem::Later("images of no tar were refused".to_owned()));
        }
        if !answer.taken.is_empty() {
            tracing::info!(object = tar.object, taken = ?answer.taken, "packing again without images of others");
            place.remove(&tar.object).await;
        }
        if answer.taken.is_empty() {
            let (worker, told) = (context.session.worker(), Period::since(start));
            for entry in &entries {
                let origin = entry.origin.as_deref();
                entry.which().was_acknowledged(origin, worker, &entry.record.device, None, told);
            }
        }
        acknowledge(context, lease, &gone, answer.held).await;
    }
}

async fn acknowledge(context: &Context, lease: &LeaseKey, gone: &[&Arc<Entry>], held: bool) {
    let Some(first) = gone.first() else { return };
    let note = Acknowledged {
        lease: lease.clone(),
        job: first.record.job.clone(),
        indices: gone.iter().map(|entry| entry.record.index).collect(),
        done: gone.len() as u64,
        failed: 0,
        held,
    };
    context.outbox.committed(gone.iter().map(|entry| entry.id).collect()).await;
    if context.acknowledged.send(note).await.is_err() {
        tracing::debug!("nobody waits for acknowledgements");
    }
}

/// Puts those thumbnails that this run has not put yet, several at once; the error is of the first picture whose is not
/// stored.
async fn store_thumbnails<'a>(
    context: &'a Context,
    place: &'a Place,
    entries: &'a [Arc<Entry>],
) -> Result<(), (&'a Entry, Problem)> {
    // Collected and boxed: of a stream that makes them the compiler cannot tell that it may go from thread to thread.
    let put: Vec<_> = entries.iter().map(|entry| put_thumbnail(context, place, entry).boxed()).collect();
    futures::stream::iter(put).buffer_unordered(context.width).try_collect().await
}

async fn put_thumbnail<'a>(
    context: &'a Context,
    place: &'a Place,
    entry: &'a Entry,
) -> Result<(), (&'a Entry, Problem)> {
    match store_thumbnail(context, place, entry).await {
        Ok(()) => Ok(()),
        Err(problem) => Err((entry, blame(context, entry, problem).await)),
    }
}

/// Why there is no tar.
#[derive(Debug)]
enum Unpacked {
    /// A picture that is to be in it is not what was written to the outbox.
    Picture(usize, String),
    /// The tar itself cannot be written.
    Tar(io::Error),
}

impl From<io::Error> for Unpacked {
    fn from(error: io::Error) -> Self {
        Self::Tar(error)
    }
}

/// The tar of these pictures: that of before, if it is of the same.
async fn packed(context: &Context, lease: &LeaseKey, entries: &[Arc<Entry>]) -> Result<(Id, Tar), Unpacked> {
    let indices = entries.iter().map(|entry| entry.record.index);
    match context.outbox.tar(lease) {
        Some((id, tar)) if indices.eq(tar.images.iter().copied()) => Ok((id, tar)),
        Some((_, refused)) => repack(context, lease, entries, refused.turn + 1).await,
        None => repack(context, lease, entries, 0).await,
    }
}

async fn repack(
    context: &Context,
    lease: &LeaseKey,
    entries: &[Arc<Entry>],
    turn: u32,
) -> Result<(Id, Tar), Unpacked> {
    let outbox = &context.outbox;
    let id = Id::fresh();
    let pictures: Vec<_> = entries.to_vec();
    let stage = context.stage.clone();
    let packing = outbox.block(move |folder| {
        let _busy = stage.busy();
        let packed = pack(folder, id, &pictures);
        if packed.is_err() {
            // What was written of it takes room that pictures need. The first error is the one to tell.
            let _ = folder.discard_tar(id);
        }
        Ok(packed)
    });
    let file = packing.await??;
    let archive = entries.first().and_then(|entry| entry.record.sample.as_ref());
    let tar = Tar {
        lease: lease.clone(),
        turn,
        object: object(archive.map_or("", |sample| sample.archive.as_str()), turn),
        file,
        images: entries.iter().map(|entry| entry.record.index).collect(),
    };
    outbox.keep_tar(id, tar.clone()).await?;
    Ok((id, tar))
}

/// The name of the tar that follows so many refused ones.
fn object(archive: &str, turn: u32) -> String {
    match (turn, archive.strip_suffix(".tar")) {
        (0, _) => archive.to_owned(),
        (turn, Some(stem)) => format!("{stem}-{turn}.tar"),
        (turn, None) => format!("{archive}-{turn}"),
    }
}

/// Uploads a tar; `false` when another one has its name.
async fn upload(context: &Context, place: &Place, id: Id, tar: &Tar) -> Result<bool, Problem> {
    let source = Source::File(context.outbox.folder().tar(id));
    let put = match context.outbox.has_tar(id, tar).await {
        true => place.put_new(&tar.lease, &tar.object, &source).await,
        false => {
            Err(Problem::Later("a tar in the outbox is not what was written: it is packed again".into()))
        }
    };
    if put.is_err() && !context.outbox.has_whole_tar(id, tar).await {
        context.outbox.discard_tar(&tar.lease).await;
    }
    match put? {
        Written::New | Written::Unwanted => return Ok(true),
        Written::There => {}
    }
    // Its own, of before the worker was killed; or nobody's that is known here.
    let found = place.digest(&tar.object).await?;
    Ok(found.is_some_and(|found| (found.bytes, &found.sha256) == (tar.file.bytes, &tar.file.sha256)))
}

async fn report(
    context: &Context,
    lease: &LeaseKey,
    tar: &Tar,
    entries: &[Arc<Entry>],
) -> Result<v1::ReportResultsResponse, Problem> {
    let results = entries.iter().map(|entry| entry.result()).collect();
    let archive =
        v1::Archive { object: tar.object.clone(), bytes: tar.file.bytes, sha256: tar.file.sha256.clone() };
    let _busy = context.outbox.stats().stage("report").busy();
    let job = entries.first().map_or("", |entry| entry.record.job.as_str());
    Ok(context.session.report(lease, job, results, Some(archive)).await?)
}

/// Writes the tar of these pictures to its unfinished place, durable; the same pictures give the same bytes.
fn pack(folder: &Folder, id: Id, entries: &[Arc<Entry>]) -> Result<record::File, Unpacked> {
    let path = folder.unfinished_tar(id);
    let file = Summed { inner: BufWriter::new(File::create(&path)?), sum: Sha256::new(), bytes: 0 };
    let mut tar = Builder::new(file);
    for (at, entry) in entries.iter().enumerate() {
        let record = &entry.record;
        let stem = stem(&record.object);
        let unreadable = |error: &dyn Display| Unpacked::Picture(at, format!("the picture: {error}"));
        let picture = File::open(folder.picture(entry.id)).map_err(|error| unreadable(&error))?;
        let mut picture =
            Picture { file: Summed { inner: picture, sum: Sha256::new(), bytes: 0 }, error: None };
        let appended = append(&mut tar, &record.object, record.picture.bytes, BufReader::new(&mut picture));
        if let Some(error) = picture.error {
            return Err(unreadable(&error));
        }
        appended?;
        if picture.file.file() != record.picture {
            return Err(unreadable(&"it is not what was written"));
        }
        let facts = facts(record)?;
        append(&mut tar, &format!("{stem}.json"), facts.len() as u64, facts.as_bytes())?;
        let prompt = prompt(record)?;
        append(&mut tar, &format!("{stem}.txt"), prompt.len() as u64, prompt.as_bytes())?;
    }
    let written = tar.into_inner()?;
    let packed = written.file();
    written.inner.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    Ok(packed)
}

fn append(tar: &mut Builder<impl Write>, name: &str, bytes: u64, content: impl Read) -> io::Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    header.set_size(bytes);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    tar.append_data(&mut header, name, content)
}

/// A name without its ending: what the files of one sample have in common.
fn stem(object: &str) -> &str {
    match object.rsplit_once('.') {
        Some((stem, ending)) if !ending.contains('/') => stem,
        Some(_) | None => object,
    }
}

fn prompt(record: &Record) -> io::Result<String> {
    let recipe: Map<String, Value> = serde_json::from_str(&record.recipe)?;
    Ok(recipe.get("prompt").and_then(Value::as_str).unwrap_or_default().to_owned())
}

/// What a training run wants to know of a picture, as JSON: what it was made from, the input's own columns, its recipe.
fn facts(record: &Record) -> io::Result<String> {
    let recipe: Map<String, Value> = serde_json::from_str(&record.recipe)?;
    let mut facts = Map::new();
    facts.insert("index".into(), record.index.into());
    let sample = record.sample.as_ref();
    if let Some(id) = sample.map(|sample| sample.id.as_str()).filter(|id| !id.is_empty()) {
        facts.insert("id".into(), id.into());
    }
    for name in ["prompt", "negative_prompt", "seed", "width", "height", "steps", "guidance", "model"] {
        if let Some(value) = recipe.get(name) {
            facts.insert(name.into(), value.clone());
        }
    }
    facts.insert("sha256".into(), record.picture.sha256.clone().into());
    facts.insert("recipe".into(), Value::Object(recipe));
    if let Some(extra) = sample.map(|sample| sample.extra.as_str()).filter(|extra| !extra.is_empty()) {
        let columns: Map<String, Value> = serde_json::from_str(extra)?;
        for (name, value) in columns {
            // Our own names win.
            facts.entry(name).or_insert(value);
        }
    }
    Ok(serde_json::to_string(&facts)?)
}

/// Counts and sums what goes through it.
struct Summed<F> {
    inner: F,
    sum: Sha256,
    bytes: u64,
}

impl<F> Summed<F> {
    fn add(&mut self, bytes: &[u8]) {
        self.sum.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// What went through.
    fn file(&self) -> record::File {
        record::File { bytes: self.bytes, sha256: hex::encode(self.sum.clone().finalize()) }
    }
}

impl<F: Write> Write for Summed<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.add(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A picture that is read into a tar, and what went wrong with it: that is not the tar's fault.
struct Picture {
    file: Summed<File>,
    error: Option<io::Error>,
}

impl Read for &mut Picture {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.file.inner.read(buffer) {
            Ok(read) => {
                self.file.add(&buffer[..read]);
                Ok(read)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let kind = error.kind();
                self.error = Some(error);
                Err(kind.into())
            }
        }
    }
}

//! One tar for the pictures of a lease: packed on local disk, uploaded under a name that no other attempt has, and reported
//! whole. Images that have a result from elsewhere are left out of the next one.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::sync::Arc;
use std::time::SystemTime;

use sanafarm_proto::v1;
use sanafarm_telemetry::worker::UPLOAD_BYTES;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use super::place::{Place, Source, Written};
use super::{Context, Problem, store_thumbnail};
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
    loop {
        let entries = outbox.of_lease(lease);
        if entries.is_empty() {
            outbox.discard_tar(lease).await;
            return Ok(());
        }
        let (id, tar) = packed(context, lease, &entries).await?;
        {
            let _busy = context.stage.busy();
            let start = SystemTime::now();
            for entry in &entries {
                store_thumbnail(context, place, entry).await?;
            }
            if !upload(context, place, id, &tar).await? {
                // Of an earlier run whose outbox is lost: the next name is free.
                repack(context, lease, &entries, tar.turn + 1).await?;
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
                    outbox.set_aside(entry.id, Aside::Refused, &error.to_string()).await;
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

/// The tar of these pictures: that of before, if it is of the same.
async fn packed(context: &Context, lease: &LeaseKey, entries: &[Arc<Entry>]) -> Result<(Id, Tar), Problem> {
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
) -> Result<(Id, Tar), Problem> {
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
        packed
    });
    let failed = |error: io::Error| {
        // Its pictures are kept: there may be room later.
        Problem::Later(format!("pack a tar in the outbox {}: {error}", outbox.path().display()))
    };
    let file = packing.await.map_err(failed)?;
    let archive = entries.first().and_then(|entry| entry.record.sample.as_ref());
    let tar = Tar {
        lease: lease.clone(),
        turn,
        object: object(archive.map_or("", |sample| sample.archive.as_str()), turn),
        file,
        images: entries.iter().map(|entry| entry.record.index).collect(),
    };
    outbox.keep_tar(id, tar.clone()).await.map_err(failed)?;
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
    match place.put_new(&tar.lease, &tar.object, &source).await? {
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
fn pack(folder: &Folder, id: Id, entries: &[Arc<Entry>]) -> io::Result<record::File> {
    let path = folder.unfinished_tar(id);
    let file = Summed { file: BufWriter::new(File::create(&path)?), sum: Sha256::new(), bytes: 0 };
    let mut tar = Builder::new(file);
    for entry in entries {
        let record = &entry.record;
        let stem = stem(&record.object);
        let picture = BufReader::new(File::open(folder.picture(entry.id))?);
        append(&mut tar, &record.object, record.picture.bytes, picture)?;
        let facts = facts(record)?;
        append(&mut tar, &format!("{stem}.json"), facts.len() as u64, facts.as_bytes())?;
        let prompt = prompt(record)?;
        append(&mut tar, &format!("{stem}.txt"), prompt.len() as u64, prompt.as_bytes())?;
    }
    let Summed { file, sum, bytes } = tar.into_inner()?;
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    Ok(record::File { bytes, sha256: hex::encode(sum.finalize()) })
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

/// Counts and sums what is written.
struct Summed {
    file: BufWriter<File>,
    sum: Sha256,
    bytes: u64,
}

impl Write for Summed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.sum.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

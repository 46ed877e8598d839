//! `index.json`: the tars of an output as the libraries `webdataset` and `wids` read it, with their hashes and totals.

use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::json;
use tempfile::NamedTempFile;
use tokio::sync::mpsc;

use super::{Error, temporary};
use crate::store::Store;
use crate::store::records::{Archive, Job};

/// Tars read from the store at a time.
const PAGE: u32 = 1000;

/// The file with what it tells.
pub(super) struct Index {
    pub file: NamedTempFile,
    /// Samples of all tars.
    pub samples: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Writes the index of the job's output.
pub(super) async fn write(store: &dyn Store, job: &Job, scratch: &Path) -> Result<Index, Error> {
    let (pages, from) = mpsc::channel(2);
    let (name, folder) = (job.name.clone(), scratch.to_owned());
    let task = tokio::task::spawn_blocking(move || write_pages(&name, &folder, from));
    let mut next = 0;
    loop {
        let archives = store.archives(&job.output, next, PAGE).await?;
        let Some(last) = archives.last() else { break };
        next = last.number + 1;
        // A closed channel means that the thread failed; it says why below.
        if pages.send(archives).await.is_err() {
            break;
        }
    }
    drop(pages);
    task.await?
}

fn write_pages(name: &str, scratch: &Path, mut pages: mpsc::Receiver<Vec<Archive>>) -> Result<Index, Error> {
    let failed = |source| Error::Scratch { folder: scratch.to_owned(), source };
    let mut file = BufWriter::new(temporary(scratch)?);
    let (mut samples, mut bytes, mut tars) = (0, 0, 0u64);
    let head = json!({ "__kind__": "wids-shard-index-v1", "wids_version": 1, "name": name }).to_string();
    // An entry a line. All of it is one object, whose last brace is to come.
    let head = head.trim_end_matches('}');
    write!(file, "{head},\n\"shardlist\":[").map_err(failed)?;
    while let Some(archives) = pages.blocking_recv() {
        for archive in archives {
            let entry = json!({
                "url": archive.name(),
                "nsamples": archive.images,
                "filesize": archive.bytes,
                "sha256": archive.sha256,
            });
            let comma = if tars == 0 { "" } else { "," };
            write!(file, "{comma}\n{entry}").map_err(failed)?;
            (samples, bytes, tars) = (samples + archive.images, bytes + archive.bytes, tars + 1);
        }
    }
    writeln!(file, "\n],\n\"shards\":{tars},\"nsamples\":{samples},\"filesize\":{bytes}}}")
        .map_err(failed)?;
    let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
    Ok(Index { file, samples, bytes })
}

//! What jobs made, beside their pictures: `manifest.parquet` with its parts, `metadata.jsonl` or `index.json`, and the card
//! that tells libraries how to read all of it.
//!
//! All are written from the beginning over all jobs of the output when one of them ends, in one pass to temporary files,
//! and put in place whole. Memory follows the page, not the jobs. The part for a tar is written when that gets its
//! name ([`write_archive`]).
//!
//! - `line`, `column`, `table`: a row, its columns, a table of them; `metadata`, `index`, `card`: the other files
//! - `pass`: the one pass
//! - [`export`]: the manifest of a job for whoever asks

use std::path::{Path, PathBuf};

use sanafarm_storage::Output;
use tempfile::NamedTempFile;
use tokio::sync::mpsc;

use crate::domain::archive;
use crate::domain::form::Layout;
use crate::store::records::{Archive, Job, ManifestRow};
use crate::store::{self, Store};

mod card;
mod column;
pub(crate) mod export;
mod index;
mod line;
mod metadata;
mod pass;
mod table;

use pass::{Part, Pass};

/// Rows read from the store at a time; also a row group.
const PAGE: u32 = 4096;
const MANIFEST: &str = "manifest.parquet";
const METADATA: &str = "metadata.jsonl";
const INDEX: &str = "index.json";

/// Why the files could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("write to the output: {0}")]
    Output(#[from] sanafarm_storage::Error),
    #[error("another file stands at {name} in {place}; move it away, nothing was overwritten")]
    Conflict { name: String, place: String },
    #[error("write a temporary file in {}: {source}", folder.display())]
    Scratch { folder: PathBuf, source: std::io::Error },
    #[error("write parquet: {0}")]
    Parquet(#[from] parquet::errors::ParquetError),
    #[error("the coordinator is stopping; try again")]
    Stopped,
    #[error("hand out what was written: {0}")]
    Pieces(#[from] std::io::Error),
    #[error("the thread that writes them ended early: {0}")]
    Thread(#[from] tokio::task::JoinError),
}

/// Opens an output away from the async threads.
pub(super) async fn open(place: &str) -> Result<Output, Error> {
    let place = place.to_owned();
    Ok(tokio::task::spawn_blocking(move || Output::open(&place)).await??)
}

/// Writes all files of the job's output, over those of an earlier time.
pub(super) async fn write(store: &dyn Store, job: &Job, scratch: &Path) -> Result<(), Error> {
    let output = open(&job.output).await?;
    // A worker that was killed in the middle of a picture may have been the last to write here.
    match output.sweep_staging().await {
        Ok(swept) => tracing::debug!(output = output.place(), swept, "cleared leftovers"),
        Err(error) => tracing::warn!(%error, "leftovers not cleared"),
    }
    let layout = job.form.layout;
    let jobs = store.jobs_of_output(&job.output).await?;
    let mut columns: Vec<String> = Vec::new();
    for job in &jobs {
        let more = store.columns(&job.id).await?;
        columns.extend(more.into_iter().filter(|column| !columns.contains(column)).collect::<Vec<_>>());
    }
    let (pages, from) = mpsc::channel(2);
    let (finished, mut parts) = mpsc::channel(1);
    let pass = Pass { jobs: jobs.clone(), columns: columns.clone(), layout, scratch: scratch.to_owned() };
    let task = tokio::task::spawn_blocking(move || pass.run(from, &finished));
    let all = &jobs;
    let read = async move {
        for (number, job) in all.iter().enumerate() {
            let mut next = 0;
            loop {
                let rows = store.manifest_rows(&job.id, next, PAGE).await?;
                let Some(last) = rows.last() else { break };
                next = last.image.index + 1;
                // A closed channel means that the thread failed; it says why below.
                if pages.send((number, rows)).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok::<_, Error>(())
    };
    let to = &output;
    let put = async move {
        while let Some(Part { name, file }) = parts.recv().await {
            to.replace_file(&name, file.path()).await?;
            remove(file).await?;
        }
        Ok::<_, Error>(())
    };
    // What stops one of them closes its channel, and so stops the thread.
    let moved = tokio::try_join!(read, put).map(|((), ())| ());
    let passed = task.await?;
    moved?;
    let passed = passed?;
    let mut totals = passed.totals;
    if let Some(metadata) = passed.metadata {
        output.replace_file(METADATA, metadata.path()).await?;
        remove(metadata).await?;
    }
    if layout == Layout::Webdataset {
        let index = index::write(store, job, scratch).await?;
        totals.pictures = index.samples;
        totals.bytes = index.bytes;
        output.replace_file(INDEX, index.file.path()).await?;
        remove(index.file).await?;
    }
    card::write(&output, &card::Contents { layout, jobs: &jobs, columns: &columns, totals: &totals }).await?;
    // The manifest last: where it stands, the rest stands too.
    output.replace_file(MANIFEST, passed.manifest.path()).await?;
    remove(passed.manifest).await
}

/// Writes the part of the manifest for a tar that is about to get its name.
pub(super) async fn write_archive(
    output: &Output,
    job: &Job,
    columns: &[String],
    archive: &Archive,
    mut rows: Vec<ManifestRow>,
    scratch: &Path,
) -> Result<(), Error> {
    for row in &mut rows {
        if let Some(result) = &mut row.image.result {
            result.archive = Some(archive.name());
        }
    }
    let (job, columns, folder) = (job.clone(), columns.to_owned(), scratch.to_owned());
    let file = tokio::task::spawn_blocking(move || {
        let mut table = table::TableWriter::new(temporary(&folder)?, &columns)?;
        let lines: Vec<_> = rows.into_iter().map(line::Line::read).collect();
        table.write(&job, &lines)?;
        Ok::<_, Error>(table.finish()?)
    });
    let file = file.await??;
    output.replace_file(&archive::manifest_name(archive.number), file.path()).await?;
    remove(file).await
}

/// A file on its way out. Blocks.
fn temporary(scratch: &Path) -> Result<NamedTempFile, Error> {
    let failed = |source| Error::Scratch { folder: scratch.to_owned(), source };
    std::fs::create_dir_all(scratch).map_err(failed)?;
    NamedTempFile::new_in(scratch).map_err(failed)
}

async fn remove(file: NamedTempFile) -> Result<(), Error> {
    Ok(tokio::task::spawn_blocking(move || drop(file)).await?)
}

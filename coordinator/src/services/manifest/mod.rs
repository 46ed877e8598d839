//! `manifest.parquet` and `metadata.jsonl`: what a job made, beside its pictures.
//!
//! Both are written in one pass to temporary files and then put in place whole. Memory follows the page, not the
//! job.

use std::path::{Path, PathBuf};

use sanafarm_storage::Output;
use tempfile::NamedTempFile;
use tokio::sync::mpsc;

use crate::store::records::{Job, ManifestRow};
use crate::store::{self, Store};

mod column;
mod line;
mod metadata;
mod table;

/// Rows read from the store at a time; also a row group.
const PAGE: u32 = 4096;
const MANIFEST: &str = "manifest.parquet";
const METADATA: &str = "metadata.jsonl";

/// Why the files could not be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("write to the output: {0}")]
    Output(#[from] sanafarm_storage::Error),
    #[error("write a temporary file in {}: {source}", folder.display())]
    Scratch { folder: PathBuf, source: std::io::Error },
    #[error("write parquet: {0}")]
    Parquet(#[from] parquet::errors::ParquetError),
    #[error("the thread that writes them ended early: {0}")]
    Thread(#[from] tokio::task::JoinError),
}

/// The two files on their way out.
struct Files {
    manifest: NamedTempFile,
    metadata: NamedTempFile,
}

/// Writes both files to the job's output, over those of an earlier attempt.
pub(super) async fn write(store: &dyn Store, job: &Job, scratch: &Path) -> Result<(), Error> {
    let place = job.output.clone();
    let output = tokio::task::spawn_blocking(move || Output::open(&place)).await??;
    // A worker that was killed in the middle of a picture may have been the last to write here.
    match output.sweep_staging().await {
        Ok(swept) => tracing::debug!(output = output.place(), swept, "cleared leftovers"),
        Err(error) => tracing::warn!(%error, "leftovers not cleared"),
    }
    let columns = store.columns(&job.id).await?;
    let (pages, from) = mpsc::channel(2);
    let task = tokio::task::spawn_blocking({
        let (job, scratch) = (job.clone(), scratch.to_owned());
        move || write_pages(&job, &columns, &scratch, from)
    });
    let mut next = 0;
    loop {
        let rows = store.manifest_rows(&job.id, next, PAGE).await?;
        let Some(last) = rows.last() else { break };
        next = last.image.index + 1;
        // A closed channel means that the thread failed; it says why below.
        if pages.send(rows).await.is_err() {
            break;
        }
    }
    drop(pages);
    let files = task.await??;
    // The manifest last: where it stands, the rest stands too.
    output.replace_file(METADATA, files.metadata.path()).await?;
    output.replace_file(MANIFEST, files.manifest.path()).await?;
    tokio::task::spawn_blocking(move || drop(files)).await?;
    Ok(())
}

fn write_pages(
    job: &Job,
    columns: &[String],
    scratch: &Path,
    mut pages: mpsc::Receiver<Vec<ManifestRow>>,
) -> Result<Files, Error> {
    let failed = |source| Error::Scratch { folder: scratch.to_owned(), source };
    std::fs::create_dir_all(scratch).map_err(failed)?;
    let files = Files {
        manifest: NamedTempFile::new_in(scratch).map_err(failed)?,
        metadata: NamedTempFile::new_in(scratch).map_err(failed)?,
    };
    let mut table = table::TableWriter::new(files.manifest.as_file(), job, columns)?;
    let mut metadata = metadata::MetadataWriter::new(files.metadata.as_file(), columns);
    while let Some(rows) = pages.blocking_recv() {
        let lines: Vec<_> = rows.into_iter().map(line::Line::read).collect();
        table.write(job, &lines)?;
        metadata.write(job, &lines).map_err(failed)?;
    }
    table.finish()?;
    metadata.finish().map_err(failed)?;
    Ok(files)
}

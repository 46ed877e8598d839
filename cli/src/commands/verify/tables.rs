//! The files about the pictures: `manifest.parquet` and its parts, and `metadata.jsonl` or `index.json`.
//!
//! The manifest is held row by row against the history, and the others against the manifest.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek};

use parquet::errors::ParquetError;
use sanafarm_net::Channel;
use sanafarm_proto::v1::job_service_client::JobServiceClient;
use sanafarm_proto::v1::{Image, Job, ListImagesRequest};
use sanafarm_storage::Output;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use super::pictures::at;
use super::problem::{Problem, What};
use super::rows::{Row, Rows};
use super::tars::Tar;
use crate::error::Error;
use crate::output::storage_error;
use crate::submission::blocking;

const MANIFEST: &str = "manifest.parquet";
const METADATA: &str = "metadata.jsonl";
const INDEX: &str = "index.json";
/// Images on their way from the history.
const AHEAD: usize = 1000;

/// What the manifest tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    /// Rows of the job.
    rows: u64,
    /// Of them, those of pictures.
    done: u64,
    /// Pictures of all jobs of the output.
    all_done: u64,
}

/// Whether the tables of a job that has ended are there and tell of its images as the history does; `tars` are those of
/// the layout webdataset.
pub async fn check(
    output: &Output,
    client: JobServiceClient<Channel>,
    job: &Job,
    tars: Option<&[Tar]>,
) -> Result<Vec<Problem>, Error> {
    let mut problems = Vec::new();
    let manifest = match table(output, MANIFEST).await? {
        Err(problem) => {
            problems.push(problem);
            None
        }
        Ok(file) => match against_history(file, client, job).await? {
            Err(error) => {
                problems.push(Problem::about(MANIFEST, What::Unreadable, error.to_string()));
                None
            }
            // What is wrong itself says nothing about the others.
            Ok((_, _, Some(odd))) => {
                problems.push(Problem::about(MANIFEST, What::Rows, odd));
                None
            }
            Ok((file, counts, None)) => Some((file, counts)),
        },
    };
    let Some((manifest, counts)) = manifest else {
        let name = if tars.is_some() { INDEX } else { METADATA };
        problems.extend(table(output, name).await?.err());
        return Ok(problems);
    };
    match tars {
        Some(tars) => problems.extend(index(output, tars, counts.all_done).await?),
        None => {
            problems.extend(metadata(output, &manifest).await?);
            problems.extend(parts(output, &manifest).await?);
        }
    }
    Ok(problems)
}

/// A table as a file on this machine.
pub async fn table(output: &Output, name: &str) -> Result<Result<File, Problem>, Error> {
    let mut reading = match at(name, output.read(name).await)? {
        Ok(Some(reading)) => reading,
        Ok(None) => return Ok(Err(Problem::about(name, What::Missing, "there is no such object"))),
        Err(odd) => return Ok(Err(Problem::about(name, What::Unreadable, odd))),
    };
    let failed = |error: io::Error| Error::failure(format!("keep a copy of {name}")).caused_by(&error);
    let file = blocking(tempfile::tempfile).await?.map_err(failed)?;
    let mut file = tokio::fs::File::from_std(file);
    let out_of_reach = |error| storage_error(format!("read {name}"), &error);
    while let Some(chunk) = reading.next().await.map_err(out_of_reach)? {
        file.write_all(&chunk).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)?;
    let mut file = file.into_std().await;
    blocking(move || file.rewind().map(|()| file)).await?.map(Ok).map_err(failed)
}

/// The manifest again, what it counts, and the first in which it differs from the history.
async fn against_history(
    manifest: File,
    mut client: JobServiceClient<Channel>,
    job: &Job,
) -> Result<Result<(File, Counts, Option<String>), ParquetError>, Error> {
    let failed = |status: tonic::Status| Error::call(format!("list images of job {}", job.job_id), &status);
    let request = ListImagesRequest { job_id: job.job_id.clone(), ..Default::default() };
    let mut images = client.list_images(request).await.map_err(failed)?.into_inner();
    let (history, of_history) = mpsc::channel(AHEAD);
    let id = job.job_id.clone();
    let compared = blocking(move || compare(&manifest, &id, of_history).map(|told| (manifest, told)));
    let told = async {
        while let Some(image) = images.message().await.map_err(failed)? {
            // Nobody listens any more once something was found.
            if history.send(image).await.is_err() {
                break;
            }
        }
        drop(history);
        Ok::<_, Error>(())
    };
    let (compared, ()) = tokio::try_join!(compared, told)?;
    Ok(compared.map(|(file, (counts, odd))| {
        let wanted = (job.images, job.done);
        let miscounted = ((counts.rows, counts.done) != wanted).then(|| {
            format!(
                "it has {} rows and {} pictures of the job instead of {} and {}",
                counts.rows, counts.done, wanted.0, wanted.1
            )
        });
        (file, counts, miscounted.or(odd))
    }))
}

/// Goes through the whole manifest, and through the history as long as they agree.
fn compare(
    manifest: &File,
    job: &str,
    mut history: mpsc::Receiver<Image>,
) -> Result<(Counts, Option<String>), ParquetError> {
    let mut counts = Counts::default();
    let mut odd = None;
    for row in Rows::open(again(manifest)?)? {
        let row = row?;
        counts.all_done += u64::from(row.is_done);
        if row.job != job {
            continue;
        }
        counts.rows += 1;
        counts.done += u64::from(row.is_done);
        if odd.is_none() {
            odd = match history.blocking_recv() {
                None => Some(format!("it has a row of image {} that the history does not know", row.index)),
                Some(image) => row
                    .difference(&image)
                    .map(|field| format!("its row of image {} has another {field}", image.index)),
            };
        }
    }
    Ok((counts, odd))
}

/// The same file from its beginning.
fn again(file: &File) -> io::Result<File> {
    let mut file = file.try_clone()?;
    file.rewind()?;
    Ok(file)
}

/// Whether `metadata.jsonl` has a line for each picture of the manifest, in its order.
async fn metadata(output: &Output, manifest: &File) -> Result<Option<Problem>, Error> {
    let lines = match table(output, METADATA).await? {
        Ok(file) => file,
        Err(problem) => return Ok(Some(problem)),
    };
    let manifest = manifest.try_clone().map_err(copied)?;
    let about = |what, detail: String| Some(Problem::about(METADATA, what, detail));
    Ok(match blocking(move || odd_line(lines, &manifest)).await? {
        Ok(odd) => odd.and_then(|odd| about(What::Rows, odd)),
        Err(error) => about(What::Unreadable, error.to_string()),
    })
}

fn odd_line(lines: File, manifest: &File) -> Result<Option<String>, ParquetError> {
    let pictures = Rows::open(again(manifest)?)?.filter(|row| row.as_ref().map_or(true, |row| row.is_done));
    let mut lines = BufReader::new(lines).lines();
    let mut number = 0_u64;
    for row in pictures {
        let row = row?;
        number += 1;
        let Some(line) = lines.next() else {
            return Ok(Some(format!("it ends before {}, its line {number}", row.name)));
        };
        let line: Value = serde_json::from_str(&line?).map_err(io::Error::from)?;
        let told = (line["file_name"].as_str(), line["index"].as_u64());
        if told != (Some(&row.name), Some(row.index)) {
            return Ok(Some(format!("its line {number} does not tell of {}", row.name)));
        }
    }
    Ok(lines.next().map(|_| format!("it has more than {number} lines, one for each picture")))
}

/// Whether the parts of the manifest have its rows.
async fn parts(output: &Output, manifest: &File) -> Result<Option<Problem>, Error> {
    let file = manifest.try_clone().map_err(copied)?;
    // It was read before.
    let unread = |error: ParquetError| Error::failure(format!("read {MANIFEST}")).caused_by(&error);
    let mut rows = blocking(move || Rows::open(again(&file)?)).await?.map_err(unread)?.peekable();
    for number in 0.. {
        if rows.peek().is_none() {
            break;
        }
        let name = format!("manifests/part-{number:06}.parquet");
        let part = match table(output, &name).await? {
            Ok(file) => file,
            Err(problem) => return Ok(Some(problem)),
        };
        let (left, odd) = blocking(move || {
            let odd = odd_row(part, &mut rows);
            (rows, odd)
        })
        .await?;
        rows = left;
        match odd {
            Ok(None) => {}
            Ok(Some(odd)) => return Ok(Some(Problem::about(name, What::Rows, odd))),
            Err(error) => return Ok(Some(Problem::about(name, What::Unreadable, error.to_string()))),
        }
    }
    Ok(None)
}

/// The first row of a part that is not the next of the manifest.
fn odd_row(
    part: File,
    rows: &mut impl Iterator<Item = Result<Row, ParquetError>>,
) -> Result<Option<String>, ParquetError> {
    let mut any = false;
    for row in Rows::open(part)? {
        let row = row?;
        any = true;
        if rows.next().transpose()?.as_ref() != Some(&row) {
            return Ok(Some(format!("its row of image {} is none of {MANIFEST}'s next", row.index)));
        }
    }
    Ok((!any).then(|| "it has no rows".to_owned()))
}

fn copied(error: io::Error) -> Error {
    Error::failure(format!("read the copy of {MANIFEST}")).caused_by(&error)
}

/// Whether `index.json` tells of these tars, and of as many samples as the manifest.
async fn index(output: &Output, tars: &[Tar], pictures: u64) -> Result<Option<Problem>, Error> {
    let file = match table(output, INDEX).await? {
        Ok(file) => file,
        Err(problem) => return Ok(Some(problem)),
    };
    let tars = tars.to_vec();
    let about = |what, detail: String| Some(Problem::about(INDEX, what, detail));
    Ok(match blocking(move || told_by(file, &tars)).await? {
        Err(error) => about(What::Unreadable, error.to_string()),
        Ok((_, Some(odd))) => about(What::Rows, odd),
        Ok((told, None)) if told != pictures => {
            about(What::Rows, format!("it tells of {told} pictures, {MANIFEST} of {pictures}"))
        }
        Ok(_) => None,
    })
}

/// Samples that an index of tars tells of, and what is wrong with what it says of these tars.
fn told_by(file: File, tars: &[Tar]) -> io::Result<(u64, Option<String>)> {
    let told: Value = serde_json::from_reader(BufReader::new(file))?;
    let none = Vec::new();
    let listed = told["shardlist"].as_array().unwrap_or(&none);
    let samples = listed.iter().filter_map(|entry| entry["nsamples"].as_u64()).sum();
    let by_name: std::collections::HashMap<_, _> =
        listed.iter().filter_map(|entry| Some((entry["url"].as_str()?, entry))).collect();
    let odd =
        tars.iter().find(|tar| !by_name.get(tar.name.as_str()).is_some_and(|entry| tar.is_told_by(entry)));
    let odd = odd.map(|tar| format!("it does not tell of {} as it is", tar.name));
    Ok((samples, odd))
}

#[cfg(test)]
mod tests;

//! The files about the pictures: `manifest.parquet`, and `metadata.jsonl` or `index.json`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek};

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::Type;
use sanafarm_proto::v1::Job;
use sanafarm_storage::Output;
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use super::pictures::at;
use super::problem::{Problem, What};
use super::tars::Tar;
use crate::error::Error;
use crate::output::storage_error;
use crate::submission::blocking;

const MANIFEST: &str = "manifest.parquet";
const METADATA: &str = "metadata.jsonl";
const INDEX: &str = "index.json";

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

/// Whether the tables of a job that has ended are there and tell of all its images; `tars` are those of the layout webdataset.
pub async fn check(output: &Output, job: &Job, tars: Option<&[Tar]>) -> Result<Vec<Problem>, Error> {
    let mut problems = Vec::new();
    let counts = match table(output, MANIFEST).await? {
        Err(problem) => {
            problems.push(problem);
            None
        }
        Ok(file) => {
            let job_id = job.job_id.clone();
            match blocking(move || count(file, &job_id)).await? {
                Ok(counts) => Some(counts),
                Err(error) => {
                    problems.push(Problem::about(MANIFEST, What::Unreadable, error.to_string()));
                    None
                }
            }
        }
    };
    if let Some(counts) = counts.filter(|counts| (counts.rows, counts.done) != (job.images, job.done)) {
        let detail = format!(
            "it has {} rows and {} pictures of the job instead of {} and {}",
            counts.rows, counts.done, job.images, job.done
        );
        problems.push(Problem::about(MANIFEST, What::Rows, detail));
    }
    let name = if tars.is_some() { INDEX } else { METADATA };
    let file = match table(output, name).await? {
        Ok(file) => file,
        Err(problem) => {
            problems.push(problem);
            return Ok(problems);
        }
    };
    let tars: Option<Vec<Tar>> = tars.map(<[_]>::to_vec);
    let told = blocking(move || match &tars {
        Some(tars) => index(file, tars),
        None => lines(file).map(|lines| (lines, None)),
    });
    match told.await? {
        Err(error) => problems.push(Problem::about(name, What::Unreadable, error.to_string())),
        Ok((_, Some(odd))) => problems.push(Problem::about(name, What::Rows, odd)),
        Ok((told, None)) => {
            let wanted = counts.map_or(told, |counts| counts.all_done);
            if told != wanted {
                let detail = format!("it tells of {told} pictures, {MANIFEST} of {wanted}");
                problems.push(Problem::about(name, What::Rows, detail));
            }
        }
    }
    Ok(problems)
}

/// A table as a file on this machine.
async fn table(output: &Output, name: &str) -> Result<Result<File, Problem>, Error> {
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

/// Counts the rows of a manifest. Reads only the two columns that tell.
fn count(file: File, job: &str) -> Result<Counts, ParquetError> {
    let reader = SerializedFileReader::new(file)?;
    let schema = reader.metadata().file_metadata().schema();
    let field = |name: &str| {
        let found = schema.get_fields().iter().find(|field| field.name() == name).cloned();
        found.ok_or_else(|| ParquetError::General(format!("it has no column {name}")))
    };
    let fields = vec![field("job_id")?, field("state")?];
    let wanted = Type::group_type_builder(schema.name()).with_fields(fields).build()?;
    let mut counts = Counts::default();
    for row in reader.get_row_iter(Some(wanted))? {
        let row = row?;
        let mut of_job = false;
        let mut is_done = false;
        for (name, value) in row.get_column_iter() {
            let text = if let parquet::record::Field::Str(text) = value { text.as_str() } else { "" };
            match name.as_str() {
                "job_id" => of_job = text == job,
                _ => is_done = text == "done",
            }
        }
        counts.rows += u64::from(of_job);
        counts.done += u64::from(of_job && is_done);
        counts.all_done += u64::from(is_done);
    }
    Ok(counts)
}

/// Lines of JSON.
fn lines(file: File) -> io::Result<u64> {
    let mut lines = 0;
    for line in BufReader::new(file).lines() {
        let line: Value = serde_json::from_str(&line?)?;
        lines += u64::from(line.is_object());
    }
    Ok(lines)
}

/// Samples that an index of tars tells of, and what is wrong with what it says of these tars.
fn index(file: File, tars: &[Tar]) -> io::Result<(u64, Option<String>)> {
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

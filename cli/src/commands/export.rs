//! `sanafarm export`: what the manifest tells of a job, as a file.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use sanafarm_proto::v1::job_service_client::JobServiceClient;
use sanafarm_proto::v1::{ExportFormat, ExportJobRequest, GetJobRequest};
use tempfile::NamedTempFile;
use tokio::sync::mpsc;
use tonic::Code;

use crate::args::{ExportArgs, ExportFormatName};
use crate::connect::Connection;
use crate::error::{Error, Exit};
use crate::printer::amounts::{bytes, counted};
use crate::printer::{Printer, output_error};
use crate::progress::Counting;

/// Pieces that wait for the disk.
const PIECES: usize = 4;

/// Writes the file as its bytes come.
pub async fn run(args: ExportArgs, printer: &Printer) -> Result<Exit, Error> {
    let format = args.format.unwrap_or_else(|| by_ending(args.output.as_deref()));
    if format == ExportFormatName::Parquet && args.output.is_none() && io::stdout().is_terminal() {
        return Err(Error::mistake("export to a terminal")
            .because("parquet is no text")
            .hint("name a file with -o FILE, pipe it on, or say --format csv or --format jsonl"));
    }
    let connection = Connection::reading(args.place.into()).await?;
    let mut client = JobServiceClient::new(connection.channel.clone());
    let failed = |status: tonic::Status| {
        let error = Error::call(format!("export job {}", args.job), &status);
        match status.code() {
            Code::NotFound => error.hint("`sanafarm jobs` lists jobs"),
            Code::Unimplemented => error.hint("the coordinator is older than this program"),
            _ => error,
        }
    };
    let job = client.get_job(GetJobRequest { job_id: args.job.clone() }).await.map_err(failed)?.into_inner();
    let request = ExportJobRequest { job_id: job.job_id.clone(), format: ExportFormat::from(format).into() };
    let mut pieces = client.export_job(request).await.map_err(failed)?.into_inner();
    let progress = Counting::start(job.images, "images", printer);
    let (sender, receiver) = mpsc::channel(PIECES);
    let writer = Writer::open(args.output.as_deref())?;
    let thread = tokio::task::spawn_blocking(move || writer.write(receiver));
    let (mut written, mut images) = (0, 0);
    while let Some(piece) = pieces.message().await.map_err(failed)? {
        written += piece.data.len() as u64;
        images = piece.images;
        progress.at(images);
        if sender.send(piece.data).await.is_err() {
            // The thread has ended; it says why below.
            break;
        }
    }
    // Only what came whole is put in its place.
    drop(sender);
    drop(progress);
    let finished = thread.await.map_err(|error| Error::failure("write the file").caused_by(&error))??;
    finished.put_in_place()?;
    if let Some(file) = &args.output {
        let (images, written) = (counted(images, "image"), bytes(written as f64));
        printer.note(format!("{images} in {} ({written})", file.display()));
    }
    drop((client, pieces));
    connection.close().await;
    Ok(Exit::Success)
}

/// What the name of the file says.
fn by_ending(file: Option<&Path>) -> ExportFormatName {
    match file.and_then(Path::extension).and_then(|ending| ending.to_str()) {
        Some("csv") => ExportFormatName::Csv,
        Some("jsonl" | "ndjson") => ExportFormatName::Jsonl,
        Some(_) | None => ExportFormatName::Parquet,
    }
}

/// Where the bytes go.
enum Writer {
    Stdout,
    /// Beside the file, until it is complete.
    File(NamedTempFile, PathBuf),
}

impl Writer {
    fn open(file: Option<&Path>) -> Result<Self, Error> {
        let Some(file) = file else { return Ok(Self::Stdout) };
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        #[cfg(unix)]
        builder.permissions(<std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o666));
        let temporary = builder.tempfile_in(folder).map_err(|error| file_error(file, &error))?;
        Ok(Self::File(temporary, file.to_owned()))
    }

    /// Blocks until there are no more pieces.
    fn write(mut self, mut pieces: mpsc::Receiver<Vec<u8>>) -> Result<Self, Error> {
        while let Some(piece) = pieces.blocking_recv() {
            match &mut self {
                Self::Stdout => {
                    io::stdout().lock().write_all(&piece).map_err(|error| output_error(&error))?
                }
                Self::File(temporary, file) => {
                    temporary.write_all(&piece).map_err(|error| file_error(file, &error))?;
                }
            }
        }
        if let Self::Stdout = self {
            io::stdout().lock().flush().map_err(|error| output_error(&error))?;
        }
        Ok(self)
    }

    /// Over a file that was there.
    fn put_in_place(self) -> Result<(), Error> {
        match self {
            Self::Stdout => Ok(()),
            Self::File(temporary, file) => match temporary.persist(&file) {
                Ok(_) => Ok(()),
                Err(error) => Err(file_error(&file, &error.error)),
            },
        }
    }
}

fn file_error(file: &Path, error: &io::Error) -> Error {
    Error::mistake(format!("write {}", file.display())).caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_file_tells_its_kind() {
        let kind = |name: &str| by_ending(Some(Path::new(name)));
        assert_eq!([kind("a.csv"), kind("b/a.jsonl")], [ExportFormatName::Csv, ExportFormatName::Jsonl]);
        assert_eq!([kind("a"), kind("a.parquet"), by_ending(None)], [ExportFormatName::Parquet; 3]);
    }
}

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
    let format = match args.format {
        Some(format) => format,
        None => by_ending(args.output.as_deref())?,
    };
    if let Some(file) = args.output.as_deref().filter(|file| file.exists() && !args.replace) {
        return Err(Error::mistake(format!("{} is there already", file.display()))
            .hint("name another file with --output, or add --replace"));
    }
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
    finished.put_in_place(args.replace)?;
    if let Some(file) = &args.output {
        let (images, written) = (counted(images, "image"), bytes(written as f64));
        printer.note(format!("{images} in {} ({written})", file.display()));
    }
    drop((client, pieces));
    connection.close().await;
    Ok(Exit::Success)
}

/// What the name of the file says.
fn by_ending(file: Option<&Path>) -> Result<ExportFormatName, Error> {
    let Some(file) = file else { return Ok(ExportFormatName::Parquet) };
    match file.extension().and_then(|ending| ending.to_str()) {
        Some("csv") => Ok(ExportFormatName::Csv),
        Some("jsonl" | "ndjson") => Ok(ExportFormatName::Jsonl),
        Some("parquet") => Ok(ExportFormatName::Parquet),
        Some(_) | None => {
            Err(Error::mistake(format!("{} does not tell what kind of file it is", file.display()))
                .hint("let it end with .parquet, .csv or .jsonl, or say --format"))
        }
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

    /// Over a file that was there only when that is wanted.
    fn put_in_place(self, replace: bool) -> Result<(), Error> {
        let Self::File(temporary, file) = self else { return Ok(()) };
        let put = if replace { temporary.persist(&file) } else { temporary.persist_noclobber(&file) };
        put.map(drop).map_err(|error| file_error(&file, &error.error))
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
        let kind = |name: &str| by_ending(Some(Path::new(name))).ok();
        assert_eq!(
            ["a.csv", "b/a.jsonl", "a.parquet"].map(kind),
            [ExportFormatName::Csv, ExportFormatName::Jsonl, ExportFormatName::Parquet].map(Some)
        );
        assert_eq!(["a", "a.foo"].map(kind), [None; 2]);
        assert_eq!(by_ending(None).unwrap(), ExportFormatName::Parquet);
    }
}

//! What the manifest tells of a job, as the bytes of a file for whoever asks. Rows are read as fast as the bytes are
//! taken, and no faster; memory follows the page, not the job.

use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::Stream;
use jiff::Timestamp;
use serde_json::Map;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::column::{COLUMNS, Kind, Value};
use super::line::{Line, free_names};
use super::table::TableWriter;
use super::{Error, PAGE};
use crate::farm::Farm;
use crate::store::records::{Job, ManifestRow};

/// Bytes that are handed out at a time.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces on their way to a slow reader.
const PIECES: usize = 4;

/// What kind of file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Parquet,
    /// With a header.
    Csv,
    /// One JSON object a line.
    Jsonl,
}

/// A part of the file.
#[derive(Debug)]
pub(crate) struct Piece {
    pub bytes: Vec<u8>,
    /// Images that were written by then.
    pub images: u64,
}

/// A page of rows, or the word that there are no more.
type Page = Option<Vec<ManifestRow>>;

/// The file of a job as it is now: images without a result are in it too. An error is the last item.
pub(crate) fn export(
    farm: &Arc<Farm>,
    job: Job,
    format: Format,
) -> impl Stream<Item = Result<Piece, Error>> + Send + use<> {
    let (pieces, taken) = mpsc::channel(PIECES);
    let of_farm = Arc::clone(farm);
    farm.tasks.spawn(async move {
        let stop = of_farm.stop.clone();
        let exported = tokio::select! {
            // The stream ends, and so does whoever reads it, with an error: its last item is missing.
            () = stop.cancelled() => return drop(pieces.send(Err(Error::Stopped)).await),
            exported = read_and_write(&of_farm, job, format, &pieces) => exported,
        };
        if let Err(error) = exported {
            // Nobody may read any more, which is why it ended then.
            let _ = pieces.send(Err(error)).await;
        }
    });
    ReceiverStream::new(taken)
}

/// Reads pages here and writes them in a thread of its own, until nobody takes the pieces any more.
async fn read_and_write(
    farm: &Farm,
    job: Job,
    format: Format,
    pieces: &mpsc::Sender<Result<Piece, Error>>,
) -> Result<(), Error> {
    let columns = farm.store.columns(&job.id).await?;
    let (pages, from) = mpsc::channel(1);
    let id = job.id.clone();
    let to = Pieces { pieces: pieces.clone(), bytes: Vec::new(), images: Arc::default() };
    let thread = tokio::task::spawn_blocking(move || write_pages(&job, &columns, format, from, to));
    let mut next = 0;
    loop {
        let rows = farm.store.manifest_rows(&id, next, PAGE).await?;
        let page = match rows.last() {
            Some(last) => {
                next = last.image.index + 1;
                Some(rows)
            }
            None => None,
        };
        let ends = page.is_none();
        // A closed channel means that the thread has ended; it says why below.
        if pages.send(page).await.is_err() || ends {
            break;
        }
    }
    thread.await?
}

/// Blocks. Without the word that there are no more rows the file is left incomplete.
fn write_pages(
    job: &Job,
    columns: &[String],
    format: Format,
    mut pages: mpsc::Receiver<Page>,
    to: Pieces,
) -> Result<(), Error> {
    let images = Arc::clone(&to.images);
    let mut writer = Writer::new(format, columns, to)?;
    while let Some(page) = pages.blocking_recv() {
        let Some(rows) = page else { return writer.finish() };
        let lines: Vec<_> = rows.into_iter().map(Line::read).collect();
        writer.write(job, &lines)?;
        images.fetch_add(lines.len() as u64, Ordering::Relaxed);
    }
    Ok(())
}

/// Hands out what is written, piece by piece.
struct Pieces {
    pieces: mpsc::Sender<Result<Piece, Error>>,
    bytes: Vec<u8>,
    /// Written so far.
    images: Arc<AtomicU64>,
}

impl Pieces {
    fn hand_out(&mut self) -> io::Result<()> {
        let (bytes, images) = (std::mem::take(&mut self.bytes), self.images.load(Ordering::Relaxed));
        let piece = Piece { bytes, images };
        self.pieces.blocking_send(Ok(piece)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = &bytes[..bytes.len().min(PIECE_BYTES - self.bytes.len())];
        self.bytes.extend_from_slice(taken);
        if self.bytes.len() == PIECE_BYTES {
            self.hand_out()?;
        }
        Ok(taken.len())
    }

    /// A piece is handed out when it is large enough, and at the end.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One of the formats.
enum Writer<'a> {
    Parquet(Box<TableWriter<'a, Pieces>>),
    Csv(Box<csv::Writer<Pieces>>, Names<'a>),
    Jsonl(Box<BufWriter<Pieces>>, Names<'a>),
}

/// The names of the pass-through columns, and what they are called here.
struct Names<'a> {
    columns: &'a [String],
    extra: Vec<String>,
}

impl<'a> Names<'a> {
    fn new(columns: &'a [String]) -> Self {
        let own: Vec<&str> = COLUMNS.iter().map(|column| column.name).collect();
        Self { columns, extra: free_names(columns, &own) }
    }

    fn all(&self) -> impl Iterator<Item = &str> {
        COLUMNS.iter().map(|column| column.name).chain(self.extra.iter().map(String::as_str))
    }

    /// The values of a line, in the order of the names.
    fn values<'b>(&'b self, job: &'b Job, line: &'b Line) -> impl Iterator<Item = (Kind, Value)> + 'b {
        let own = COLUMNS.iter().map(|column| (column.kind, (column.value)(job, line)));
        own.chain(self.columns.iter().map(|column| (Kind::Text, line.extra_text(column).into())))
    }
}

impl<'a> Writer<'a> {
    fn new(format: Format, columns: &'a [String], to: Pieces) -> Result<Self, Error> {
        let names = Names::new(columns);
        Ok(match format {
            Format::Parquet => Self::Parquet(Box::new(TableWriter::new(to, columns)?)),
            Format::Csv => {
                let mut writer = csv::Writer::from_writer(to);
                writer.write_record(names.all()).map_err(csv_error)?;
                Self::Csv(Box::new(writer), names)
            }
            Format::Jsonl => Self::Jsonl(Box::new(BufWriter::new(to)), names),
        })
    }

    fn write(&mut self, job: &Job, lines: &[Line]) -> Result<(), Error> {
        match self {
            Self::Parquet(table) => table.write(job, lines)?,
            Self::Csv(writer, names) => {
                for line in lines {
                    writer.write_record(names.values(job, line).map(csv_text)).map_err(csv_error)?;
                }
            }
            Self::Jsonl(writer, names) => {
                for line in lines {
                    let values = names.values(job, line).map(json);
                    let object: Map<_, _> = names.all().map(str::to_owned).zip(values).collect();
                    serde_json::to_writer(&mut **writer, &object).map_err(io::Error::from)?;
                    writer.write_all(b"\n")?;
                }
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<(), Error> {
        let mut pieces = match self {
            Self::Parquet(table) => table.finish()?,
            Self::Csv(writer, _) => writer.into_inner().map_err(|error| error.into_error())?,
            Self::Jsonl(writer, _) => writer.into_inner().map_err(|error| error.into_error())?,
        };
        Ok(pieces.hand_out()?)
    }
}

fn csv_error(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}

/// A time as text; every time that is stored is one.
fn time(milliseconds: i64) -> Option<String> {
    Timestamp::from_millisecond(milliseconds).ok().map(|time| format!("{time:.3}"))
}

fn csv_text((kind, value): (Kind, Value)) -> String {
    match (kind, value) {
        (_, Value::Null) => String::new(),
        (Kind::Time, Value::Integer(number)) => time(number).unwrap_or_default(),
        (_, Value::Text(text)) => text,
        (_, Value::Integer(number)) => number.to_string(),
        (_, Value::Real(number)) => number.to_string(),
    }
}

fn json((kind, value): (Kind, Value)) -> serde_json::Value {
    match (kind, value) {
        (_, Value::Null) => serde_json::Value::Null,
        (Kind::Time, Value::Integer(number)) => time(number).into(),
        (_, Value::Text(text)) => text.into(),
        (_, Value::Integer(number)) => number.into(),
        (_, Value::Real(number)) => number.into(),
    }
}

//! Publishing: the picture file goes to its name below the output, unless somebody's file is there.

use bytes::Bytes;
use sanafarm_proto::v1::ErrorClass;
use sanafarm_storage::{Error, Found, Output};

use super::Problem;
use super::place::{Place, Source, Written};
use crate::outbox::record::{File, Record, Stored};
use crate::picture::{self, Format};
use crate::recipe::{Failure, Provenance};

/// How often a name is tried whose file comes and goes.
const TRIES: u32 = 6;

/// What became of a picture file.
#[derive(Debug, PartialEq)]
pub(super) enum Published {
    /// It is stored, by this call or by an attempt before.
    Done(Stored),
    /// There is no picture: something else stands in its place.
    Failed(Failure),
}

/// Opens an output, clears it of what killed processes left half-written, and looks whether it can be written, before
/// hours of work for it. One that is out of reach in this moment may come back.
pub(crate) async fn open_output(name: &str) -> Result<Output, Error> {
    let output = open(name).await?;
    match output.sweep_staging().await {
        Ok(swept) => tracing::debug!(output = output.place(), swept, "cleared leftovers"),
        // Leftovers take room and harm nothing.
        Err(error) => tracing::warn!(%error, "leftovers not cleared"),
    }
    match output.check_writable().await {
        Err(error) if error.is_transient() => {
            tracing::warn!(%error, "output is out of reach: finished images wait for it");
            Ok(output)
        }
        checked => checked.map(|()| output),
    }
}

/// Opens an output.
pub(super) async fn open(name: &str) -> Result<Output, Error> {
    let name = name.to_owned();
    let opened = tokio::task::spawn_blocking(move || Output::open(&name)).await;
    opened.map_err(|error| Error::Unavailable(format!("open the output: {error}")))?
}

/// Stores a picture; the error is the output's fault and not the image's.
pub(super) async fn publish(place: &Place, record: &Record, picture: Source) -> Result<Published, Problem> {
    let object = record.object.as_str();
    for _ in 0..TRIES {
        match place.put_new(&record.lease, object, &picture).await? {
            // Of an image that has a result, this one will be known.
            Written::New | Written::Unwanted => return Ok(Published::Done(own(record))),
            Written::There => {}
        }
        let provenance: Provenance = match serde_json::from_str(&record.recipe) {
            Ok(provenance) => provenance,
            Err(error) => {
                return Ok(conflict(place, object, &format!("its own recipe cannot be read: {error}")));
            }
        };
        let limit = picture::largest_file(&provenance, record.encoding).max(record.picture.bytes);
        match place.get(&record.lease, object, limit).await? {
            // Somebody has removed it in this moment: its place is free again.
            Found::Nothing => {}
            Found::Object(found) => return adopt(place, record, &provenance, found).await,
            Found::Larger => return Ok(conflict(place, object, "it is larger than this picture can be")),
        }
    }
    Err(Problem::Later(format!("write {object} in {}: a file comes and goes there", place.name())))
}

fn own(record: &Record) -> Stored {
    Stored { file: record.picture.clone(), recipe: record.recipe.clone() }
}

/// Takes the object of a former attempt, killed between its upload and its report, for our own.
async fn adopt(
    place: &Place,
    record: &Record,
    provenance: &Provenance,
    found: Bytes,
) -> Result<Published, Problem> {
    let object = record.object.as_str();
    let bytes = found.len() as u64;
    let format = Format::of(&found);
    let (sha256, read) = inspect(found).await?;
    if sha256 == record.picture.sha256 {
        return Ok(Published::Done(own(record)));
    }
    match read {
        Ok(_) if format != Some(record.encoding.format()) => {
            Ok(conflict(place, object, "it is a picture of another format"))
        }
        Ok(stored) if stored.same_recipe(provenance) => {
            tracing::info!(object, "adopted the picture of an earlier attempt");
            Ok(Published::Done(Stored { file: File { bytes, sha256 }, recipe: stored.to_json() }))
        }
        Ok(_) => Ok(conflict(place, object, "it is a picture of another recipe")),
        Err(error) => Ok(conflict(place, object, &error.to_string())),
    }
}

fn conflict(place: &Place, object: &str, why: &str) -> Published {
    let message = format!(
        "another file stands at {object} in {}: {why}; move it away or choose another output, nothing was \
         overwritten",
        place.name()
    );
    Published::Failed(Failure::new(ErrorClass::Conflict, message))
}

type Inspected = (String, Result<Provenance, picture::Unreadable>);

/// Reads a file through, away from the async threads: its checksum and its recipe.
async fn inspect(file: Bytes) -> Result<Inspected, Error> {
    let inspected = tokio::task::spawn_blocking(move || (picture::sha256(&file), picture::read(&file)));
    inspected.await.map_err(|error| Error::Unavailable(format!("inspect the stored picture: {error}")))
}

//! Publishing: the picture file goes to its name below the output, unless somebody's file is there.

use std::time::Duration;

use bytes::Bytes;
use sanafarm_proto::v1::{ErrorClass, ImageDone};
use sanafarm_storage::{Error, Found, Output, Put};

use crate::engine::Picture;
use crate::picture;
use crate::recipe::{Failure, Provenance};
use crate::retry::Backoff;

/// How often an output that is out of reach is tried.
const TRIES: u32 = 6;

/// What became of a picture file.
#[derive(Debug, PartialEq)]
pub(crate) enum Published {
    /// It is stored, by this call or by an attempt before.
    Done(ImageDone),
    /// There is no picture: something else stands in its place, or it could not be made.
    Failed(Failure),
}

/// Opens an output, clears it of what killed processes left half-written, and makes sure that it can be
/// written, before hours of work for it.
pub(crate) async fn open_output(name: &str) -> Result<Output, Error> {
    let name = name.to_owned();
    let opened = tokio::task::spawn_blocking(move || Output::open(&name)).await;
    let output = opened.map_err(|error| Error::Unavailable(format!("open the output: {error}")))??;
    match output.sweep_staging().await {
        Ok(swept) => tracing::debug!(output = output.place(), swept, "cleared leftovers"),
        // Leftovers take room and harm nothing.
        Err(error) => tracing::warn!(%error, "leftovers not cleared"),
    }
    patiently(|| output.check_writable()).await?;
    Ok(output)
}

/// Stores a picture; the error is the output's fault and not the image's.
pub(crate) async fn publish(output: &Output, object: &str, picture: Picture) -> Result<Published, Error> {
    let Picture { bytes, sha256, provenance } = picture;
    let length = bytes.len() as u64;
    for _ in 0..TRIES {
        match patiently(|| output.put_new(object, bytes.clone())).await? {
            Put::Created => return Ok(Published::Done(done(object, length, sha256, &provenance))),
            Put::Exists => {}
        }
        let limit = picture::largest_file(&provenance);
        match patiently(|| output.get(object, limit)).await? {
            // Somebody has removed it in this moment: its place is free again.
            Found::Nothing => {}
            Found::Object(found) => return adopt(output, object, &provenance, found).await,
            Found::Larger => return Ok(conflict(output, object, "it is larger than this picture can be")),
        }
    }
    Err(Error::Unavailable(format!("write {object} in {}: a file comes and goes there", output.place())))
}

/// Takes the object of a former attempt, killed between its upload and its report, for our own.
async fn adopt(
    output: &Output,
    object: &str,
    provenance: &Provenance,
    found: Bytes,
) -> Result<Published, Error> {
    let (found, read) = inspect(found).await?;
    match read {
        Ok((stored, sha256)) if stored.same_recipe(provenance) => {
            tracing::info!(object, "adopted the picture of an earlier attempt");
            Ok(Published::Done(done(object, found.len() as u64, sha256, &stored)))
        }
        Ok(_) => Ok(conflict(output, object, "it is a picture of another recipe")),
        Err(error) => Ok(conflict(output, object, &error.to_string())),
    }
}

fn conflict(output: &Output, object: &str, why: &str) -> Published {
    let message = format!(
        "another file stands at {object} in {}: {why}; move it away or choose another output, nothing was \
         overwritten",
        output.place()
    );
    Published::Failed(Failure::new(ErrorClass::Conflict, message))
}

type Inspected = Result<(Provenance, String), picture::Unreadable>;

/// Reads a file through, away from the async threads.
async fn inspect(file: Bytes) -> Result<(Bytes, Inspected), Error> {
    let inspected = tokio::task::spawn_blocking(move || {
        let read = picture::read(&file).map(|provenance| (provenance, picture::sha256(&file)));
        (file, read)
    });
    inspected.await.map_err(|error| Error::Unavailable(format!("inspect the stored picture: {error}")))
}

fn done(object: &str, bytes: u64, sha256: String, provenance: &Provenance) -> ImageDone {
    ImageDone { object: object.into(), bytes, sha256, recipe: provenance.to_json() }
}

/// Tries again while the output is out of reach, for about ten seconds.
async fn patiently<T, F: Future<Output = Result<T, Error>>>(call: impl Fn() -> F) -> Result<T, Error> {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    for _ in 1..TRIES {
        match call().await {
            Err(error) if error.is_transient() => {
                let wait = backoff.wait();
                tracing::warn!(%error, retry_in = ?wait, "output is out of reach");
                tokio::time::sleep(wait).await;
            }
            other => return other,
        }
    }
    call().await
}

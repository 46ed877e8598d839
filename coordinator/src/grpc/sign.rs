//! Signed URLs for workers that have no keys of the object store.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sanafarm_proto::v1;
use sanafarm_storage::{Access, Output};
use tonic::Status;

use super::status::status;
use super::{convert, sessions};
use crate::auth::Principal;
use crate::domain::signing::{Objects, Right};
use crate::farm::Farm;

/// How long a URL is good for: a tar takes a while over a slow line.
const LIFETIME: Duration = Duration::from_secs(3600);
/// Objects of one call.
const MOST_OBJECTS: usize = 1000;
/// Outputs that are kept open.
const MOST_OUTPUTS: usize = 64;

/// Outputs that URLs were signed for.
#[derive(Debug, Default)]
pub(crate) struct Outputs(Mutex<HashMap<String, Output>>);

impl Outputs {
    async fn open(&self, place: &str) -> Result<Output, Status> {
        // No critical section leaves it half-changed.
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(place).cloned();
        if let Some(output) = known {
            return Ok(output);
        }
        let name = place.to_owned();
        let opened = tokio::task::spawn_blocking(move || Output::open(&name)).await;
        let output = match opened {
            Ok(opened) => opened.map_err(|error| refused(&error))?,
            Err(error) => return Err(Status::internal(format!("open output {place}: {error}"))),
        };
        let mut outputs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if outputs.len() >= MOST_OUTPUTS {
            outputs.clear();
        }
        outputs.insert(place.to_owned(), output.clone());
        Ok(output)
    }
}

/// Whether workers need keys to write there: a folder has none.
pub(super) fn has_keys(output: &str) -> bool {
    output.contains("://") && !output.starts_with("file://")
}

/// Signs URLs for objects of an attempt that the session's worker was given, and for nothing else.
pub(super) async fn sign(
    farm: &Farm,
    who: &Principal,
    request: v1::SignObjectsRequest,
) -> Result<v1::SignObjectsResponse, Status> {
    if !farm.options.presign {
        return Err(Status::failed_precondition(
            "this coordinator signs no URLs; start it with --presign, or give the worker keys of its own",
        ));
    }
    if request.objects.len() > MOST_OBJECTS {
        let text = format!("{} objects; {MOST_OBJECTS} at most are signed at once", request.objects.len());
        return Err(Status::invalid_argument(text));
    }
    let session = sessions::own(farm, who, request.session_id).await?;
    let lease = convert::lease_ref(request.lease)?;
    let found = farm.store.attempt_objects(&session, &lease).await.map_err(status)?;
    let allowed = Objects::of(&found.form, lease.shard.as_str(), lease.attempt, found.images);
    let rights = request.objects.iter().map(|object| {
        allowed.right(object).ok_or_else(|| {
            let (attempt, shard) = (lease.attempt, &lease.shard);
            tracing::warn!(%session, %shard, attempt, object, "a foreign object was to be signed");
            Status::permission_denied(format!(
                "{object:?} is no object of attempt {attempt} of shard {shard}"
            ))
        })
    });
    let rights = rights.collect::<Result<Vec<_>, Status>>()?;
    let output = farm.outputs.open(&found.output).await?;
    let expires_at = convert::timestamp(
        farm.store
            .clock()
            .saturating_add(LIFETIME)
            .map_err(|error| Status::internal(format!("a URL would end after the calendar: {error}")))?,
    );
    let mut signed = Vec::with_capacity(rights.len());
    for (object, right) in request.objects.into_iter().zip(rights) {
        let url =
            async |access| output.sign(&object, access, LIFETIME).await.map_err(|error| refused(&error));
        let put_url = match right {
            Right::Write => url(Access::Put).await?.to_string(),
            Right::Read => String::new(),
        };
        let get_url = url(Access::Get).await?.to_string();
        signed.push(v1::SignedObject { object, put_url, get_url, expires_at: Some(expires_at) });
    }
    Ok(v1::SignObjectsResponse { objects: signed })
}

/// Signing is local, or asks the cloud for a signature.
fn refused(error: &sanafarm_storage::Error) -> Status {
    match error {
        sanafarm_storage::Error::Unavailable(_) => Status::unavailable(error.to_string()),
        _ => Status::failed_precondition(error.to_string()),
    }
}

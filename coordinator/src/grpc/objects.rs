//! What an output may hold, and what a job made as a file.

use std::sync::Arc;

use futures::{Stream, StreamExt, TryStreamExt};
use sanafarm_proto::v1;
use tonic::Status;

use super::status::status;
use super::{convert, own};
use crate::auth::Principal;
use crate::domain::listing::manifests;
use crate::farm::Farm;
use crate::services::manifest;
use crate::services::manifest::export::{Format, export};
use crate::store::Error;

/// The objects of an output that the database knows.
pub(super) async fn list(
    farm: &Farm,
    who: &Principal,
    output: &str,
) -> Result<impl Stream<Item = Result<v1::ListObjectsResponse, Status>> + Send + use<>, Status> {
    let output = &convert::output(output)?;
    own::output(farm, who, output).await?;
    let jobs = farm.store.jobs_of_output(output).await.map_err(status)?;
    let Some(first) = jobs.first() else {
        return Err(status(Error::NotFound { what: "job with output", id: output.to_owned() }));
    };
    let images = jobs.iter().map(|job| job.images).sum();
    let pages = farm.store.objects(output, &manifests(first.form.layout, images)).await.map_err(status)?;
    Ok(pages.map_err(status).map_ok(|page| v1::ListObjectsResponse {
        objects: page.into_iter().map(convert::listed_message).collect(),
    }))
}

/// The file of a job.
pub(super) async fn export_job(
    farm: &Arc<Farm>,
    who: &Principal,
    request: v1::ExportJobRequest,
) -> Result<impl Stream<Item = Result<v1::ExportJobResponse, Status>> + Send + use<>, Status> {
    let format = match v1::ExportFormat::try_from(request.format) {
        Ok(v1::ExportFormat::Parquet | v1::ExportFormat::Unspecified) => Format::Parquet,
        Ok(v1::ExportFormat::Csv) => Format::Csv,
        Ok(v1::ExportFormat::Jsonl) => Format::Jsonl,
        Err(_) => return Err(Status::invalid_argument(format!("unknown format {}", request.format))),
    };
    let job = own::job(farm, who, &request.job_id).await?;
    let pieces = export(farm, job, format);
    Ok(pieces.map(|piece| match piece {
        Ok(piece) => Ok(v1::ExportJobResponse { data: piece.bytes, images: piece.images }),
        Err(error) => Err(failed(error)),
    }))
}

fn failed(error: manifest::Error) -> Status {
    match error {
        manifest::Error::Store(error) => status(error),
        manifest::Error::Stopped => Status::unavailable(error.to_string()),
        error => Status::internal(error.to_string()),
    }
}

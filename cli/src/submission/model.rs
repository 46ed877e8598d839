//! The model of a job: found and checked before anything starts.

use sana::ModelInfo;
use sanafarm_worker::models::{self, BUNDLED};

use super::blocking;
use crate::data_folder::DataFolder;
use crate::error::Error;

/// A model by the name that goes into the job, and what is known of it here.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// Name of the bundled model or an absolute folder.
    pub reference: String,
    /// `None` when the folder is on the workers' machines only.
    pub info: Option<ModelInfo>,
}

/// Finds a model on this machine and checks that all its parts are there and whole.
pub async fn local_model(reference: &str, data: &DataFolder) -> Result<Model, Error> {
    let (reference, cache) = (reference.to_owned(), data.models());
    blocking(move || {
        let hint =
            format!("name a folder in the diffusers layout with --model, or leave it out for {BUNDLED}");
        let wrong = || Error::mistake(format!("use model {reference}")).hint(&hint);
        let folder = models::resolve(&reference, &cache).map_err(|error| wrong().caused_by(&error))?;
        let info = sana::inspect(&folder).map_err(|error| wrong().caused_by(&error))?;
        let reference = if reference == BUNDLED {
            reference
        } else {
            let absolute = std::path::absolute(&folder).map_err(|error| wrong().caused_by(&error))?;
            absolute.to_str().ok_or_else(|| wrong().because("its path is not UTF-8"))?.to_owned()
        };
        Ok(Model { reference, info: Some(info) })
    })
    .await?
}

/// Finds the model of a submission, which may be on the workers' machines only.
pub async fn submitted_model(reference: &str, data: &DataFolder) -> Result<Model, Error> {
    let folder = std::path::absolute(reference)
        .map_err(|error| Error::mistake(format!("find model `{reference}`")).caused_by(&error))?;
    if reference == BUNDLED || folder.exists() {
        return local_model(reference, data).await;
    }
    Ok(Model { reference: reference.to_owned(), info: None })
}

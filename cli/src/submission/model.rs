//! The model of a job: found and checked before anything starts.

use std::path::Path;

use sana::Outline;
use sanafarm_worker::models::{self, BUNDLED, Cancel, Held, Models, Options, Reference};

use super::blocking;
use crate::args::SubmissionArgs;
use crate::data_folder::DataFolder;
use crate::error::Error;
use crate::models::{WatchedModels, model_error, options};
use crate::printer::Printer;

/// A model by the name that goes into the job, and what is known of it here.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// Name of the bundled model, an absolute folder, or where workers download it from; on the hub with the commit, so
    /// that all of them render with the same weights.
    pub reference: String,
    /// `None` when only the workers can reach it.
    pub outline: Option<Outline>,
    /// `None` when its weights are not on this machine.
    pub weights_sha256: Option<String>,
}

/// Finds a model, downloads it when it is elsewhere, and checks that all its parts are there and whole.
pub async fn local_model(reference: &str, options: &Options, printer: &Printer) -> Result<Model, Error> {
    let reference = reference.to_owned();
    found(reference, options, printer, |models, reference| {
        let wrong = |error: &models::Error| {
            let wrong = model_error(format!("use model {reference}"), error);
            let is_folder =
                matches!(Reference::parse(reference), Ok(Reference::Folder(folder)) if !folder.exists());
            match is_folder && Reference::parse(&format!("hf:{reference}")).is_ok() {
                true => wrong.hint(model_hint(reference)),
                false => wrong,
            }
        };
        let held = models.resolve(reference, &Cancel::default()).map_err(|error| wrong(&error))?;
        let info = sana::inspect(held.folder()).map_err(|error| broken(reference, &error))?;
        let reference = name(reference, &held)?;
        Ok(Model { reference, outline: Some(info.outline()), weights_sha256: Some(info.weights_sha256) })
    })
    .await
}

/// Finds the model of a submission, which may be on the workers' machines only. Of one that workers download, only the
/// small files are fetched here that tell what it is.
pub async fn submitted_model(
    args: &SubmissionArgs,
    data: &DataFolder,
    printer: &Printer,
) -> Result<Model, Error> {
    let options = options(args.cache.clone(), data);
    let parsed = Reference::parse(&args.model);
    match parsed.map_err(|error| model_error(format!("use model {}", args.model), &error))? {
        Reference::Bundled => local_model(&args.model, &options, printer).await,
        Reference::Folder(folder) if folder.exists() => local_model(&args.model, &options, printer).await,
        // Workers may have it under this path; one that is relative names nothing for them.
        Reference::Folder(folder) if folder.is_absolute() => Ok(unknown(&args.model)),
        Reference::Folder(_) => Err(Error::mistake(format!("use model {}", args.model))
            .because("there is no such folder here, and workers would not find it by a relative path")
            .hint(model_hint(&args.model))),
        Reference::Remote(_) => remote_model(&args.model, &options, printer).await,
    }
}

async fn remote_model(reference: &str, options: &Options, printer: &Printer) -> Result<Model, Error> {
    let warner = printer.clone();
    found(reference.to_owned(), options, printer, move |models, reference| {
        match models.outline(reference, &Cancel::default()) {
            Ok(held) => {
                let outline = sana::outline(held.folder()).map_err(|error| broken(reference, &error))?;
                Ok(Model { reference: name(reference, &held)?, outline: Some(outline), weights_sha256: None })
            }
            // Workers may reach what this machine may not.
            Err(error @ (models::Error::Unreachable(_) | models::Error::Denied { .. })) => {
                warner.warn(format!("model {reference} cannot be looked at from here: {error}"));
                Ok(unknown(reference))
            }
            Err(error) => Err(model_error(format!("use model {reference}"), &error)),
        }
    })
    .await
}

async fn found(
    reference: String,
    options: &Options,
    printer: &Printer,
    look: impl FnOnce(&Models, &str) -> Result<Model, Error> + Send + 'static,
) -> Result<Model, Error> {
    let watched = WatchedModels::new(options, printer);
    blocking(move || look(&watched.models, &reference)).await?
}

/// What may be meant by a name that is none of a model.
fn model_hint(name: &str) -> String {
    match Reference::parse(&format!("hf:{name}")) {
        Ok(_) => format!("did you mean hf:{name}?"),
        Err(_) => format!(
            "name {BUNDLED}, the absolute path of a folder, hf:owner/name, or a prefix of an object store (docs/models.md)"
        ),
    }
}

fn unknown(reference: &str) -> Model {
    Model { reference: reference.to_owned(), outline: None, weights_sha256: None }
}

/// The name that workers find the model by.
fn name(reference: &str, held: &Held) -> Result<String, Error> {
    let is_utf8 = |folder: &Path| folder.to_str().is_some();
    if held.reference() != BUNDLED && !is_utf8(held.folder()) {
        return Err(Error::mistake(format!("use model {reference}")).because("its path is not UTF-8"));
    }
    Ok(held.reference().to_owned())
}

fn broken(reference: &str, error: &sana::Error) -> Error {
    let hint = format!("name a folder in the diffusers layout with --model, or leave it out for {BUNDLED}");
    Error::mistake(format!("use model {reference}")).caused_by(error).hint(hint)
}

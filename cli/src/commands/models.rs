//! `sanafarm models`: the models on this machine.

use jiff::Timestamp;
use sanafarm_worker::models::{BUNDLED, Cancel, Checked, Listed, Models, State};
use serde_json::{Value, json};

use crate::args::{
    ModelsArgs, ModelsListArgs, ModelsPlaceArgs, ModelsPullArgs, ModelsRmArgs, ModelsVerb, ModelsVerifyArgs,
};
use crate::data_folder::DataFolder;
use crate::error::{Error, Exit};
use crate::models::{WatchedModels, model_error, options};
use crate::printer::{Printer, Table, amounts};
use crate::submission::blocking;

/// Letters of a version that tell it from others.
const SHORT: usize = 12;

/// Lists, downloads, checks or removes.
pub async fn run(args: ModelsArgs, printer: &Printer) -> Result<Exit, Error> {
    match args.verb {
        ModelsVerb::List(args) => list(args, printer).await,
        ModelsVerb::Pull(args) => pull(args, printer).await,
        ModelsVerb::Verify(args) => verify(args, printer).await,
        ModelsVerb::Rm(args) => remove(args, printer).await,
    }
}

fn models(place: &ModelsPlaceArgs) -> Models {
    Models::new(options(place.cache.clone(), &DataFolder::choose(place.data.clone())))
}

async fn list(args: ModelsListArgs, printer: &Printer) -> Result<Exit, Error> {
    let models = models(&args.place);
    let listed =
        blocking(move || models.list()).await?.map_err(|error| model_error("list models", &error))?;
    if args.place.json {
        listed.iter().try_for_each(|model| printer.data(model_json(model)))?;
        return Ok(Exit::Success);
    }
    let mut table = Table::on_stdout(&["model", "version", "state", "files", "bytes", "used"]);
    for model in &listed {
        table.row(vec![
            model.model.clone(),
            short(&model.version).to_owned(),
            words(model),
            amounts::count(model.files as u64),
            amounts::bytes(model.bytes as f64),
            used_at(model).map(|time| format!("{time:.0}")).unwrap_or_default(),
        ])?;
    }
    table.finish()?;
    Ok(Exit::Success)
}

async fn pull(args: ModelsPullArgs, printer: &Printer) -> Result<Exit, Error> {
    let wanted = args.model.clone();
    let data = DataFolder::choose(args.place.data.clone());
    let watched = WatchedModels::new(&options(args.place.cache.clone(), &data), printer);
    let pulled = blocking(move || {
        let wrong = |error| model_error(format!("pull {wanted}"), &error);
        let held = watched.models.resolve(&wanted, &Cancel::default()).map_err(wrong)?;
        // What was downloaded and is no model is told now and not by the first worker.
        let info = sana::inspect(held.folder()).map_err(|error| {
            Error::mistake(format!("use model {wanted}"))
                .caused_by(&error)
                .hint("see `sanafarm models verify`; if all files are as they should be, Sanafarm cannot use this model")
        })?;
        Ok((held, info))
    });
    let (held, info): (_, sana::ModelInfo) = pulled.await??;
    let folder = held.folder().display().to_string();
    if args.place.json {
        printer.data(json!({
            "model": held.reference(),
            "name": info.name,
            "folder": folder,
            "weights_sha256": info.weights_sha256,
            "weights_bytes": info.weights_bytes,
            "native_size": info.native_size,
        }))?;
    } else {
        printer.note(format!("{} is here", held.reference()));
        printer.data(folder)?;
    }
    Ok(Exit::Success)
}

async fn verify(args: ModelsVerifyArgs, printer: &Printer) -> Result<Exit, Error> {
    let models = models(&args.place);
    let what =
        args.model.as_ref().map_or_else(|| "verify models".to_owned(), |model| format!("verify {model}"));
    let checked = blocking(move || models.verify(args.model.as_deref(), &Cancel::default())).await?;
    let checked = checked.map_err(|error| model_error(&what, &error))?;
    if checked.is_empty() {
        printer.note("no model is downloaded");
        return match args.place.json {
            true => printer.data(json!({ "files": 0 })).map(|()| Exit::Success),
            false => Ok(Exit::Success),
        };
    }
    if args.place.json {
        checked.iter().try_for_each(|file| printer.data(checked_json(file)))?;
    } else {
        let mut table = Table::on_stdout(&["model", "version", "file", "state"]);
        for file in &checked {
            let good = if file.sha256.is_some() { "good" } else { "not downloaded yet" };
            let state = file.fault.clone().unwrap_or_else(|| good.to_owned());
            table.row(vec![file.model.clone(), short(&file.version).to_owned(), file.file.clone(), state])?;
        }
        table.finish()?;
    }
    let bad = checked.iter().filter(|file| file.fault.is_some()).count() as u64;
    if bad == 0 {
        let here = checked.iter().filter(|file| file.sha256.is_some()).count() as u64;
        let missing = match checked.len() as u64 - here {
            0 => String::new(),
            missing => format!(", {missing} not downloaded yet"),
        };
        let verb = if here == 1 { "is as it was" } else { "are as they were" };
        printer.note(format!("{} {verb} downloaded{missing}", amounts::counted(here, "file")));
        return Ok(Exit::Success);
    }
    Err(Error::failure(format!("{what}: {} of {} files are not as they should be", bad, checked.len()))
        .hint("they are fetched again at the next use, or now with `sanafarm models pull MODEL`"))
}

async fn remove(args: ModelsRmArgs, printer: &Printer) -> Result<Exit, Error> {
    let models = models(&args.place);
    let what = format!("remove {}", args.model);
    if args.model == BUNDLED {
        return Err(Error::mistake(what)
            .because("it is inside the program")
            .hint("see `sanafarm models list`"));
    }
    let removed = blocking(move || models.remove(&args.model)).await?;
    for model in removed.map_err(|error| model_error(what, &error))? {
        if args.place.json {
            printer.data(model_json(&model))?;
        } else {
            let (version, bytes) = (short(&model.version), amounts::bytes(model.bytes as f64));
            printer.note(format!("removed {} at {version}, {bytes}", model.model));
        }
    }
    Ok(Exit::Success)
}

fn short(version: &str) -> &str {
    version.get(..SHORT).unwrap_or(version)
}

fn words(model: &Listed) -> String {
    let in_use = if model.in_use { ", in use" } else { "" };
    format!("{}{in_use}", state(model.state))
}

fn state(state: State) -> &'static str {
    match state {
        State::Whole => "whole",
        State::Partial => "partial",
        State::Bundled => "bundled",
    }
}

fn used_at(model: &Listed) -> Option<Timestamp> {
    model.used_at.and_then(|time| Timestamp::try_from(time).ok())
}

fn model_json(model: &Listed) -> Value {
    json!({
        "model": model.model,
        "version": model.version,
        "state": state(model.state),
        "in_use": model.in_use,
        "files": model.files,
        "bytes": model.bytes,
        "used_at": used_at(model).map(|time| time.to_string()),
        "folder": model.folder.display().to_string(),
    })
}

fn checked_json(file: &Checked) -> Value {
    json!({
        "model": file.model,
        "version": file.version,
        "file": file.file,
        "sha256": file.sha256,
        "good": file.sha256.is_some() && file.fault.is_none(),
        "fault": file.fault,
    })
}

//! `sanafarm reproduce`: render a picture again from its own recipe, and compare.
//!
//! - `source`: the picture, from a file or an output; `difference`: how two pictures differ

mod difference;
mod source;

use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use sanafarm_worker::models::{Cancel, Held, Models};
use sanafarm_worker::picture::{self, Provenance};
use sanafarm_worker::reproduce::{self, Again, Stage};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::args::ReproduceArgs;
use crate::data_folder::DataFolder;
use crate::error::{Error, Exit};
use crate::models::{WatchedModels, model_error, options};
use crate::printer::Printer;
use crate::printer::amounts::duration;
use crate::progress::Counting;
use crate::submission::blocking;

use difference::{Difference, Verdict};
use source::Source;

/// Renders it, compares, and tells.
pub async fn run(args: ReproduceArgs, printer: &Printer) -> Result<Exit, Error> {
    if let Some(path) = args.output.as_deref().filter(|path| path.exists()) {
        return Err(taken(path));
    }
    let data = DataFolder::choose(args.place.data.clone());
    let source = Source::read(&args.picture, args.place.clone().into()).await?;
    let unreadable = |error: &picture::Unreadable| {
        Error::mistake(format!("read the recipe in {}", source.name)).caused_by(error)
    };
    let file = source.file.clone();
    let provenance = blocking(move || picture::read(&file)).await?.map_err(|error| unreadable(&error))?;
    let references = match &args.model {
        Some(model) => vec![model.clone()],
        None => source.model.iter().cloned().chain([provenance.model.clone()]).collect(),
    };
    let models = WatchedModels::new(&options(args.cache.clone(), &data), printer);
    let bar = Counting::start(provenance.steps.into(), "steps", printer);
    let started = Instant::now();
    let (wanted, device, file) = (provenance.clone(), args.device.clone(), source.file.clone());
    let (again, verdict, used) = blocking(move || {
        let model = find(&references, &models.models)?;
        let again = render(&wanted, &file, model.folder(), device.as_deref(), &bar)?;
        let compared = difference::compare(&file, &again.file);
        let verdict = compared.map_err(|error| Error::failure("compare the pictures").caused_by(&error))?;
        Ok::<_, Error>((again, verdict, model.reference().to_owned()))
    })
    .await??;
    let seconds = started.elapsed().as_secs_f64();
    if let Some(path) = args.output.clone() {
        let file = again.file.clone();
        blocking(move || keep(&path, &file)).await??;
    }
    let told = Told { source: &source, provenance: &provenance, again: &again, verdict: &verdict };
    match args.json {
        true => printer.data(told.json(seconds))?,
        false => {
            printer.data(verdict.text())?;
            printer.note(format!(
                "rendered on {} in {} with model {}",
                again.device,
                duration(seconds),
                used
            ));
            told.causes().iter().for_each(|cause| printer.note(cause));
        }
    }
    Ok(if verdict.is_within(args.tolerance) { Exit::Success } else { Exit::Failure })
}

/// The first model that is here or can be had.
fn find(references: &[String], models: &Models) -> Result<Held, Error> {
    let what = "find the model of the picture";
    let mut first = None;
    for reference in references {
        match models.resolve(reference, &Cancel::default()) {
            Ok(held) => return Ok(held),
            Err(error) => first = first.or_else(|| Some(model_error(what, &error))),
        }
    }
    let told = first.unwrap_or_else(|| Error::mistake(what));
    Err(told.hint("name its folder with --model"))
}

fn render(
    provenance: &Provenance,
    file: &[u8],
    model: &Path,
    device: Option<&str>,
    bar: &Counting,
) -> Result<Again, Error> {
    let format = picture::Format::of(file).ok_or_else(|| Error::mistake("this is no picture file"))?;
    let mut on_stage = |stage| {
        match stage {
            Stage::Load => bar.say("loading the model"),
            Stage::Text => bar.say("text"),
            Stage::Denoise(done) => {
                bar.say("denoise");
                bar.at(done.into());
            }
            Stage::Decode => bar.say("decode"),
        }
        ControlFlow::Continue(())
    };
    let again = reproduce::reproduce(provenance, format, model, device, &mut on_stage);
    again.map_err(|error| {
        let what = "render the picture again";
        match &error {
            reproduce::Error::OtherWeights { .. } => Error::mistake(what)
                .caused_by(&error)
                .hint("name the folder of the model that made it with --model"),
            reproduce::Error::Device(..) | reproduce::Error::Recipe(_) => {
                Error::mistake(what).caused_by(&error)
            }
            reproduce::Error::Render(_) | reproduce::Error::Encode(_) => {
                Error::failure(what).caused_by(&error)
            }
        }
    })
}

fn keep(path: &Path, file: &[u8]) -> Result<(), Error> {
    let failed = |error: &std::io::Error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => taken(path),
        _ => Error::mistake(format!("write {}", path.display())).caused_by(error),
    };
    let mut target = std::fs::File::create_new(path).map_err(|error| failed(&error))?;
    target.write_all(file).map_err(|error| failed(&error))
}

fn taken(path: &Path) -> Error {
    Error::mistake(format!("{} is there already", path.display())).hint("name another file with --output")
}

/// What is told of it.
struct Told<'a> {
    source: &'a Source,
    provenance: &'a Provenance,
    again: &'a Again,
    verdict: &'a Verdict,
}

impl Told<'_> {
    /// Why the pictures may differ, the likeliest cause first.
    fn causes(&self) -> Vec<String> {
        let mut causes = Vec::new();
        let Self { source, provenance, again, verdict } = self;
        if let Some(recorded) = source.sha256.as_ref().filter(|recorded| **recorded != sha256(&source.file)) {
            causes.push(format!(
                "{} is damaged: its sha256 is not {recorded}, which the history has",
                source.name
            ));
        }
        match verdict {
            Verdict::Identical => return Vec::new(),
            Verdict::SamePixels => causes.push(
                "the same pixels in another file: another version of the encoder wrote it, or what stands beside its \
                 pixels was changed since"
                    .to_owned(),
            ),
            Verdict::Differs(_) => {}
        }
        let (then, now) = (provenance, &again.provenance);
        if then.dtype != now.dtype {
            causes.push(format!(
                "it was computed in {} and now in {}, which rounds differently",
                then.dtype, now.dtype
            ));
        }
        if let Some(device) = source.device.as_ref().filter(|device| kind(device) != kind(&again.device)) {
            causes.push(format!(
                "it was rendered on {device} and now on {}: devices of different kinds round differently",
                again.device
            ));
        }
        if (then.compute_width, then.compute_height) != (now.compute_width, now.compute_height) {
            causes.push(format!(
                "it was rendered at {}x{} and now at {}x{}",
                then.compute_width, then.compute_height, now.compute_width, now.compute_height
            ));
        }
        if then.version != env!("CARGO_PKG_VERSION") {
            causes.push(format!(
                "it was made by {} {}, this is {}",
                then.program,
                then.version,
                env!("CARGO_PKG_VERSION")
            ));
        }
        if causes.is_empty() {
            causes.push(
                "it was changed since it was rendered, or was rendered on another kind of device".to_owned(),
            );
        }
        causes
    }

    fn json(&self, seconds: f64) -> Value {
        let Self { source, provenance, again, verdict } = self;
        let difference = match verdict {
            Verdict::Identical | Verdict::SamePixels => Difference::default(),
            Verdict::Differs(difference) => difference.clone(),
        };
        json!({
            "picture": source.name,
            "verdict": verdict.word(),
            "identical": matches!(verdict, Verdict::Identical),
            "max_difference": difference.max,
            "mean_difference": difference.mean,
            "psnr_db": difference.psnr(),
            "different_pixels": difference.share,
            "sha256": sha256(&source.file),
            "new_sha256": sha256(&again.file),
            "model": provenance.model,
            "weights_sha256": provenance.weights_sha256,
            "device": again.device,
            "dtype": again.provenance.dtype,
            "seconds": (seconds * 1000.0).round() / 1000.0,
            "causes": self.causes(),
        })
    }
}

/// `cuda` of `cuda:0`.
fn kind(device: &str) -> &str {
    device.split_once(':').map_or(device, |(kind, _)| kind)
}

fn sha256(file: &[u8]) -> String {
    hex::encode(Sha256::digest(file))
}

//! What a job renders with, and the token that makes the same command the same job.

use std::collections::BTreeSet;
use std::path::Path;

use prost::Message;
use sanafarm_proto::v1::{BinMode, DecodeMode, Form, ImageFormat, JobSpec, Layout, Settings};
use sha2::{Digest, Sha256};

use super::Model;
use super::selection::{SIDE_UNIT, WantedSize};
use crate::args::{Size, SubmissionArgs};
use crate::error::Error;

/// Folder of all outputs that have no name of their own.
const RENDERS: &str = "renders";
/// A picture with this many times more or fewer pixels than the model was trained for is warned of.
const FAR_AREA: f64 = 4.0;
/// A picture this many times longer than wide, or wider than long, is warned of.
const FAR_ASPECT: f64 = 4.0;
/// Sizes that are warned of one by one.
const MAX_WARNINGS: usize = 3;

/// The settings of rows that say nothing else.
pub fn settings(args: &SubmissionArgs, model: &Model) -> Result<Settings, Error> {
    let untold = |what, hint| {
        let what = format!("no model {} here to tell its {what}", model.reference);
        Error::mistake(what).hint(hint)
    };
    let size = match (&args.size, &model.outline) {
        (Some(size), _) => *size,
        (None, Some(info)) => Size { width: info.native_size, height: info.native_size },
        (None, None) => return Err(untold("native size", "give a size, such as --size 1024x1024")),
    };
    let steps = match (args.steps, &model.outline) {
        (Some(steps), _) => steps,
        (None, Some(info)) => info.family.steps(),
        (None, None) => {
            return Err(untold("steps", "give them: --steps 20, or with a Sprint model --steps 2"));
        }
    };
    Ok(Settings {
        width: size.width,
        height: size.height,
        steps,
        guidance: args.guidance,
        bin: BinMode::from(args.bin).into(),
        decode: DecodeMode::from(args.decode).into(),
    })
}

/// The spec as far as the command line says it. It has no token yet, and the folder of all renders where no output was
/// given: the default output follows from the token.
pub fn spec(args: &SubmissionArgs, stem: &str, settings: Settings, model: &Model) -> Result<JobSpec, Error> {
    Ok(JobSpec {
        client_token: String::new(),
        name: args.name.clone().unwrap_or_else(|| stem.to_owned()),
        owner: String::new(),
        model: model.reference.clone(),
        output: absolute(args.output.as_deref().unwrap_or(RENDERS))?,
        settings: Some(settings),
        negative_prompt: args.negative_prompt.clone(),
        seed: args.seed,
        images_per_prompt: args.images_per_prompt,
        name_template: args.name_template.clone(),
        priority: 0,
        needs: None,
        form: Some(form(args)),
        append: args.append,
        ..JobSpec::default()
    })
}

/// What is written for each image.
fn form(args: &SubmissionArgs) -> Form {
    Form {
        format: ImageFormat::from(args.format).into(),
        quality: args.quality.unwrap_or(0),
        layout: Layout::from(args.layout).into(),
        thumbnails: args.thumbnails,
    }
}

/// Gives a spec its token, which covers the content of the rows and all that a picture depends on, and what follows
/// from it.
pub fn sign(spec: &mut JobSpec, args: &SubmissionArgs, content_sha256: &str, model: &Model) {
    let weights = model.weights_sha256.as_deref().unwrap_or_default();
    spec.client_token = token(spec, content_sha256, weights);
    // Whoever runs the command again goes on with the same job.
    spec.owner = crate::environment::filled("USER").unwrap_or_default();
    if args.output.is_none() {
        let folder = format!("{}-{}", spec.name, &spec.client_token[..8]);
        spec.output = Path::new(&spec.output).join(folder).to_string_lossy().into_owned();
    }
}

fn token(spec: &JobSpec, content_sha256: &str, weights_sha256: &str) -> String {
    let mut sha256 = Sha256::new();
    sha256.update(spec.encode_length_delimited_to_vec());
    sha256.update(content_sha256);
    sha256.update("/");
    sha256.update(weights_sha256);
    hex::encode(sha256.finalize())
}

/// Workers may run in another folder than this command. URLs stay as they are.
fn absolute(output: &str) -> Result<String, Error> {
    if output.contains("://") {
        return Ok(output.to_owned());
    }
    let hint = "name a folder for the pictures with --output";
    let path = std::path::absolute(output).map_err(|error| {
        Error::mistake(format!("find output folder `{output}`")).caused_by(&error).hint(hint)
    })?;
    match path.to_str() {
        Some(path) => Ok(path.to_owned()),
        None => Err(Error::mistake(format!("output folder {} is not UTF-8", path.display())).hint(hint)),
    }
}

/// What the command line asks for in vain.
pub fn vain_warnings(args: &SubmissionArgs, model: &Model) -> Vec<String> {
    let Some(info) = &model.outline else { return Vec::new() };
    if args.negative_prompt.is_empty() || info.family.takes_negative_prompt() {
        return Vec::new();
    }
    vec![format!("{} is a Sprint model and takes no negative prompt; it is left out of account", info.name)]
}

/// Sizes that are rendered as asked but are far from what the model was trained for.
pub fn size_warnings(sizes: &BTreeSet<WantedSize>, settings: &Settings, model: &Model) -> Vec<String> {
    let Some(info) = &model.outline else { return Vec::new() };
    let as_asked = |&(width, height): &(u32, u32)| {
        width.is_multiple_of(SIDE_UNIT)
            && height.is_multiple_of(SIDE_UNIT)
            && settings.bin() != BinMode::Always
    };
    let whole = |size: &WantedSize| (size.0.unwrap_or(settings.width), size.1.unwrap_or(settings.height));
    let sizes: BTreeSet<(u32, u32)> = sizes.iter().map(whole).collect();
    let far: Vec<_> =
        sizes.into_iter().filter(as_asked).filter(|size| is_far(*size, info.native_size)).collect();
    let mut warnings: Vec<String> = far
        .iter()
        .take(MAX_WARNINGS)
        .map(|(width, height)| {
            format!(
                "{width}x{height} is far from the {native}x{native} that {name} was trained for; pictures may \
                 repeat or fall apart (--bin always renders at a trained size and resizes)",
                native = info.native_size,
                name = info.name,
            )
        })
        .collect();
    if far.len() > MAX_WARNINGS {
        warnings.push(format!("{} more sizes are far from it", far.len() - MAX_WARNINGS));
    }
    warnings
}

fn is_far((width, height): (u32, u32), native: u32) -> bool {
    let (width, height, native) = (f64::from(width), f64::from(height), f64::from(native));
    let area = width * height / (native * native);
    let aspect = width / height;
    !(1.0 / FAR_AREA..=FAR_AREA).contains(&area) || !(1.0 / FAR_ASPECT..=FAR_ASPECT).contains(&aspect)
}

#[cfg(test)]
mod tests {
    use sana::Family;

    use super::*;

    fn args(line: &[&str]) -> SubmissionArgs {
        let line = ["sanafarm", "render", "list.txt"].iter().chain(line);
        let cli = <crate::args::Cli as clap::Parser>::try_parse_from(line).unwrap();
        match cli.command {
            crate::args::Command::Render(args) => args.submission,
            other => panic!("expected render, found {other:?}"),
        }
    }

    fn model(weights: &str) -> Model {
        let outline = sana::Outline { name: "sana-tiny".to_owned(), native_size: 512, family: Family::Sana };
        Model {
            reference: "sana-tiny".to_owned(),
            outline: Some(outline),
            weights_sha256: Some(weights.to_owned()),
        }
    }

    #[test]
    fn steps_are_those_of_the_family_unless_given() {
        let mut sprint = model("w");
        sprint.outline.as_mut().unwrap().family = Family::Sprint;
        let elsewhere = Model { outline: None, ..model("w") };
        let steps = |line: &[&str], model: &Model| Ok(settings(&args(line), model)?.steps);
        assert_eq!(steps(&[], &model("w")).map_err(|_: Error| ()), Ok(20));
        assert_eq!(steps(&[], &sprint).map_err(|_: Error| ()), Ok(2));
        assert_eq!(steps(&["--steps", "4"], &sprint).map_err(|_: Error| ()), Ok(4));
        assert!(steps(&["--size", "64x64"], &elsewhere).is_err());
        assert!(steps(&["--size", "64x64", "--steps", "4"], &elsewhere).is_ok());
        assert_eq!(settings(&args(&[]), &sprint).unwrap().guidance, 4.5);

        let negative = args(&["--negative-prompt", "blur"]);
        assert_eq!(vain_warnings(&negative, &sprint).len(), 1);
        assert_eq!(vain_warnings(&args(&[]), &sprint).len() + vain_warnings(&negative, &model("w")).len(), 0);
    }

    fn job(line: &[&str], content: &str, weights: &str) -> JobSpec {
        let (args, model) = (args(line), model(weights));
        let settings = settings(&args, &model).unwrap();
        let mut spec = spec(&args, "list", settings, &model).unwrap();
        sign(&mut spec, &args, content, &model);
        spec
    }

    #[test]
    fn the_same_command_is_the_same_job_and_any_change_is_another() {
        let first = job(&[], "c", "w");
        assert_eq!(first, job(&[], "c", "w"));
        let others = [
            job(&["--steps", "2"], "c", "w"),
            job(&["--seed", "2"], "c", "w"),
            job(&["--name", "b"], "c", "w"),
            job(&["--output", "b"], "c", "w"),
            job(&["--size", "256x512"], "c", "w"),
            job(&["--negative-prompt", "b"], "c", "w"),
            job(&["--decode", "whole"], "c", "w"),
            job(&["--format", "jpeg"], "c", "w"),
            job(&["--format", "jpeg", "--quality", "80"], "c", "w"),
            job(&["--layout", "webdataset"], "c", "w"),
            job(&["--thumbnails"], "c", "w"),
            job(&["--name-template", "{index}"], "c", "w"),
            job(&[], "d", "w"),
            job(&[], "c", "x"),
        ];
        let tokens: BTreeSet<_> = others.iter().chain([&first]).map(|spec| &spec.client_token).collect();
        assert_eq!(tokens.len(), others.len() + 1);
    }

    #[test]
    fn the_default_output_is_named_by_list_and_token() {
        let spec = job(&[], "c", "w");
        let wanted = format!("renders/list-{}", &spec.client_token[..8]);
        assert!(Path::new(&spec.output).is_absolute() && spec.output.ends_with(&wanted), "{}", spec.output);
        assert_eq!(job(&["--output", "/o"], "c", "w").output, "/o");
        assert_eq!(job(&["--output", "s3://b/o"], "c", "w").output, "s3://b/o");
    }

    #[test]
    fn sizes_far_from_native_are_warned_of_when_rendered_as_asked() {
        let sizes = [(512, 512), (1024, 1024), (1056, 1024), (4000, 4001), (1024, 224)];
        let sizes = sizes.map(|(width, height)| (Some(width), Some(height)));
        let sizes = BTreeSet::from_iter(sizes.into_iter().chain([(None, None), (Some(2080), None)]));
        let warned = |line: &[&str]| {
            let settings = settings(&args(line), &model("w")).unwrap();
            let warnings = size_warnings(&sizes, &settings, &model("w"));
            warnings.iter().map(|text| text.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(warned(&[]), ["1024x224", "1056x1024", "2080x512"]);
        assert_eq!(warned(&["--bin", "always"]), [""; 0]);
    }
}

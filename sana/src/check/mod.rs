//! Comparison with fixtures that the reference library wrote: what `sana-check` runs.
//!
//! A fixture is a folder with `config.json` (configuration, call, tolerances), `io.safetensors` (`in.*`, `mid.*`,
//! `out.*`) and what else its kind needs. The kind follows from the content, not from the name.

use std::path::{Path, PathBuf};

use crate::{Error, Placement};
use case::Case;
pub use report::{Report, Row, Slack, State};

mod bins;
mod case;
mod dcae;
mod dit;
mod pipeline;
mod prompts;
mod randn;
mod report;
mod resize;
mod sched;
mod text;

/// What a fixture checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Starting noise.
    Randn,
    /// Schedulers.
    Sched,
    /// Sizes that are rendered for wanted sizes.
    Bins,
    /// Resize, crop and 8 bit.
    Resize,
    /// Tokens of prompts.
    Prompts,
    /// Text encoder.
    Text,
    /// Transformer.
    Dit,
    /// Autoencoder, decoding or encoding.
    Dcae,
    /// From prompt to picture.
    Pipeline,
    Unknown,
}

/// Checks one fixture folder. What goes wrong on the way is in the report.
pub fn run(dir: &Path) -> Report {
    run_on(dir, &Placement::cpu())
}

/// The same with models on a device, where other orders of sums and a coarser type need more room: besides the fixture's
/// tolerance, [`Slack`] of the largest value of each tensor.
pub fn run_on(dir: &Path, placement: &Placement) -> Report {
    let mut report = Report::new(case::name(dir), Slack::of(placement));
    let outcome = Case::open(dir, placement).and_then(|case| check(&case, &mut report));
    report.state = outcome.unwrap_or_else(State::Failed);
    report
}

fn check(case: &Case, report: &mut Report) -> Result<State, Error> {
    match kind(case) {
        Kind::Randn => randn::check(case, report)?,
        Kind::Sched => sched::check(case, report)?,
        Kind::Bins => bins::check(case, report)?,
        Kind::Resize => resize::check(case, report)?,
        Kind::Prompts => prompts::check(case, report)?,
        Kind::Text => text::check(case, report)?,
        Kind::Dit => dit::check(case, report)?,
        Kind::Dcae => dcae::check(case, report)?,
        Kind::Pipeline => pipeline::check(case, report)?,
        Kind::Unknown => return Ok(State::Unknown),
    }
    Ok(State::Checked)
}

fn kind(case: &Case) -> Kind {
    let config = |key: &str| case.config.get(key);
    if config("pipeline").is_some() {
        return Kind::Pipeline;
    }
    if config("transformer").is_some() {
        return Kind::Dit;
    }
    if config("vae").is_some() {
        return Kind::Dcae;
    }
    [
        ("scheduler", Kind::Sched),
        ("text_encoder", Kind::Text),
        ("prompts", Kind::Prompts),
        ("resizes", Kind::Resize),
        ("columns", Kind::Bins),
        ("chains", Kind::Randn),
    ]
    .into_iter()
    .find(|(key, _)| config(key).is_some())
    .map_or(Kind::Unknown, |(_, kind)| kind)
}

/// The fixture folders that `dir` means: itself, or the folders in it, sorted by name.
pub fn fixtures(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    if dir.join("config.json").is_file() {
        return Ok(vec![dir.to_path_buf()]);
    }
    let failed = |e: std::io::Error| Error::Setting(format!("list fixtures in {}: {e}", dir.display()));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            found.push(path);
        }
    }
    if found.is_empty() {
        return Err(Error::Setting(format!(
            "{} holds neither config.json nor fixture folders",
            dir.display()
        )));
    }
    found.sort();
    Ok(found)
}

//! What the environment and a file say about the settings of one verb.

use std::collections::BTreeMap;

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgMatches, Command};

use super::file::{File, Given};
use super::keys::{Setting, Source};
use super::secret::shown;
use crate::environment;
use crate::error::Error;

/// What stands below the command line, by the argument that it is for.
pub type Lower = BTreeMap<String, Given>;

/// Reads what the command line leaves open, and checks it as the command line is checked.
pub fn lower(
    settings: &[Setting],
    file: &File,
    command: &Command,
    line: &[&ArgMatches],
) -> Result<Lower, Error> {
    let mut found = Lower::new();
    for setting in settings {
        let given = match environment::filled(&setting.variable) {
            Some(value) => Some(from_environment(setting, value)),
            None => file.get(setting).cloned(),
        };
        let Some(given) = given else { continue };
        let given = check(setting, given)?;
        if !on_line(line, setting.arg.get_id().as_str()) {
            found.insert(setting.arg.get_id().to_string(), given);
        }
    }
    give_way(&mut found, command, line);
    Ok(found)
}

/// Whether an argument stands on the command line.
pub fn on_line(line: &[&ArgMatches], id: &str) -> bool {
    line.iter().any(|matches| {
        matches.ids().any(|known| known == id)
            && matches.value_source(id) == Some(clap::parser::ValueSource::CommandLine)
    })
}

fn from_environment(setting: &Setting, value: String) -> Given {
    let values = match setting.is_list() {
        true => value.split(',').map(|part| part.trim().to_owned()).collect(),
        false => vec![value],
    };
    Given { values, source: Source::Environment(setting.variable.clone()) }
}

/// Of two settings that exclude each other, the one from the weaker source is not there. From one source they may both
/// be there: a shared file, and each verb knows which it prefers.
fn give_way(found: &mut Lower, command: &Command, line: &[&ArgMatches]) {
    let strength = |id: &str| match found.get(id) {
        _ if on_line(line, id) => Source::Flag,
        Some(given) => given.source.clone(),
        None => Source::Default,
    };
    let mut weaker = Vec::new();
    for arg in command.get_arguments().filter(|arg| !arg.is_global_set()) {
        for other in command.get_arg_conflicts_with(arg) {
            let (one, two) = (arg.get_id().as_str(), other.get_id().as_str());
            if strength(one).is_stronger_than(&strength(two)) {
                weaker.push(two.to_owned());
            } else if strength(two).is_stronger_than(&strength(one)) {
                weaker.push(one.to_owned());
            }
        }
    }
    // The data folder also says where models are, and is asked for jobs only where nothing else is named.
    weaker.retain(|id| id != "data");
    found.retain(|id, _| !weaker.contains(id));
}

/// Has clap read values as it reads those of the command line.
fn check(setting: &Setting, given: Given) -> Result<Given, Error> {
    let told: Vec<_> = given.values.iter().map(|value| shown(setting, value)).collect();
    let what = match &given.source {
        Source::File { file, line } => format!("{file}:{line}: `{}` in [{}]", setting.key, setting.section),
        Source::Environment(name) => name.clone(),
        Source::Default | Source::Flag => setting.key.clone(),
    };
    let wrong = |why: String| Error::mistake(format!("{what} is `{}`", told.join(", "))).because(why);
    if setting.is_switch() {
        let truth = given.values.first().and_then(|word| truth(word));
        let truth = truth.ok_or_else(|| wrong("expected true or false".to_owned()))?;
        return Ok(Given { values: vec![truth.to_string()], ..given });
    }
    let mut probe = Arg::new("value")
        .long("value")
        .action(setting.arg.get_action().clone())
        .value_parser(setting.arg.get_value_parser().clone())
        .default_values(given.values.clone());
    if let Some(delimiter) = setting.arg.get_value_delimiter() {
        probe = probe.value_delimiter(delimiter);
    }
    match Command::new("check").no_binary_name(true).arg(probe).try_get_matches_from(Vec::<String>::new()) {
        Ok(_) => Ok(given),
        // What a secret should look like must not show what it is.
        Err(_) if setting.is_secret() => Err(wrong("it is not as it should be".to_owned())),
        Err(error) => Err(wrong(reason(&error))),
    }
}

fn reason(error: &clap::Error) -> String {
    if let Some(source) = std::error::Error::source(error) {
        if source.is::<std::num::ParseIntError>() {
            return "expected a whole number".to_owned();
        }
        return source.to_string();
    }
    match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(words)) if !words.is_empty() => format!("there are {}", words.join(", ")),
        _ => error.kind().as_str().unwrap_or("it cannot be read").to_owned(),
    }
}

/// Words of the environment that are on or off.
fn truth(word: &str) -> Option<bool> {
    match word.to_ascii_lowercase().as_str() {
        "true" | "t" | "yes" | "y" | "on" | "1" => Some(true),
        "false" | "f" | "no" | "n" | "off" | "0" => Some(false),
        _ => None,
    }
}

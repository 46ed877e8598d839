//! `--print-config`: what holds for a verb, as a file that can be used again.

use std::fmt::Write;

use clap::ArgMatches;

use super::help;
use super::keys::{SECTIONS, Setting, Source};
use super::layers::{Lower, on_line};
use super::secret::{is_redacted, shown};

/// The settings of a verb, each with where it comes from. Secrets are not shown.
pub fn effective(settings: &[Setting], lower: &Lower, line: &[&ArgMatches]) -> String {
    let mut text = String::new();
    for section in SECTIONS {
        let mut settings = settings.iter().filter(|setting| setting.section == section).peekable();
        if settings.peek().is_none() {
            continue;
        }
        let gap = if text.is_empty() { "" } else { "\n" };
        let _ = writeln!(text, "{gap}[{section}]");
        for setting in settings {
            let _ = writeln!(text, "{}", entry(setting, lower, line));
        }
    }
    text.truncate(text.trim_end().len());
    text
}

fn entry(setting: &Setting, lower: &Lower, line: &[&ArgMatches]) -> String {
    let id = setting.arg.get_id().as_str();
    let raw = line.iter().filter(|matches| matches.ids().any(|known| known == id));
    let raw = raw.filter_map(|matches| matches.get_raw(id)).next();
    let values: Vec<_> =
        raw.into_iter().flatten().map(|value| shown(setting, &value.to_string_lossy())).collect();
    let source = match lower.get(id) {
        _ if on_line(line, id) => &Source::Flag,
        Some(given) => &given.source,
        None => &Source::Default,
    };
    let from = match source {
        Source::Flag => "flag".to_owned(),
        Source::Environment(name) => format!("environment: {name}"),
        Source::File { file, line } => format!("file: {file}:{line}"),
        Source::Default => "default".to_owned(),
    };
    let key = &setting.key;
    if values.is_empty() {
        return match help::parts(&setting.arg).1 {
            Some(default) => format!("# {key} is not set: {default}"),
            None => format!("# {key} is not set"),
        };
    }
    let redacted = values.iter().any(|value| is_redacted(value));
    let values: Vec<_> = values.iter().map(|value| literal(setting, value)).collect();
    let value = if setting.is_list() { format!("[{}]", values.join(", ")) } else { values.join("") };
    // Who uses the output as a file is reminded to fill it in.
    let from = if redacted { format!("{from}; its secret is not shown") } else { from };
    format!("{key} = {value} # {from}")
}

/// A value as TOML has it.
pub fn literal(setting: &Setting, value: &str) -> String {
    let whole = value.parse::<i64>().is_ok_and(|number| number.to_string() == value);
    let broken =
        value.parse::<f64>().is_ok_and(|number| number.is_finite() && format!("{number:?}") == value);
    if setting.is_switch() || ((whole || broken) && !setting.is_list()) {
        return value.to_owned();
    }
    toml::Value::from(value).to_string()
}

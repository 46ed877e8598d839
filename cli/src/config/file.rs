//! Reading a configuration file: its sections, and what stands where.

use std::path::Path;

use clap::Command;
use toml::de::{DeTable, DeValue};

use super::keys::{SECTIONS, Setting, Source, of_section};
use super::secret;
use crate::error::Error;

/// What a file says.
#[derive(Debug, Default)]
pub struct File {
    entries: Vec<Entry>,
}

/// A key of a section.
#[derive(Debug)]
struct Entry {
    section: String,
    key: String,
    given: Given,
}

/// Values and where they come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// As they would stand on the command line.
    pub values: Vec<String>,
    /// For people, and for who wins.
    pub source: Source,
}

impl File {
    /// Reads a file. What nobody knows is an error that names the nearest thing that somebody knows.
    pub fn read(path: &Path, program: &Command) -> Result<Self, Error> {
        let failed = |error: &(dyn std::error::Error + 'static)| {
            Error::mistake(format!("read configuration {}", path.display())).caused_by(error)
        };
        let text = std::fs::read_to_string(path)
            .map_err(|error| failed(&error).hint("name a TOML file with --config or SANAFARM_CONFIG"))?;
        let reader = Reader { path, text: &text, program };
        let table = DeTable::parse(&text).map_err(|error| {
            // The error itself would show the line, in which a secret may stand.
            let line = error.span().map_or(1, |span| reader.line(span.start));
            Error::mistake(format!("{}:{line}: this is not TOML", path.display())).because(error.message())
        })?;
        let mut entries = Vec::new();
        for (name, value) in table.get_ref() {
            let line = reader.line(name.span().start);
            let DeValue::Table(keys) = value.get_ref() else {
                return Err(reader.outside(line, name.get_ref()));
            };
            entries.extend(reader.section(line, name.get_ref(), keys)?);
        }
        Ok(Self { entries })
    }

    /// What it says about a setting.
    pub fn get(&self, setting: &Setting) -> Option<&Given> {
        let wanted = |entry: &&Entry| entry.section == setting.section && entry.key == setting.key;
        self.entries.iter().find(wanted).map(|entry| &entry.given)
    }
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    program: &'a Command,
}

impl Reader<'_> {
    fn line(&self, at: usize) -> usize {
        1 + self.text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count()
    }

    fn wrong(&self, line: usize, what: impl std::fmt::Display) -> Error {
        Error::mistake(format!("{}:{line}: {what}", self.path.display()))
    }

    fn section(&self, line: usize, name: &str, keys: &DeTable<'_>) -> Result<Vec<Entry>, Error> {
        if !SECTIONS.contains(&name) {
            let hint = match nearest(name, SECTIONS.into_iter()) {
                Some(known) => format!("did you mean [{known}]?"),
                None => format!("there are [{}]", SECTIONS.join("], [")),
            };
            return Err(self.wrong(line, format!("there is no section [{name}]")).hint(hint));
        }
        let settings = of_section(self.program, name);
        let mut entries = Vec::new();
        for (key, value) in keys {
            let line = self.line(key.span().start);
            let key: &str = key.get_ref();
            let Some(setting) = settings.iter().find(|setting| setting.key == key) else {
                return Err(self.unknown(line, name, key, &settings));
            };
            let values = self.values(line, setting, value.get_ref())?;
            let source = Source::line(self.path, line);
            // Nothing is as good as not given, as in the environment.
            if !values.iter().all(String::is_empty) {
                entries.push(Entry {
                    section: name.to_owned(),
                    key: key.to_owned(),
                    given: Given { values, source },
                });
            }
        }
        Ok(entries)
    }

    fn unknown(&self, line: usize, section: &str, key: &str, settings: &[Setting]) -> Error {
        let error = self.wrong(line, format!("there is no key `{key}` in [{section}]"));
        let elsewhere = sections_with(self.program, key);
        match nearest(key, settings.iter().map(|setting| setting.key.as_str())) {
            _ if !elsewhere.is_empty() => error.hint(format!("it belongs in {elsewhere}")),
            Some(known) => error.hint(format!("did you mean `{known}`?")),
            None => error.hint("docs/configuration.md lists all keys, and --print-config those of a verb"),
        }
    }

    fn outside(&self, line: usize, key: &str) -> Error {
        let hint = match sections_with(self.program, key) {
            sections if sections.is_empty() => {
                "every key stands in a section: docs/configuration.md lists them".to_owned()
            }
            sections => format!("put it in {sections}"),
        };
        self.wrong(line, format!("`{key}` stands in no section")).hint(hint)
    }

    fn values(&self, line: usize, setting: &Setting, value: &DeValue<'_>) -> Result<Vec<String>, Error> {
        let wrong =
            |what: &str| self.wrong(line, format!("`{}` in [{}] {what}", setting.key, setting.section));
        let values = match value {
            DeValue::Array(_) if !setting.is_list() => return Err(wrong("takes one value, not a list")),
            DeValue::Array(values) => {
                let values: Option<Vec<_>> = values.iter().map(|value| scalar(value.get_ref())).collect();
                values.ok_or_else(|| wrong("takes a list of plain values"))?
            }
            DeValue::Boolean(_) => vec![scalar(value).unwrap_or_default()],
            _ if setting.is_switch() => return Err(wrong("is true or false")),
            other => vec![scalar(other).ok_or_else(|| wrong("takes a value, not a table"))?],
        };
        if values.iter().any(|value| secret::is_redacted(value)) {
            return Err(wrong("was redacted")
                .hint("write the secret there, or leave the key out and use the environment"));
        }
        Ok(values)
    }
}

/// The text that would stand on the command line.
fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.clone().into_owned()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().to_owned()),
        DeValue::Integer(number) => {
            i128::from_str_radix(number.as_str(), number.radix()).ok().map(|number| number.to_string())
        }
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Boolean(truth) => Some(truth.to_string()),
        DeValue::Datetime(time) => Some(time.to_string()),
        DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

/// The sections that know a key, as they are written.
fn sections_with(program: &Command, key: &str) -> String {
    let knows = |name: &str| of_section(program, name).iter().any(|setting| setting.key == key);
    let found = SECTIONS.into_iter().filter(|section| knows(section));
    let found: Vec<_> = found.map(|section| format!("[{section}]")).collect();
    found.join(" or ")
}

/// The name that was probably meant.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // The measure and its bound are those of clap, which names options that are nearly right.
    let near = known.map(|known| (strsim::jaro(name, known), known)).filter(|(likeness, _)| *likeness > 0.7);
    near.max_by(|(one, _), (other, _)| one.total_cmp(other)).map(|(_, known)| known)
}

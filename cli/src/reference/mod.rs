//! `docs/cli.md`, `docs/configuration.md` and `examples/sanafarm.toml` are written from the definitions of the command
//! line. The tests compare them; `UPDATE_DOCS=1` has them written.

mod cli;
mod configuration;

use std::path::PathBuf;

use clap::Arg;

use crate::config::help;

/// Compares a file of the repository with what it should be, or writes it.
fn holds(path: &str, wanted: &str) {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    if std::env::var_os("UPDATE_DOCS").is_some_and(|value| !value.is_empty()) {
        std::fs::write(&file, wanted).unwrap();
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    let differs = found.lines().zip(wanted.lines()).position(|(found, wanted)| found != wanted);
    assert!(
        found == wanted,
        "{path} is not what the command line says, from line {}: write it again with\n    \
         UPDATE_DOCS=1 cargo nextest run --workspace -E 'test(/^reference::/)'",
        differs.unwrap_or(found.lines().count().min(wanted.lines().count())) + 1
    );
}

/// For a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}

/// The same, in the letters of code.
fn code(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("`{}`", text.replace('|', "\\|")) }
}

/// What an option is, with the words that it takes.
fn meaning(arg: &Arg) -> String {
    let words: Vec<_> = words(arg)
        .map(|(word, help)| match help {
            Some(help) => format!("{} ({})", code(&word), cell(&help)),
            None => code(&word),
        })
        .collect();
    let help = cell(&help::parts(arg).0);
    if words.is_empty() { help } else { format!("{help}: {}", words.join(", ")) }
}

fn words(arg: &Arg) -> impl Iterator<Item = (String, Option<String>)> {
    let takes_value = arg.get_action().takes_values();
    let words = arg.get_possible_values().into_iter().filter(move |word| takes_value && !word.is_hide_set());
    words.map(|word| (word.get_name().to_owned(), word.get_help().map(ToString::to_string)))
}

/// What holds without the option.
fn default(arg: &Arg) -> String {
    let known: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    match help::parts(arg).1 {
        Some(told) => cell(&told),
        None if arg.get_action().takes_values() => code(&known.join(", ")),
        None => String::new(),
    }
}

//! The help of an option, taken apart: what it is, and the default that clap does not know.

use clap::Arg;

/// What an option is, without the notes in brackets at the end of its help, and what holds when it is not given, as far as
/// the help tells.
pub fn parts(arg: &Arg) -> (String, Option<String>) {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let (mut text, mut default) = (help.trim().replace('\n', " "), None);
    while let Some((before, note)) = text.rsplit_once(" [") {
        let Some(note) = note.strip_suffix(']') else { break };
        match note.split_once(": ").or_else(|| note.split_once(':')) {
            Some(("default", told)) => default = Some(told.to_owned()),
            Some(("env", _)) => {}
            Some(_) | None => break,
        }
        text = before.to_owned();
    }
    (text, default)
}

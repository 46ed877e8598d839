//! `docs/cli.md`.

use clap::{Arg, Command};

use super::{cell, code, default, holds, meaning};
use crate::config;
use crate::config::keys::of_verb;

#[test]
fn the_reference_of_the_command_line_is_true() {
    let mut program = config::program().disable_help_subcommand(true);
    program.build();
    let mut text = String::from(
        "# Command line\n\n\
         <!-- Written by the test `reference::`; UPDATE_DOCS=1 cargo nextest run --workspace -E 'test(/^reference::/)' -->\n\n",
    );
    text.push_str(&format!("{}\n\n", program.get_about().map(ToString::to_string).unwrap_or_default()));
    text.push_str("| verb | what it does |\n| --- | --- |\n");
    for verb in program.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
        text.push_str(&format!("| [`{0}`](#sanafarm-{0}) | {1} |\n", verb.get_name(), cell(&about)));
    }
    text.push_str("\nAll verbs take:\n\n");
    text.push_str(&table(program.get_arguments().filter(|arg| arg.is_global_set()), &program, &[]));
    if let Some(notes) = program.get_after_help() {
        text.push_str(&format!("\n{notes}\n"));
    }
    for verb in program.get_subcommands() {
        command(verb, &program, &[verb.get_name().to_owned()], &mut text);
    }
    holds("docs/cli.md", &text);
}

fn command(command_: &Command, program: &Command, path: &[String], text: &mut String) {
    if command_.is_hide_set() {
        return;
    }
    text.push_str(&format!("\n{} sanafarm {}\n\n", "#".repeat(path.len() + 1), path.join(" ")));
    text.push_str(&format!("{}.\n\n", command_.get_about().map(ToString::to_string).unwrap_or_default()));
    let usage = command_.clone().render_usage().to_string();
    text.push_str(&format!("```text\n{}\n```\n", usage.trim_start_matches("Usage: ")));
    let own = || command_.get_arguments().filter(|arg| !arg.is_global_set() && arg.get_id() != "help");
    if own().next().is_some() {
        text.push_str(&format!("\n{}", table(own(), program, path)));
    }
    if let Some(notes) = command_.get_after_help() {
        text.push_str(&format!("\n{notes}\n"));
    }
    for inner in command_.get_subcommands() {
        command(inner, program, &[path, &[inner.get_name().to_owned()]].concat(), text);
    }
}

fn table<'a>(args: impl Iterator<Item = &'a Arg>, program: &Command, path: &[String]) -> String {
    let settings = of_verb(program, path);
    let mut text = String::from("| option | what it is | default | variable |\n| --- | --- | --- | --- |\n");
    for arg in args.filter(|arg| !arg.is_hide_set()) {
        let setting = settings.iter().find(|setting| setting.arg.get_id() == arg.get_id());
        let variable = match setting {
            Some(setting) => setting.variable.as_str(),
            None if arg.get_id() == "config" => "SANAFARM_CONFIG",
            None => "",
        };
        let short = arg.get_short().map(|short| format!("`-{short}`, ")).unwrap_or_default();
        text.push_str(&format!(
            "| {short}{} | {} | {} | {} |\n",
            code(&arg.to_string()),
            meaning(arg),
            default(arg),
            code(variable)
        ));
    }
    text
}

//! The command line, completed from the environment and a file.
//!
//! The definitions of the command line are the one source: `keys` tells which options are settings, `file` reads TOML,
//! `layers` puts both under the command line, where they take the place of clap's defaults, so that the same parsers check
//! them all, and `print` tells what holds ([ADR 23](../../../docs/adr/0023-configuration.md)).

mod file;
pub mod help;
pub mod keys;
mod layers;
mod print;
mod secret;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{OsStr, Resettable};
use clap::error::ErrorKind;
use clap::{
    Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches, Id, ValueHint, value_parser,
};

use crate::args::Cli;
use crate::environment;
use crate::error::Error;

use file::File;
use keys::Setting;
use layers::{Lower, lower};

#[cfg(test)]
pub use print::literal;

/// Why no command is run.
#[derive(Debug)]
pub enum Stop {
    /// Help, the version, or a command line that clap cannot read.
    Usage(clap::Error),
    /// The environment or the file is wrong.
    Mistake(Error),
    /// The configuration was asked for: this is it.
    Print(String),
}

/// The command line with what tells where the configuration is.
pub fn program() -> Command {
    Cli::command()
        .arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .value_hint(ValueHint::FilePath)
                .global(true)
                .help("Settings in TOML, which variables and options override [env: SANAFARM_CONFIG=]"),
        )
        .arg(
            Arg::new("print_config")
                .long("print-config")
                .action(ArgAction::SetTrue)
                .global(true)
                .help("Print the settings that hold for a verb and where they come from, as such a file"),
        )
}

/// Reads the command line over the environment over the file.
pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, Stop> {
    let arguments: Vec<_> = arguments.into_iter().collect();
    // Who asks for the configuration need not say what to do with it.
    let asked = arguments.iter().take_while(|word| *word != "--").any(|word| word == "--print-config");
    let program = program();
    let bare = bare(program.clone(), None, asked);

    // First alone: help and complaints are about what was typed.
    let typed = bare.clone().try_get_matches_from(&arguments).map_err(|error| match error.kind() {
        ErrorKind::MissingSubcommand if asked => Stop::Mistake(
            Error::mistake("--print-config tells the settings of a verb, and none was named")
                .hint("for example `sanafarm worker --print-config`"),
        ),
        _ => Stop::Usage(error),
    })?;
    let line = levels(&typed);
    let path = verb(&typed);
    let named = typed.get_one::<PathBuf>("config").cloned();
    let named = named.or_else(|| environment::filled(environment::CONFIG).map(PathBuf::from));
    let file = match named {
        Some(file) => File::read(&file, &program).map_err(Stop::Mistake)?,
        None => File::default(),
    };
    let settings = keys::of_verb(&program, &path);
    let command = path.iter().try_fold(&program, |command, name| command.find_subcommand(name));
    let lower = lower(&settings, &file, command.unwrap_or(&program), &line).map_err(Stop::Mistake)?;

    let filled = filled(bare, &path, &lower);
    let mut matches = filled.try_get_matches_from(&arguments).map_err(Stop::Usage)?;
    if asked {
        return Err(Stop::Print(print::effective(&settings, &lower, &levels(&matches))));
    }
    Cli::from_arg_matches_mut(&mut matches).map_err(|error| Stop::Usage(error.format(&mut program.clone())))
}

/// The program as it is typed: clap does not look at the environment, in which it would take an empty variable for a value,
/// and insists on no setting, which may come from elsewhere.
fn bare(command: Command, verb: Option<&str>, nothing_required: bool) -> Command {
    let groups: Vec<_> = command.get_groups().map(|group| group.get_id().clone()).collect();
    let inner: Vec<_> = command.get_subcommands().map(|inner| inner.get_name().to_owned()).collect();
    let known = command.clone();
    let is_setting = |arg: &Arg| verb.is_none_or(|verb| Setting::new(verb, &known, arg).is_some());
    let mut command = command.mut_args(|arg| {
        let arg = arg.env(Resettable::<OsStr>::Reset);
        let arg = if nothing_required { arg.required(false) } else { arg };
        if is_setting(&arg) { arg.required(false).requires(Resettable::<Id>::Reset) } else { arg }
    });
    if nothing_required {
        command =
            groups.into_iter().fold(command, |command, id| command.mut_group(id, |g| g.required(false)));
    }
    inner.into_iter().fold(command, |command, name| {
        let verb = verb.unwrap_or(&name).to_owned();
        command.mut_subcommand(name, |inner| bare(inner, Some(&verb), nothing_required))
    })
}

/// With what stands below the command line in the place of defaults.
fn filled(command: Command, path: &[String], lower: &Lower) -> Command {
    let command = command.mut_args(|arg| match lower.get(arg.get_id().as_str()) {
        Some(given) => arg.default_values(given.values.clone()),
        None => arg,
    });
    match path.split_first() {
        Some((name, rest)) => command.mut_subcommand(name, |inner| filled(inner, rest, lower)),
        None => command,
    }
}

/// The matches of the program, of its verb, and so on.
fn levels(matches: &ArgMatches) -> Vec<&ArgMatches> {
    std::iter::successors(Some(matches), |matches| matches.subcommand().map(|(_, inner)| inner)).collect()
}

fn verb(matches: &ArgMatches) -> Vec<String> {
    let steps = std::iter::successors(matches.subcommand(), |(_, inner)| inner.subcommand());
    steps.map(|(name, _)| name.to_owned()).collect()
}

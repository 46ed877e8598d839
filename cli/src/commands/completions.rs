//! `sanafarm completions`: what a shell needs to complete verbs, options and their values.

use crate::args::CompletionsArgs;
use crate::config;
use crate::error::{Error, Exit};
use crate::printer::Printer;

/// Prints the completions of a shell.
pub fn run(args: &CompletionsArgs, printer: &Printer) -> Result<Exit, Error> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut config::program(), "sanafarm", &mut text);
    printer.data(String::from_utf8_lossy(&text).trim_end())?;
    Ok(Exit::Success)
}

//! The `sanafarm` command line.

mod args;
mod commands;
mod connect;
mod data_folder;
mod environment;
mod error;
mod job_view;
mod logs;
mod models;
mod output;
mod printer;
mod progress;
mod prompts;
mod signals;
mod story;
mod submission;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use args::Cli;
use error::{Error, Exit};
use printer::Printer;

fn main() -> ExitCode {
    sana::keep_freed_memory();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return explain(&error),
    };
    let printer = Printer::new();
    match run(cli, &printer) {
        Ok(exit) => exit.into(),
        Err(error) => {
            printer.error(&error);
            error.exit.into()
        }
    }
}

fn run(cli: Cli, printer: &Printer) -> Result<Exit, Error> {
    logs::start(commands::log_level(&cli.command), printer)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::failure("start the async runtime").caused_by(&error))?;
    runtime.block_on(commands::run(cli.command, printer))
}

/// Help and version are no mistakes; anything else that clap stops at is one.
fn explain(error: &clap::Error) -> ExitCode {
    // Nobody can be told that the output is closed.
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Success.into(),
        _ => Exit::Mistake.into(),
    }
}

//! The `sanafarm` command line.

mod args;
mod commands;
mod config;
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
#[cfg(test)]
mod reference;
mod signals;
mod story;
mod submission;
mod watching;

use std::process::ExitCode;

use clap::error::ErrorKind;

use args::Cli;
use config::Stop;
use error::{Error, Exit};
use printer::Printer;

fn main() -> ExitCode {
    sana::keep_freed_memory();
    let printer = Printer::new();
    let ended = match config::read(std::env::args_os()) {
        Ok(cli) => run(cli, &printer),
        Err(Stop::Usage(error)) => return explain(&error),
        Err(Stop::Mistake(error)) => Err(error),
        Err(Stop::Print(text)) => printer.data(text).map(|()| Exit::Success),
    };
    match ended {
        Ok(exit) => exit.into(),
        Err(error) => {
            printer.error(&error);
            error.exit.into()
        }
    }
}

fn run(cli: Cli, printer: &Printer) -> Result<Exit, Error> {
    logs::start(commands::log_level(&cli.command), commands::log_format(&cli.command), printer)?;
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

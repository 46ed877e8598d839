//! `farm-bench`: how fast a farm takes prompts in, hands shards out and commits results.
//!
//! Coordinators are processes of their own, reached over TCP. Workers are simulated, some hundred in a process: each
//! has a connection and a session of its own and talks as the real worker does, but its engine is synthetic: it waits
//! for the stated time and renders nothing, and no picture is stored. At the end SQL must find exactly one result for
//! each image.
//!
//! - `args`: the command line; the program runs itself again as `coordinator` and as `workers`
//! - `run`: the phases of a measurement
//! - `child`, `usage`: processes and what they cost
//! - `farm`, `submit`: the coordinators and the workers as processes, and the job
//! - `database`: what the database knows
//! - `workers`: the simulated workers
//! - `figures`: what is printed

mod args;
mod child;
mod coordinator;
mod database;
mod error;
mod farm;
mod figures;
mod run;
mod submit;
mod usage;
mod workers;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use args::{Cli, Command};
use error::Error;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody can be told that standard error is closed.
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(cli: Cli) -> Result<(), Error> {
    let filter = EnvFilter::try_from_env("SANAFARM_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
    match cli.command {
        Some(Command::Coordinator(args)) => coordinator::serve(args),
        Some(Command::Workers(args)) => workers::work(&args),
        None => {
            let figures = run::measure(&cli.bench)?;
            let text = if cli.bench.json { figures.json()? } else { figures.table()? };
            writeln!(std::io::stdout(), "{text}").map_err(Error::io("write to standard output"))
        }
    }
}

//! `sanafarm man`: manual pages from the definitions of the command line.

use crate::args::ManArgs;
use crate::config;
use crate::error::{Error, Exit};
use crate::printer::{Printer, quoted};

/// Writes a page for the program and one for each verb.
pub fn run(args: &ManArgs, printer: &Printer) -> Result<Exit, Error> {
    let written = std::fs::create_dir_all(&args.folder)
        .and_then(|()| clap_mangen::generate_to(config::program(), &args.folder));
    written.map_err(|error| {
        Error::failure(format!("write manual pages to {}", args.folder.display()))
            .caused_by(&error)
            .hint("name a folder that can be written")
    })?;
    printer.note(format!(
        "manual pages are in {0}: read one with `man -l {0}/sanafarm.1`",
        quoted(&args.folder.to_string_lossy())
    ));
    Ok(Exit::Success)
}

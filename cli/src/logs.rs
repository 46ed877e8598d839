//! Logs on standard error, beside a progress bar.

use std::io::{self, Write};

use indicatif::MultiProgress;
use tracing_subscriber::EnvFilter;

use crate::environment;
use crate::error::Error;
use crate::printer::Printer;

/// Starts logging at `default` unless the environment says otherwise.
pub fn start(default: &str, printer: &Printer) -> Result<(), Error> {
    let wanted = environment::filled(environment::LOG).unwrap_or_else(|| default.to_owned());
    let filter = EnvFilter::try_new(&wanted).map_err(|error| {
        Error::mistake(format!("read {} = `{wanted}`", environment::LOG))
            .caused_by(&error)
            .hint("name a level such as `info` or `debug`")
    })?;
    let bars = printer.bars().clone();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(printer.colour())
        .with_writer(move || AboveBars(bars.clone()))
        .init();
    Ok(())
}

/// Writes each line above the bars; tracing hands over whole lines.
struct AboveBars(MultiProgress);

impl Write for AboveBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().lock().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}

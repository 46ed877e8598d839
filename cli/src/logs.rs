//! Logs on standard error, beside a progress bar, and in the logs of images.

use std::io::{self, Write};

use indicatif::MultiProgress;
use sanafarm_telemetry::image_log;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::args::LogFormat;
use crate::environment;
use crate::error::Error;
use crate::printer::Printer;

/// Starts logging at `default` unless the environment says otherwise. What images keep does not depend on it.
pub fn start(default: &str, format: LogFormat, printer: &Printer) -> Result<(), Error> {
    let wanted = environment::filled(environment::LOG).unwrap_or_else(|| default.to_owned());
    let filter = EnvFilter::try_new(&wanted).map_err(|error| {
        Error::mistake(format!("read {} = `{wanted}`", environment::LOG))
            .caused_by(&error)
            .hint("name a level such as `info` or `debug`")
    })?;
    let filter = without_headers(filter);
    let bars = printer.bars().clone();
    let writer = move || AboveBars(bars.clone());
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(printer.colour()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(filter)).with(image_log::layer()).init();
    Ok(())
}

/// Keeps those quiet who would write the headers of calls, and the tokens in them, whatever the user asks for.
fn without_headers(filter: EnvFilter) -> EnvFilter {
    let quiet = ["h2=info", "hyper=info", "reqwest=info"].map(str::parse);
    quiet.into_iter().flatten().fold(filter, EnvFilter::add_directive)
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

//! The two voices of the program: data on standard output, talk on standard error.

pub mod amounts;
mod table;
mod words;

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use indicatif::MultiProgress;

use crate::environment;
use crate::error::{Error, Exit};

pub use table::{Table, one_line};
pub use words::{quoted, shortened};

/// Writes data and talk, and keeps talk apart from a progress bar. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Printer {
    bars: MultiProgress,
    colour: bool,
}

impl Printer {
    /// Colours and bars only where standard error is a terminal, colours only without `NO_COLOR`.
    pub fn new() -> Self {
        let colour = io::stderr().is_terminal() && environment::filled("NO_COLOR").is_none();
        Self { bars: MultiProgress::new(), colour }
    }

    /// Where progress bars are drawn.
    pub fn bars(&self) -> &MultiProgress {
        &self.bars
    }

    /// Whether talk may have colours.
    pub fn colour(&self) -> bool {
        self.colour
    }

    /// One line of data.
    pub fn data(&self, line: impl Display) -> Result<(), Error> {
        let mut out = io::stdout().lock();
        self.bars.suspend(|| writeln!(out, "{line}").and_then(|()| out.flush())).map_err(|e| output_error(&e))
    }

    /// One line of talk.
    pub fn note(&self, line: impl Display) {
        self.talk(&line.to_string());
    }

    /// Something that the user should look at; the work goes on.
    pub fn warn(&self, line: impl Display) {
        self.talk(&format!("{}: {line}", self.paint("33", "warning")));
    }

    /// Why the command ends.
    pub fn error(&self, error: &Error) {
        if error.exit == Exit::Success {
            return;
        }
        let mut text = format!("{}: {}", self.paint("31", "error"), error.what);
        for cause in &error.causes {
            text.push_str(&format!("\n  caused by: {cause}"));
        }
        if let Some(hint) = &error.hint {
            text.push_str(&format!("\n\n{}: {hint}", self.paint("36", "hint")));
        }
        self.talk(&text);
    }

    fn paint(&self, code: &str, word: &str) -> String {
        if self.colour { format!("\x1b[1;{code}m{word}\x1b[0m") } else { word.to_owned() }
    }

    /// Nobody can be told that standard error is closed.
    fn talk(&self, text: &str) {
        self.bars.suspend(|| writeln!(io::stderr().lock(), "{text}").ok());
    }
}

/// What a failed write to standard output means.
pub fn output_error(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Error::reader_left(),
        _ => Error::failure("write to standard output").caused_by(error),
    }
}

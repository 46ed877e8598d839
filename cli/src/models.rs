//! Models on this machine: what the command line and the environment say about them, and the progress of a download.

use std::sync::Arc;

use indicatif::{ProgressBar, ProgressStyle};
use sanafarm_worker::models::{HUB, Models, Options, Token};

use crate::args::CacheArgs;
use crate::data_folder::DataFolder;
use crate::environment;
use crate::error::{Error, Exit};
use crate::printer::Printer;

/// Where models come from and where they are kept.
pub fn options(args: CacheArgs, data: &DataFolder) -> Options {
    Options {
        cache: args.cache.unwrap_or_else(|| data.models()),
        cache_size: args.cache_size,
        hub: environment::filled(environment::HUB_ENDPOINT).unwrap_or_else(|| HUB.to_owned()),
        token: environment::filled(environment::HUB_TOKEN).map(Token::new),
    }
}

/// Models with a bar for their downloads, where standard error is a terminal.
pub struct WatchedModels {
    /// For work that blocks.
    pub models: Models,
    bar: ProgressBar,
}

impl WatchedModels {
    /// No bar is drawn before a download begins.
    pub fn new(options: &Options, printer: &Printer) -> Self {
        let bar = printer.bars().add(ProgressBar::no_length().with_style(style(printer.colour())));
        let shown = bar.clone();
        let models = Models::new(options.clone()).watched(Arc::new(move |progress| {
            shown.set_length(progress.total);
            shown.set_position(progress.done);
            shown.set_message(progress.file.clone());
        }));
        Self { models, bar }
    }
}

impl Drop for WatchedModels {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn style(colour: bool) -> ProgressStyle {
    let bar = if colour { "{bar:30.cyan/dim}" } else { "{bar:30}" };
    let template = format!(
        "{bar} {{decimal_bytes}}/{{decimal_total_bytes}}  {{decimal_bytes_per_sec}}  eta {{eta}}  {{wide_msg}}"
    );
    ProgressStyle::with_template(&template).expect("the template is a constant")
}

/// What a person reads of a model that cannot be had.
pub fn model_error(what: impl Into<String>, error: &sanafarm_worker::models::Error) -> Error {
    let exit = if error.is_mistake() { Exit::Mistake } else { Exit::Failure };
    Error { exit, ..Error::mistake(what) }.caused_by(error).hint(error.hint())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_styles_are_valid() {
        style(true);
        style(false);
    }
}

//! The engines: what turns recipes into rows of pictures, behind a small synchronous trait, each with a thread of its own.

use std::path::Path;

use sana::plan::Fit;
use sana::{Memory, ModelInfo, Recipe, Sink};

mod batch;
mod command;
mod devices;
mod encoder;
mod fits;
mod pace;
mod pipeline;
mod queue;
mod thread;

pub(crate) use command::{Claim, Command, Effort, Outcome, Rendered, Reply};
pub(crate) use devices::{Context, Threads, start};
pub(crate) use encoder::Picture;
#[cfg(test)]
pub(crate) use pace::Pace;
pub(crate) use pace::Paces;
pub(crate) use pipeline::SanaEngine;
pub(crate) use queue::Commands;

/// Renders pictures on one device, on the thread that owns it.
pub(crate) trait Engine: Send + 'static {
    /// How pictures like this one are rendered with the model in `folder` in the memory that there is. The model need not be
    /// loaded, and the one that is may stay.
    fn fit(&mut self, folder: &Path, recipe: &Recipe) -> Result<Fit, sana::Error>;

    /// Loads the model in `folder` in place of the one before.
    fn load(&mut self, folder: &Path, memory: Memory) -> Result<ModelInfo, sana::Error>;

    /// What it computes in: `f32` or `bf16`.
    fn dtype(&self) -> &'static str;

    /// Width and height that the recipe is rendered at with the loaded model.
    fn compute_size(&self, recipe: &Recipe) -> Result<(u32, u32), sana::Error>;

    /// Renders with the loaded model pictures that agree in size and settings. What becomes of each is told to `sink`; the
    /// error is one of all that have not ended.
    fn render(&mut self, recipes: &[Recipe], fit: &Fit, sink: &mut dyn Sink) -> Result<(), sana::Error>;

    /// Whether the device still works, after it has failed.
    fn probe(&mut self) -> Result<(), sana::Error>;
}

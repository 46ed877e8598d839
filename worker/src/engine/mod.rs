//! The engine: what turns a recipe into rows of a picture, behind a small synchronous trait.

use std::ops::ControlFlow;
use std::path::Path;

use sana::{ModelInfo, Recipe};

mod encoder;
mod pipeline;
mod thread;

pub(crate) use encoder::Picture;
pub(crate) use pipeline::SanaEngine;
pub(crate) use thread::{Claim, Command, Context, Outcome, Rendered, Threads, start};

/// Where a picture is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The prompt is being encoded.
    Text,
    /// That many denoising steps are done.
    Denoise(u32),
    /// Rows are being handed out.
    Decode,
}

/// Renders pictures on one device, one at a time, on the thread that owns it.
pub(crate) trait Engine: Send + 'static {
    /// Loads the model in `folder` in place of the one before.
    fn load(&mut self, folder: &Path) -> Result<ModelInfo, sana::Error>;

    /// Width and height that the recipe is rendered at with the loaded model.
    fn compute_size(&self, recipe: &Recipe) -> Result<(u32, u32), sana::Error>;

    /// Renders with the loaded model. `on_stage` hears of every stage and step and ends the work with
    /// `Break` (the error is then `Cancelled`); `rows` takes whole rows of RGB bytes in order.
    fn render(
        &mut self,
        recipe: &Recipe,
        on_stage: &mut (dyn FnMut(Stage) -> ControlFlow<()> + Send),
        rows: &mut (dyn FnMut(&[u8]) -> std::io::Result<()> + Send),
    ) -> Result<(), sana::Error>;
}

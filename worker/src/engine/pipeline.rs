//! The Sana pipeline on the device that this worker renders on.

use std::ops::ControlFlow;
use std::path::Path;

use sana::{Memory, ModelInfo, Pipeline, Placement, Recipe};

use super::{Engine, Stage};

/// Keeps the last model loaded.
pub(crate) struct SanaEngine {
    placement: Placement,
    pipeline: Option<Pipeline>,
}

impl SanaEngine {
    pub(crate) fn new(placement: Placement) -> Self {
        Self { placement, pipeline: None }
    }

    fn pipeline(&self) -> Result<&Pipeline, sana::Error> {
        self.pipeline.as_ref().ok_or_else(|| sana::Error::Model("no model is loaded".into()))
    }
}

impl Engine for SanaEngine {
    fn load(&mut self, folder: &Path) -> Result<ModelInfo, sana::Error> {
        // The old model goes first: two need not fit into memory.
        self.pipeline = None;
        let loaded = Pipeline::load_on(folder, Memory::Resident, &self.placement)?;
        let pipeline = self.pipeline.insert(loaded);
        Ok(pipeline.info().clone())
    }

    fn compute_size(&self, recipe: &Recipe) -> Result<(u32, u32), sana::Error> {
        let plan = self.pipeline()?.plan(recipe)?;
        Ok((plan.compute_width, plan.compute_height))
    }

    fn render(
        &mut self,
        recipe: &Recipe,
        on_stage: &mut (dyn FnMut(Stage) -> ControlFlow<()> + Send),
        rows: &mut (dyn FnMut(&[u8]) -> std::io::Result<()> + Send),
    ) -> Result<(), sana::Error> {
        let pipeline = self.pipeline()?;
        proceed(on_stage(Stage::Text))?;
        let text = pipeline.encode(recipe)?;
        proceed(on_stage(Stage::Denoise(0)))?;
        let latent = pipeline.denoise(recipe, &text, &mut |done| on_stage(Stage::Denoise(done)))?;
        proceed(on_stage(Stage::Decode))?;
        pipeline.decode(recipe, &latent, rows)
    }
}

fn proceed(flow: ControlFlow<()>) -> Result<(), sana::Error> {
    match flow {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(sana::Error::Cancelled),
    }
}

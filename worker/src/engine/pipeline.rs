//! The Sana pipeline on a device of this worker.

use std::path::Path;

use sana::plan::{Fit, Model, Request};
use sana::size::plan;
use sana::{Cancel, Memory, ModelInfo, Pipeline, Placement, Precision, Recipe, Sink};

use super::Engine;
use crate::device::cpu_memory_free;

/// Tokens of the longest prompt with its instruction.
const TOKENS: usize = 600;
/// Most pictures in a batch on a CUDA device. On the CPU a batch gains nothing: sequences do not share work there.
const MOST: usize = 16;
/// What the plan does not count: the program, and on a device its libraries and what they keep.
const RESERVE: u64 = 512 << 20;

/// Keeps the last model loaded.
pub(crate) struct SanaEngine {
    placement: Placement,
    /// Bytes to stay within; those that are free when absent.
    budget: Option<u64>,
    pipeline: Option<Pipeline>,
}

impl SanaEngine {
    pub(crate) fn new(placement: Placement) -> Self {
        Self { placement, budget: None, pipeline: None }
    }

    /// It may take so many bytes, whatever is free.
    #[cfg(test)]
    pub(crate) fn within(self, budget: u64) -> Self {
        Self { budget: Some(budget), ..self }
    }

    fn pipeline(&self) -> Result<&Pipeline, sana::Error> {
        self.pipeline.as_ref().ok_or_else(|| sana::Error::Model("no model is loaded".into()))
    }

    /// Bytes for a model and its work. What the loaded one takes is given back before the next is loaded.
    fn budget(&self) -> Result<u64, sana::Error> {
        if let Some(budget) = self.budget {
            return Ok(budget);
        }
        let free = match self.placement.device_memory()? {
            Some((free, _)) => free,
            // Where the system says nothing it has to do.
            None => cpu_memory_free().unwrap_or(u64::MAX),
        };
        let held = self.pipeline.as_ref().map_or(0, Pipeline::resident_bytes);
        Ok(free.saturating_add(held as u64))
    }
}

impl Engine for SanaEngine {
    fn fit(&mut self, folder: &Path, recipe: &Recipe) -> Result<Fit, sana::Error> {
        let model = Model::open(folder)?;
        let size = plan(recipe.width, recipe.height, recipe.bin, model.transformer.sample_size)?;
        let on_cpu = self.placement.name() == "cpu";
        let memory = self.budget()?;
        let request = Request {
            size: (size.compute_width, size.compute_height),
            precision: if on_cpu { Precision::F32 } else { Precision::default() },
            mode: Memory::Resident,
            tokens: TOKENS,
            pictures: if on_cpu { 1 } else { MOST },
            memory,
            // A device's libraries and the gaps between its tensors grow with what there is.
            reserve: if self.budget.is_some() { 0 } else { RESERVE + if on_cpu { 0 } else { memory / 20 } },
        };
        Fit::of(&model, &request)
    }

    fn load(&mut self, folder: &Path, memory: Memory) -> Result<ModelInfo, sana::Error> {
        // The old model goes first: two need not fit into memory.
        self.pipeline = None;
        let loaded = Pipeline::load_on(folder, memory, &self.placement)?;
        let pipeline = self.pipeline.insert(loaded);
        Ok(pipeline.info().clone())
    }

    fn dtype(&self) -> &'static str {
        self.placement.dtype().as_str()
    }

    fn compute_size(&self, recipe: &Recipe) -> Result<(u32, u32), sana::Error> {
        let plan = self.pipeline()?.plan(recipe)?;
        Ok((plan.compute_width, plan.compute_height))
    }

    fn render(&mut self, recipes: &[Recipe], fit: &Fit, sink: &mut dyn Sink) -> Result<(), sana::Error> {
        // The sink knows what is told to stop.
        self.pipeline()?.render_fitted(recipes, fit, &Cancel::default(), sink).map(drop)
    }

    fn probe(&mut self) -> Result<(), sana::Error> {
        // What it held may be in any state.
        self.pipeline = None;
        self.placement.probe()
    }
}

//! Single parts of the pipeline at work on made-up inputs: what `sana-bench` times.

use std::ops::ControlFlow;
use std::path::Path;

use crate::autoencoder::Tiling;
use crate::pipeline::{Latent, Pipeline, TextEmbedding};
use crate::size::Plan;
use crate::{BinMode, DecodeMode, Error, Recipe};

/// A model with an input for each of its parts.
#[derive(Debug)]
pub struct Bench {
    pipeline: Pipeline,
    recipe: Recipe,
    plan: Plan,
    tiling: Tiling,
    text: TextEmbedding,
    latent: Latent,
}

impl Bench {
    /// Loads a model and makes inputs for a picture of this size, which must be a multiple of 32.
    pub fn load(
        model: &Path,
        (width, height): (u32, u32),
        steps: u32,
        tiling: Tiling,
    ) -> Result<Self, Error> {
        let pipeline = Pipeline::load(model)?;
        let recipe = Recipe {
            prompt: "a red circle on a white background".into(),
            negative_prompt: String::new(),
            seed: 1,
            width,
            height,
            steps,
            guidance: 4.5,
            bin: BinMode::Never,
            decode: DecodeMode::Exact,
        };
        let plan = pipeline.plan(&recipe)?;
        let text = pipeline.encode(&recipe)?;
        let mut noise = pipeline.noise(&plan, recipe.seed, 1).draw()?;
        let latent = Latent { values: noise.swap_remove(0) };
        Ok(Self { pipeline, recipe, plan, tiling, text, latent })
    }

    /// One prompt and one negative prompt.
    pub fn text(&self) -> Result<(), Error> {
        self.pipeline.encode(&self.recipe).map(drop)
    }

    /// All denoising steps with guidance, with the text's keys and values.
    pub fn dit(&self) -> Result<(), Error> {
        let go_on = &mut |_: u32, _: &[candle_core::Tensor]| ControlFlow::Continue(());
        let Recipe { seed, steps, guidance, .. } = self.recipe;
        let noise = self.pipeline.noise(&self.plan, seed, 1);
        self.pipeline.denoise_from(noise, &self.text, steps, guidance, go_on).map(drop)
    }

    /// One latent to the rows of a picture.
    pub fn decode(&self) -> Result<(), Error> {
        self.pipeline.decode_tiled(&self.plan, &self.latent, self.tiling, &mut |_| Ok(()))
    }

    /// A whole picture.
    pub fn picture(&self, on_step: &mut (dyn FnMut(u32) -> ControlFlow<()> + Send)) -> Result<(), Error> {
        let text = self.pipeline.encode(&self.recipe)?;
        let latent = self.pipeline.denoise(&self.recipe, &text, on_step)?;
        self.pipeline.decode_tiled(&self.plan, &latent, self.tiling, &mut |_| Ok(()))
    }

    /// Bytes of weights in memory.
    pub fn weights_bytes(&self) -> usize {
        self.pipeline.resident_bytes()
    }
}

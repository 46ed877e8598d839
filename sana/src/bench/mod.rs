//! Parts of the pipeline at work: what `sana-bench` times.
//!
//! A part is taken from a whole model, on inputs that the pipeline made, or alone from its own folder, on
//! made-up inputs or those of a file. The second way needs no other part and is how full-size configurations are
//! measured and compared with the reference libraries.

mod alone;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use candle_core::Tensor;

use crate::autoencoder::Tiling;
use crate::denoise::{Noise, Start};
use crate::pipeline::{Latent, Pipeline, TextEmbedding};
use crate::size::Plan;
use crate::{BinMode, DecodeMode, Error, Memory, Placement, Recipe};
use alone::Alone;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Text encoder. Of a model: one prompt with its instruction and the empty negative prompt. Alone: one sequence.
    Text,
    /// Transformer. Of a model: all steps of a guided pair. Alone: one call, texts included.
    Dit,
    /// Decoder: one latent to rows of 8-bit RGB.
    Decode,
    /// From the prompt to the last row; only of a model.
    Picture,
}

/// Where the weights are.
#[derive(Clone, Debug)]
pub enum Source {
    /// Folder of a model.
    Model(PathBuf),
    /// Folder of one part: `config.json` and its weights.
    Part(PathBuf),
}

/// What to do, with which weights and inputs.
#[derive(Clone, Debug)]
pub struct Work {
    /// What is measured.
    pub part: Part,
    /// Where the weights are.
    pub source: Source,
    /// Width and height of the picture in pixels, multiples of 32. The text encoder alone needs none.
    pub size: (u32, u32),
    /// Denoising steps of a model's `Dit` and `Picture`.
    pub steps: u32,
    /// How a latent is decoded.
    pub tiling: Tiling,
    /// Where it is done.
    pub placement: Placement,
    /// Tokens of the text (`Text` and `Dit` alone).
    pub tokens: usize,
    /// Two sequences in one call, as with guidance (`Dit` alone).
    pub pair: bool,
    /// A safetensors file with the inputs of a part alone, in the layout of the reference libraries: `latent`
    /// `[1, channels, height, width]` (already divided by the scaling factor) for `Decode`; `latent` `[n, channels, height,
    /// width]`, `text` `[n, tokens, channels]`, `mask` `[n, tokens]` and `timestep` `[n]` for `Dit`; `ids` `[tokens]` for
    /// `Text`. Numbers of `mask` and `ids` are i64 or u32, others f32.
    pub input: Option<PathBuf>,
}

/// A loaded model or part with its inputs.
#[derive(Debug)]
pub struct Bench(Loaded);

#[derive(Debug)]
enum Loaded {
    Whole(Box<Whole>),
    Alone(Box<Alone>),
}

impl Bench {
    /// Loads weights and makes or reads inputs.
    pub fn load(work: &Work) -> Result<Self, Error> {
        match &work.source {
            Source::Part(dir) => Ok(Self(Loaded::Alone(Box::new(Alone::load(dir, work)?)))),
            Source::Model(_) if work.input.is_some() => {
                Err(Error::Setting("inputs from a file are for one part alone; give its folder".to_owned()))
            }
            Source::Model(dir) => Ok(Self(Loaded::Whole(Box::new(Whole::load(dir, work)?)))),
        }
    }

    /// Does the work once.
    pub fn run(&self) -> Result<(), Error> {
        match &self.0 {
            Loaded::Whole(whole) => whole.run(),
            Loaded::Alone(alone) => alone.run(),
        }
    }

    /// Does the work of a part alone once and gives its result in f32 and the layout of the reference libraries: `hidden`
    /// `[tokens, hidden]`, `velocity` `[n, channels, height, width]` or `picture` `[1, 3, height, width]`.
    pub fn output(&self) -> Result<HashMap<String, Tensor>, Error> {
        match &self.0 {
            Loaded::Whole(_) => {
                Err(Error::Setting("only a part alone gives its result; give its folder".to_owned()))
            }
            Loaded::Alone(alone) => alone.output(),
        }
    }

    /// Of a part alone: its parameters, and the bytes of values at work that [`crate::plan`] plans for it.
    pub fn planned(&self) -> Result<Option<(u64, u64)>, Error> {
        match &self.0 {
            Loaded::Whole(_) => Ok(None),
            Loaded::Alone(alone) => alone.planned().map(Some),
        }
    }

    /// Bytes of weights in memory, as packed for the kernels.
    pub fn weights_bytes(&self) -> usize {
        match &self.0 {
            Loaded::Whole(whole) => whole.pipeline.resident_bytes(),
            Loaded::Alone(alone) => alone.weights_bytes(),
        }
    }
}

/// A model with the inputs of the wanted part.
#[derive(Debug)]
struct Whole {
    pipeline: Pipeline,
    recipe: Recipe,
    plan: Plan,
    input: WholeInput,
    tiling: Tiling,
}

#[derive(Debug)]
enum WholeInput {
    Text,
    Dit(Box<(TextEmbedding, Noise)>),
    Decode(Latent),
    Picture,
}

impl Whole {
    fn load(model: &Path, work: &Work) -> Result<Self, Error> {
        let pipeline = Pipeline::load_on(model, Memory::Resident, &work.placement)?;
        let (width, height) = work.size;
        let recipe = Recipe {
            prompt: "a red circle on a white background".into(),
            negative_prompt: String::new(),
            seed: 1,
            width,
            height,
            steps: work.steps,
            guidance: 4.5,
            bin: BinMode::Never,
            decode: DecodeMode::Exact,
        };
        let plan = pipeline.plan(&recipe)?;
        let input = match work.part {
            Part::Text => WholeInput::Text,
            Part::Dit => {
                let noise = pipeline.noise(&plan, recipe.seed, 1);
                WholeInput::Dit(Box::new((pipeline.encode(&recipe)?, noise)))
            }
            Part::Decode => {
                let values = pipeline.noise(&plan, recipe.seed, 1).draw()?.swap_remove(0);
                WholeInput::Decode(Latent { values })
            }
            Part::Picture => WholeInput::Picture,
        };
        Ok(Self { pipeline, recipe, plan, input, tiling: work.tiling })
    }

    fn run(&self) -> Result<(), Error> {
        let Self { pipeline, recipe, plan, tiling, .. } = self;
        match &self.input {
            WholeInput::Text => pipeline.encode(recipe).map(drop),
            WholeInput::Dit(inputs) => {
                let (text, noise) = &**inputs;
                let go_on = &mut |_: usize, _: u32, _: &Tensor| ControlFlow::Continue(());
                let (steps, guidance) = (recipe.steps, recipe.guidance);
                let starts = vec![Start { noise: noise.clone(), text }];
                pipeline.denoise_from(&*pipeline.transformer()?, starts, steps, guidance, go_on).map(drop)
            }
            WholeInput::Decode(latent) => pipeline.decode_tiled(plan, latent, *tiling, &mut |_| Ok(())),
            WholeInput::Picture => {
                let text = pipeline.encode(recipe)?;
                let latent = pipeline.denoise(recipe, &text, &mut |_| ControlFlow::Continue(()))?;
                pipeline.decode_tiled(plan, &latent, *tiling, &mut |_| Ok(()))
            }
        }
    }
}

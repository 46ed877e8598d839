//! From a recipe to a picture.

use std::ops::ControlFlow;
use std::path::Path;

use candle_core::Tensor;

use crate::autoencoder::{Decoder, Tiling};
use crate::config::SchedulerConfig;
use crate::denoise::{Denoiser, Noise, OnStep, takes_negative};
use crate::model::{Folder, ModelInfo};
use crate::postprocess::Rows;
use crate::prompt::{MAX_SEQUENCE_LENGTH, PromptTokenizer};
use crate::size::{Plan, plan};
use crate::text_encoder::{Embedding, TextEncoder};
use crate::transformer::Transformer;
use crate::{DecodeMode, Error, Recipe};

/// Text of a recipe as the transformer takes it.
#[derive(Clone, Debug)]
pub struct TextEmbedding {
    pub(crate) positive: Embedding,
    /// Only with guidance by two calls.
    pub(crate) negative: Option<Embedding>,
}

/// A denoised latent, `[height, width, channels]` in latent pixels.
#[derive(Clone, Debug)]
pub struct Latent {
    pub(crate) values: Tensor,
}

/// A loaded model.
#[derive(Debug)]
pub struct Pipeline {
    info: ModelInfo,
    tokenizer: PromptTokenizer,
    text_encoder: TextEncoder,
    transformer: Transformer,
    decoder: Decoder,
    scheduler: SchedulerConfig,
}

impl Pipeline {
    /// Loads a folder in the diffusers layout, on the CPU in f32.
    pub fn load(dir: &Path) -> Result<Self, Error> {
        let folder = Folder::open(dir)?;
        let info = folder.info()?;
        let Folder { tokenizer, text_encoder, transformer, autoencoder, scheduler, .. } = folder;
        Ok(Self {
            info,
            tokenizer,
            text_encoder: TextEncoder::load(&text_encoder.0, &text_encoder.1)?,
            transformer: Transformer::load(&transformer.0, &transformer.1)?,
            decoder: Decoder::load(&autoencoder.0, &autoencoder.1)?,
            scheduler,
        })
    }

    /// What was loaded.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// The size that is computed and the size that is asked for.
    pub fn plan(&self, recipe: &Recipe) -> Result<Plan, Error> {
        plan(recipe.width, recipe.height, recipe.bin, self.transformer.config().sample_size)
    }

    /// Encodes the prompt, and the negative prompt when guidance is above 1 and the model is no Sprint.
    pub fn encode(&self, recipe: &Recipe) -> Result<TextEmbedding, Error> {
        let takes_negative = takes_negative(self.transformer.config(), recipe.guidance);
        let negative = takes_negative.then_some(recipe.negative_prompt.as_str());
        self.encode_with(&recipe.prompt, negative, MAX_SEQUENCE_LENGTH, true)
    }

    /// Encodes with another number of rows, or without the instruction.
    pub(crate) fn encode_with(
        &self,
        prompt: &str,
        negative: Option<&str>,
        rows: usize,
        instruction: bool,
    ) -> Result<TextEmbedding, Error> {
        let tokens = if instruction {
            self.tokenizer.with_instruction(prompt, rows)?
        } else {
            self.tokenizer.plain(prompt, rows)?
        };
        let negative = negative.map(|negative| self.tokenizer.plain(negative, rows)).transpose()?;
        on_pool(|| {
            let negative = negative.map(|tokens| self.text_encoder.embed(&tokens)).transpose()?;
            Ok(TextEmbedding { positive: self.text_encoder.embed(&tokens)?, negative })
        })
    }

    /// Runs all denoising steps; `on_step(done)` is called after each and stops the work with `Break`.
    pub fn denoise(
        &self,
        recipe: &Recipe,
        text: &TextEmbedding,
        on_step: &mut (dyn FnMut(u32) -> ControlFlow<()> + Send),
    ) -> Result<Latent, Error> {
        let noise = self.noise(&self.plan(recipe)?, recipe.seed, 1);
        let mut observe = |done: u32, _: &[Tensor]| on_step(done);
        let latents = self.denoise_from(noise, text, recipe.steps, recipe.guidance, &mut observe)?;
        let Some(values) = latents.into_iter().next() else {
            return Err(Error::Setting("no latent came out of the denoising".to_owned()));
        };
        Ok(Latent { values })
    }

    /// Noise of `count` pictures from one generator.
    pub(crate) fn noise(&self, plan: &Plan, seed: u64, count: usize) -> Noise {
        Noise::new(self.transformer.config(), plan, seed, count)
    }

    /// Denoises pictures that share a text.
    pub(crate) fn denoise_from(
        &self,
        noise: Noise,
        text: &TextEmbedding,
        steps: u32,
        guidance: f64,
        on_step: OnStep<'_>,
    ) -> Result<Vec<Tensor>, Error> {
        let denoiser = Denoiser { transformer: &self.transformer, scheduler: &self.scheduler };
        on_pool(|| denoiser.run(noise, text, steps, guidance, on_step))
    }

    /// Decodes into `recipe.height` rows of `recipe.width * 3` bytes RGB, handed out in order as soon as they
    /// are final, one or more whole rows a call.
    pub fn decode(
        &self,
        recipe: &Recipe,
        latent: &Latent,
        rows: &mut (dyn FnMut(&[u8]) -> std::io::Result<()> + Send),
    ) -> Result<(), Error> {
        let tiling = match recipe.decode {
            DecodeMode::Exact => Tiling::Bands(None),
            DecodeMode::Blend => Tiling::BLEND,
            DecodeMode::Whole => Tiling::Whole,
        };
        self.decode_tiled(&self.plan(recipe)?, latent, tiling, rows)
    }

    /// Decodes with a tiling of the caller's choice.
    pub fn decode_tiled(
        &self,
        plan: &Plan,
        latent: &Latent,
        tiling: Tiling,
        rows: &mut (dyn FnMut(&[u8]) -> std::io::Result<()> + Send),
    ) -> Result<(), Error> {
        let latent = (&latent.values / self.decoder.scaling_factor())?;
        let mut picture = Rows::new(plan);
        on_pool(|| {
            self.decoder.decode(&latent, tiling, &mut |band: &Tensor| -> Result<(), Error> {
                let values = crate::ops::to_vec(band)?;
                for row in values.chunks_exact(band.dim(1)? * 3) {
                    picture.push(row, rows)?;
                }
                Ok(())
            })
        })?;
        picture.finish()
    }

    /// The decoder alone.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// The scheduler's configuration and the side of the trained latent.
    pub(crate) fn parts(&self) -> (&SchedulerConfig, usize) {
        (&self.scheduler, self.transformer.config().sample_size)
    }

    /// Bytes of weights in memory, as packed for the kernels.
    pub fn resident_bytes(&self) -> usize {
        self.text_encoder.bytes() + self.transformer.bytes() + self.decoder.bytes()
    }
}

/// Runs `work` on a thread of the pool. From outside, each of its hundreds of parallel loops would wake the pool and
/// wait for it; on a small model that is a fifth of the time.
pub(crate) fn on_pool<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    rayon::scope(|_| work())
}

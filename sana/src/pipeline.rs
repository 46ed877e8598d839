//! From a recipe to a picture, part by part.

use std::ops::ControlFlow;
use std::path::Path;

use candle_core::Tensor;

use crate::autoencoder::{Decoder, Tiling};
use crate::config::SchedulerConfig;
use crate::denoise::{Denoiser, Noise, OnStep, Start, takes_negative};
use crate::memory::Held;
use crate::model::{Folder, ModelInfo};
use crate::postprocess::Rows;
use crate::prompt::MAX_SEQUENCE_LENGTH;
use crate::size::{Plan, plan};
use crate::text_encoder::{Embedding, TextEncoder};
use crate::transformer::Transformer;
use crate::{Cancel, Error, Memory, Placement, Recipe};

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

/// A model that is ready to render.
#[derive(Debug)]
pub struct Pipeline {
    info: ModelInfo,
    folder: Folder,
    /// Without it each part is loaded when it is used.
    resident: Option<Parts>,
}

/// The parts with weights.
#[derive(Debug)]
struct Parts {
    text_encoder: TextEncoder,
    transformer: Transformer,
    decoder: Decoder,
}

impl Pipeline {
    /// Loads a folder in the diffusers layout, on the CPU in f32; all of it stays in memory.
    pub fn load(dir: &Path) -> Result<Self, Error> {
        Self::load_with(dir, Memory::Resident)
    }

    /// Opens and checks a folder in the diffusers layout and loads what is to stay in memory, on the CPU.
    pub fn load_with(dir: &Path, memory: Memory) -> Result<Self, Error> {
        Self::load_on(dir, memory, &Placement::cpu())
    }

    /// The same on the device and in the precision of the placement.
    pub fn load_on(dir: &Path, memory: Memory, placement: &Placement) -> Result<Self, Error> {
        let folder = Folder::open(dir)?.placed(placement);
        let mut pipeline = Self { info: folder.info()?, folder, resident: None };
        if memory == Memory::Resident {
            pipeline.resident = Some(Parts {
                text_encoder: pipeline.load_text_encoder()?,
                transformer: pipeline.load_transformer()?,
                decoder: pipeline.load_decoder()?,
            });
        }
        Ok(pipeline)
    }

    fn load_text_encoder(&self) -> Result<TextEncoder, Error> {
        TextEncoder::load(&self.folder.text_encoder.0, &self.folder.text_encoder.1)
    }

    fn load_transformer(&self) -> Result<Transformer, Error> {
        Transformer::load(&self.folder.transformer.0, &self.folder.transformer.1)
    }

    fn load_decoder(&self) -> Result<Decoder, Error> {
        Decoder::load(&self.folder.autoencoder.0, &self.folder.autoencoder.1)
    }

    pub(crate) fn text_encoder(&self) -> Result<Held<'_, TextEncoder>, Error> {
        let resident = self.resident.as_ref().map(|parts| &parts.text_encoder);
        Held::take(resident, || self.load_text_encoder())
    }

    pub(crate) fn transformer(&self) -> Result<Held<'_, Transformer>, Error> {
        let resident = self.resident.as_ref().map(|parts| &parts.transformer);
        Held::take(resident, || self.load_transformer())
    }

    pub(crate) fn held_decoder(&self) -> Result<Held<'_, Decoder>, Error> {
        Held::take(self.decoder(), || self.load_decoder())
    }

    pub(crate) fn is_resident(&self) -> bool {
        self.resident.is_some()
    }

    /// What was loaded.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// The size that is computed and the size that is asked for.
    pub fn plan(&self, recipe: &Recipe) -> Result<Plan, Error> {
        plan(recipe.width, recipe.height, recipe.bin, self.parts().1)
    }

    /// Encodes the prompt, and the negative prompt when guidance is above 1 and the model is no Sprint.
    pub fn encode(&self, recipe: &Recipe) -> Result<TextEmbedding, Error> {
        self.encode_by(&*self.text_encoder()?, recipe)
    }

    pub(crate) fn encode_by(&self, encoder: &TextEncoder, recipe: &Recipe) -> Result<TextEmbedding, Error> {
        let takes_negative = takes_negative(&self.folder.transformer.0, recipe.guidance);
        let negative = takes_negative.then_some(recipe.negative_prompt.as_str());
        self.encode_with(encoder, &recipe.prompt, negative, MAX_SEQUENCE_LENGTH, true)
    }

    /// Encodes with another number of rows, or without the instruction.
    pub(crate) fn encode_with(
        &self,
        encoder: &TextEncoder,
        prompt: &str,
        negative: Option<&str>,
        rows: usize,
        instruction: bool,
    ) -> Result<TextEmbedding, Error> {
        let tokenizer = &self.folder.tokenizer;
        let tokens = if instruction {
            tokenizer.with_instruction(prompt, rows)?
        } else {
            tokenizer.plain(prompt, rows)?
        };
        let negative = negative.map(|negative| tokenizer.plain(negative, rows)).transpose()?;
        self.work(|| {
            let negative = negative.map(|tokens| encoder.embed(&tokens)).transpose()?;
            Ok(TextEmbedding { positive: encoder.embed(&tokens)?, negative })
        })
    }

    /// Runs all denoising steps; `on_step(done)` is called after each and stops the work with `Break`.
    pub fn denoise(
        &self,
        recipe: &Recipe,
        text: &TextEmbedding,
        on_step: &mut (dyn FnMut(u32) -> ControlFlow<()> + Send),
    ) -> Result<Latent, Error> {
        let mut on_step = |_: usize, done: u32| on_step(done);
        let latents = self.denoise_batch(&[(recipe, text)], &mut on_step)?;
        latents.into_iter().next().unwrap_or_else(|| Err(no_latent()))
    }

    /// Runs all denoising steps of several pictures together: each step is one call of the transformer.
    ///
    /// They must agree in what they are computed with: size, number of steps and guidance. `on_step(picture, done)` is called
    /// after each step of each picture and stops this one with `Break`; it is left out of the next step. One that fails
    /// leaves the others alone, too; the call itself fails with what concerns all of them. On the CPU a latent is the same to
    /// the bit in any batch; on a device it may round differently.
    pub fn denoise_batch(
        &self,
        batch: &[(&Recipe, &TextEmbedding)],
        on_step: &mut (dyn FnMut(usize, u32) -> ControlFlow<()> + Send),
    ) -> Result<Vec<Result<Latent, Error>>, Error> {
        let mut observe = |picture: usize, done: u32, _: &Tensor| on_step(picture, done);
        self.denoise_by(&*self.transformer()?, batch, &mut observe)
    }

    pub(crate) fn denoise_by(
        &self,
        transformer: &Transformer,
        batch: &[(&Recipe, &TextEmbedding)],
        on_step: OnStep<'_>,
    ) -> Result<Vec<Result<Latent, Error>>, Error> {
        let [(first, _), others @ ..] = batch else { return Ok(Vec::new()) };
        let plan = self.plan(first)?;
        for (other, _) in others {
            let theirs = self.plan(other)?;
            let same_size =
                (theirs.compute_width, theirs.compute_height) == (plan.compute_width, plan.compute_height);
            if !same_size || (other.steps, other.guidance) != (first.steps, first.guidance) {
                return Err(Error::Setting(
                    "pictures of different size, steps or guidance cannot be denoised together".to_owned(),
                ));
            }
        }
        let starts = batch
            .iter()
            .map(|&(recipe, text)| Start { noise: self.noise(&plan, recipe.seed, 1), text })
            .collect();
        let latents = self.denoise_from(transformer, starts, first.steps, first.guidance, on_step)?;
        Ok(latents.into_iter().map(|latent| latent.map(|values| Latent { values })).collect())
    }

    /// Noise of `count` pictures from one generator.
    pub(crate) fn noise(&self, plan: &Plan, seed: u64, count: usize) -> Noise {
        Noise::new(&self.folder.transformer.0, plan, seed, count)
    }

    pub(crate) fn denoise_from(
        &self,
        transformer: &Transformer,
        starts: Vec<Start<'_>>,
        steps: u32,
        guidance: f64,
        on_step: OnStep<'_>,
    ) -> Result<Vec<Result<Tensor, Error>>, Error> {
        let denoiser = Denoiser { transformer, scheduler: &self.folder.scheduler };
        self.work(|| denoiser.run(starts, steps, guidance, on_step))
    }

    /// Decodes into `recipe.height` rows of `recipe.width * 3` bytes RGB, handed out in order as soon as they
    /// are final, one or more whole rows a call.
    pub fn decode(
        &self,
        recipe: &Recipe,
        latent: &Latent,
        rows: &mut (dyn FnMut(&[u8]) -> std::io::Result<()> + Send),
    ) -> Result<(), Error> {
        self.decode_tiled(&self.plan(recipe)?, latent, Tiling::from(recipe.decode), rows)
    }

    /// Decodes with a tiling of the caller's choice.
    pub fn decode_tiled(
        &self,
        plan: &Plan,
        latent: &Latent,
        tiling: Tiling,
        rows: &mut (dyn FnMut(&[u8]) -> std::io::Result<()> + Send),
    ) -> Result<(), Error> {
        self.decode_by(&*self.held_decoder()?, plan, latent, tiling, &Cancel::default(), rows)
    }

    pub(crate) fn decode_by(
        &self,
        decoder: &Decoder,
        plan: &Plan,
        latent: &Latent,
        tiling: Tiling,
        cancel: &Cancel,
        rows: &mut (dyn FnMut(&[u8]) -> std::io::Result<()> + Send),
    ) -> Result<(), Error> {
        let latent = (&latent.values / decoder.scaling_factor())?;
        let mut picture = Rows::new(plan);
        self.work(|| {
            decoder.decode(&latent, tiling, &mut |band: &Tensor| -> Result<(), Error> {
                cancel.check()?;
                picture.push_band(band, rows)
            })
        })?;
        picture.finish()
    }

    /// Runs a part of the work where it is quickest. On a device it stays on this thread: those of the pool would wait for
    /// the device, and there may be more devices than threads.
    fn work<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        if self.folder.transformer.1.placement().by_kernels() { work() } else { on_pool(work) }
    }

    /// The decoder alone, if it is resident.
    pub fn decoder(&self) -> Option<&Decoder> {
        self.resident.as_ref().map(|parts| &parts.decoder)
    }

    /// The scheduler's configuration and the side of the trained latent.
    pub(crate) fn parts(&self) -> (&SchedulerConfig, usize) {
        (&self.folder.scheduler, self.folder.transformer.0.sample_size)
    }

    /// Bytes of weights that stay in memory, as packed for the kernels.
    pub fn resident_bytes(&self) -> usize {
        let bytes =
            |parts: &Parts| parts.text_encoder.bytes() + parts.transformer.bytes() + parts.decoder.bytes();
        self.resident.as_ref().map_or(0, bytes)
    }
}

fn no_latent() -> Error {
    Error::Setting("no latent came out of the denoising".to_owned())
}

/// Runs `work` on a thread of the pool. From outside, each of its hundreds of parallel loops would wake the pool and
/// wait for it; on a small model that is a fifth of the time.
pub(crate) fn on_pool<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    rayon::scope(|_| work())
}

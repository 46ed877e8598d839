//! From a recipe to a picture.

use std::ops::ControlFlow;
use std::path::Path;

use candle_core::{Device, Tensor};

use crate::autoencoder::{Decoder, Tiling};
use crate::config::SchedulerConfig;
use crate::model::{Folder, ModelInfo};
use crate::noise::Generator;
use crate::postprocess::Rows;
use crate::prompt::{MAX_SEQUENCE_LENGTH, PromptTokenizer};
use crate::scheduler::FlowDpmSolver;
use crate::size::{LATENT_SCALE, Plan, plan};
use crate::text_encoder::{Embedding, TextEncoder};
use crate::transformer::{Sequence, Text, Transformer};
use crate::{DecodeMode, Error, Placement, Recipe};

/// Text of a recipe as the transformer takes it.
#[derive(Clone, Debug)]
pub struct TextEmbedding {
    pub(crate) positive: Embedding,
    /// Only with guidance.
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
        Self::load_on(dir, &Placement::cpu())
    }

    /// Loads a folder in the diffusers layout to a device.
    pub fn load_on(dir: &Path, placement: &Placement) -> Result<Self, Error> {
        let folder = Folder::open(dir)?.placed(placement);
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

    /// Encodes the prompt, and the negative prompt when guidance is above 1.
    pub fn encode(&self, recipe: &Recipe) -> Result<TextEmbedding, Error> {
        let negative = guided(recipe.guidance).then_some(recipe.negative_prompt.as_str());
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
        let plan = self.plan(recipe)?;
        let noise = self.noise(&plan, recipe.seed, 1)?;
        let mut observe = |done: u32, _: &[Tensor]| on_step(done);
        let (steps, guidance) = (recipe.steps, recipe.guidance);
        let latents = on_pool(|| self.denoise_from(noise, text, steps, guidance, &mut observe))?;
        let Some(values) = latents.into_iter().next() else {
            return Err(Error::Setting("no latent came out of the denoising".to_owned()));
        };
        let sum = values.sqr()?.sum_all()?.to_scalar::<f32>()?;
        if !sum.is_finite() {
            return Err(Error::Numeric(format!(
                "the latent is not finite after {} steps; the weights may be of another precision or broken",
                recipe.steps
            )));
        }
        Ok(Latent { values })
    }

    /// Starting noise of `count` pictures from one generator, as torch draws `[count, channels, height, width]`.
    pub(crate) fn noise(&self, plan: &Plan, seed: u64, count: usize) -> Result<Vec<Tensor>, Error> {
        let (height, width) =
            ((plan.compute_height / LATENT_SCALE) as usize, (plan.compute_width / LATENT_SCALE) as usize);
        let channels = self.transformer.config().in_channels;
        let values = Generator::new(seed).randn(count * channels * height * width);
        let all = Tensor::from_vec(values, (count, channels, height, width), &Device::Cpu)?;
        (0..count).map(|index| Ok(all.get(index)?.permute((1, 2, 0))?.contiguous()?)).collect()
    }

    /// Denoises latents that share a text.
    pub(crate) fn denoise_from(
        &self,
        mut latents: Vec<Tensor>,
        text: &TextEmbedding,
        steps: u32,
        guidance: f64,
        observe: &mut (dyn FnMut(u32, &[Tensor]) -> ControlFlow<()> + Send),
    ) -> Result<Vec<Tensor>, Error> {
        let positive = self.transformer.prepare(&text.positive.rows, None)?;
        let negative = match &text.negative {
            Some(negative) if guided(guidance) => Some(self.transformer.prepare(&negative.rows, None)?),
            Some(_) | None => None,
        };
        let mut solvers = latents
            .iter()
            .map(|_| FlowDpmSolver::new(&self.scheduler, steps))
            .collect::<Result<Vec<_>, _>>()?;
        for step in 0..steps {
            for (latent, solver) in latents.iter_mut().zip(&mut solvers) {
                let timestep = solver.timesteps()[step as usize] as f32;
                let velocity = self.velocity(latent, &positive, negative.as_ref(), timestep, guidance)?;
                *latent = solver.step(step as usize, &velocity, latent)?;
            }
            if observe(step + 1, &latents).is_break() {
                return Err(Error::Cancelled);
            }
        }
        Ok(latents)
    }

    fn velocity(
        &self,
        latent: &Tensor,
        positive: &Text,
        negative: Option<&Text>,
        timestep: f32,
        guidance: f64,
    ) -> Result<Tensor, Error> {
        let sequence = |text| Sequence { latent, text, timestep };
        let sequences: Vec<_> = [Some(positive), negative].into_iter().flatten().map(sequence).collect();
        let outputs = self.transformer.forward(&sequences, None)?;
        match outputs.as_slice() {
            [only] => Ok(only.clone()),
            [positive, negative] => Ok((negative + ((positive - negative)? * guidance)?)?),
            _ => Err(Error::Setting("the transformer gave no output".to_owned())),
        }
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
                picture.push_band(band, rows)
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

/// Guidance of 1 and less needs no negative prompt.
pub(crate) fn guided(guidance: f64) -> bool {
    guidance > 1.0
}

//! From noise to latents: the steps of a scheduler with the transformer.

use std::cell::RefCell;
use std::ops::ControlFlow;

use candle_core::{Device, Tensor};

use crate::config::{SchedulerConfig, TransformerConfig};
use crate::noise::Generator;
use crate::ops::to_vec;
use crate::scheduler::{Scheduler, scheduler};
use crate::size::{LATENT_SCALE, Plan};
use crate::transformer::{Observer, Sequence, Text, Transformer};
use crate::{Error, TextEmbedding};

/// Told the number of steps done and the samples; stops the work with `Break`.
pub(crate) type OnStep<'a> = &'a mut (dyn FnMut(u32, &[Tensor]) -> ControlFlow<()> + Send);

/// Normal noise of some pictures from one generator, as torch draws `[count, channels, height, width]`.
#[derive(Clone, Debug)]
pub(crate) struct Noise {
    generator: Generator,
    shape: (usize, usize, usize, usize),
}

impl Noise {
    pub fn new(config: &TransformerConfig, plan: &Plan, seed: u64, count: usize) -> Self {
        let side = |pixels: u32| (pixels / LATENT_SCALE) as usize;
        let shape = (count, config.in_channels, side(plan.compute_height), side(plan.compute_width));
        Self { generator: Generator::new(seed), shape }
    }

    /// The next noise of each picture, `[height, width, channels]`.
    pub fn draw(&mut self) -> Result<Vec<Tensor>, Error> {
        let (count, channels, height, width) = self.shape;
        let values = self.generator.randn(count * channels * height * width);
        let all = Tensor::from_vec(values, self.shape, &Device::Cpu)?;
        (0..count).map(|index| Ok(all.get(index)?.permute((1, 2, 0))?.contiguous()?)).collect()
    }
}

/// Guidance by two calls: above 1, and not in a model that is told it.
pub(crate) fn takes_negative(config: &TransformerConfig, guidance: f64) -> bool {
    config.guidance_scale.is_none() && guidance > 1.0
}

/// The parts that denoise.
#[derive(Clone, Copy)]
pub(crate) struct Denoiser<'a> {
    pub transformer: &'a Transformer,
    pub scheduler: &'a SchedulerConfig,
}

/// A sample of one picture on its way.
struct Sample {
    values: Tensor,
    scheduler: Box<dyn Scheduler>,
}

impl Denoiser<'_> {
    /// Denoises pictures that share a text. Each step draws its noise, where it takes some, from the generator that made
    /// the first.
    pub fn run(
        &self,
        mut noise: Noise,
        text: &TextEmbedding,
        steps: u32,
        guidance: f64,
        on_step: OnStep<'_>,
    ) -> Result<Vec<Tensor>, Error> {
        if !guidance.is_finite() || guidance < 0.0 {
            return Err(Error::Setting(format!("guidance is {guidance}; choose a number from 0")));
        }
        let config = self.transformer.config();
        let negative = text.negative.as_ref().filter(|_| takes_negative(config, guidance));
        let embeddings: Vec<&Tensor> =
            std::iter::once(&text.positive.rows).chain(negative.map(|text| &text.rows)).collect();
        let texts = self.prepare(&embeddings, None)?;

        let start = |values| {
            let scheduler = scheduler(self.scheduler, steps)?;
            Ok(Sample { values: scheduler.start(values)?, scheduler })
        };
        let mut samples = noise.draw()?.into_iter().map(start).collect::<Result<Vec<_>, Error>>()?;
        for step in 0..steps as usize {
            let takes_noise = samples.first().is_some_and(|sample| sample.scheduler.takes_noise(step));
            let fresh = if takes_noise { noise.draw()? } else { Vec::new() };
            for (index, sample) in samples.iter_mut().enumerate() {
                let call = Call {
                    input: sample.scheduler.input(step, &sample.values)?,
                    timestep: sample.scheduler.timesteps()[step],
                    guidance,
                };
                let output = self.output(&call, &texts, None)?;
                let next = sample.scheduler.step(step, &output, &sample.values, fresh.get(index))?;
                if !finite(&next)? {
                    let group = self.culprit(&call, &embeddings)?;
                    return Err(Error::NotFinite { step: Some((step as u32 + 1, steps)), group });
                }
                sample.values = next;
            }
            let values: Vec<Tensor> = samples.iter().map(|sample| sample.values.clone()).collect();
            if on_step(step as u32 + 1, &values).is_break() {
                return Err(Error::Cancelled);
            }
        }
        samples.into_iter().map(|sample| Ok(sample.scheduler.finish(sample.values)?)).collect()
    }

    fn prepare(&self, embeddings: &[&Tensor], observer: Option<Observer<'_>>) -> Result<Vec<Text>, Error> {
        embeddings.iter().map(|rows| Ok(self.transformer.prepare(rows, observer)?)).collect()
    }

    /// The model's output, guided when there is a negative text after the positive one.
    fn output(&self, call: &Call, texts: &[Text], observer: Option<Observer<'_>>) -> Result<Tensor, Error> {
        let told = self.transformer.config().guidance_scale;
        let guidance = told.map(|scale| call.guidance as f32 * scale as f32);
        let sequence = |text| Sequence { latent: &call.input, text, timestep: call.timestep, guidance };
        let sequences: Vec<_> = texts.iter().map(sequence).collect();
        let outputs = self.transformer.forward(&sequences, observer)?;
        match outputs.as_slice() {
            [only] => Ok(only.clone()),
            [positive, negative] => Ok((negative + ((positive - negative)? * call.guidance)?)?),
            _ => Err(Error::Setting("the transformer gave no output".to_owned())),
        }
    }

    /// Repeats a call to find the first module whose result is not finite.
    fn culprit(&self, call: &Call, embeddings: &[&Tensor]) -> Result<String, Error> {
        let first = RefCell::new(None);
        let observe = |name: &str, value: &Tensor| {
            if first.borrow().is_none() && !finite(value)? {
                *first.borrow_mut() = Some(name.to_owned());
            }
            Ok(())
        };
        let texts = self.prepare(embeddings, Some(&observe))?;
        self.output(call, &texts, Some(&observe))?;
        // With a finite output it is the step itself.
        Ok(first.into_inner().unwrap_or_else(|| "scheduler".to_owned()))
    }
}

/// What the model is asked in a step.
struct Call {
    input: Tensor,
    timestep: f32,
    guidance: f64,
}

/// Whether all values are numbers and none is infinite.
pub(crate) fn finite(tensor: &Tensor) -> candle_core::Result<bool> {
    Ok(to_vec(tensor)?.iter().all(|value| value.is_finite()))
}

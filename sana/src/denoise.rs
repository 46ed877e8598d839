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

/// Told the number of a picture, of its steps done and its sample; stops this picture with `Break`.
pub(crate) type OnStep<'a> = &'a mut (dyn FnMut(usize, u32, &Tensor) -> ControlFlow<()> + Send);

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

/// Pictures that share a text and a generator.
pub(crate) struct Start<'a> {
    pub noise: Noise,
    pub text: &'a TextEmbedding,
}

/// A sample of one picture on its way.
struct Sample<'a> {
    /// Among all pictures of the call.
    picture: usize,
    /// Its start, and its place there.
    start: usize,
    place: usize,
    embeddings: &'a [&'a Tensor],
    texts: &'a [Text],
    values: Tensor,
    scheduler: Box<dyn Scheduler>,
}

impl Denoiser<'_> {
    /// Denoises pictures of one size together: each step is one call of the transformer. Each step draws its noise, where
    /// it takes some, from the generator that made the first. A picture that fails or is stopped leaves the others to go
    /// on; the call itself fails with what concerns all of them.
    pub fn run(
        &self,
        mut starts: Vec<Start<'_>>,
        steps: u32,
        guidance: f64,
        on_step: OnStep<'_>,
    ) -> Result<Vec<Result<Tensor, Error>>, Error> {
        if !guidance.is_finite() || guidance < 0.0 {
            return Err(Error::Setting(format!("guidance is {guidance}; choose a number from 0")));
        }
        let config = self.transformer.config();
        let embeddings: Vec<Vec<&Tensor>> = starts
            .iter()
            .map(|start| {
                let negative = start.text.negative.as_ref().filter(|_| takes_negative(config, guidance));
                std::iter::once(&start.text.positive.rows).chain(negative.map(|text| &text.rows)).collect()
            })
            .collect();
        let texts = embeddings
            .iter()
            .map(|embeddings| self.prepare(embeddings, None))
            .collect::<Result<Vec<_>, Error>>()?;

        let mut samples = Vec::new();
        for (start, ((embeddings, texts), Start { noise, .. })) in
            embeddings.iter().zip(&texts).zip(&mut starts).enumerate()
        {
            for (place, values) in noise.draw()?.into_iter().enumerate() {
                let scheduler = scheduler(self.scheduler, steps)?;
                let values = scheduler.start(values)?;
                let picture = samples.len();
                samples.push(Sample { picture, start, place, embeddings, texts, values, scheduler });
            }
        }
        let mut latents: Vec<Option<Result<Tensor, Error>>> = samples.iter().map(|_| None).collect();
        for step in 0..steps as usize {
            let takes_noise = samples.first().is_some_and(|sample| sample.scheduler.takes_noise(step));
            let fresh = match takes_noise {
                true => starts.iter_mut().map(|start| start.noise.draw()).collect::<Result<Vec<_>, _>>()?,
                false => Vec::new(),
            };
            let calls = samples
                .iter()
                .map(|sample| {
                    Ok(Call {
                        input: sample.scheduler.input(step, &sample.values)?,
                        timestep: sample.scheduler.timesteps()[step],
                        guidance,
                        texts: sample.texts,
                    })
                })
                .collect::<Result<Vec<_>, Error>>()?;
            let outputs = self.outputs(&calls, None)?;
            let mut left = Vec::with_capacity(samples.len());
            for ((mut sample, call), output) in samples.into_iter().zip(&calls).zip(&outputs) {
                let noise = fresh.get(sample.start).and_then(|noises| noises.get(sample.place));
                let next = sample.scheduler.step(step, output, &sample.values, noise)?;
                let done = step as u32 + 1;
                if !finite(&next)? {
                    let group = self.culprit(call, sample.embeddings)?;
                    latents[sample.picture] =
                        Some(Err(Error::NotFinite { step: Some((done, steps)), group }));
                    continue;
                }
                sample.values = next;
                match on_step(sample.picture, done, &sample.values) {
                    ControlFlow::Continue(()) => left.push(sample),
                    ControlFlow::Break(()) => latents[sample.picture] = Some(Err(Error::Cancelled)),
                }
            }
            samples = left;
            if samples.is_empty() {
                break;
            }
        }
        for sample in samples {
            latents[sample.picture] = Some(Ok(sample.scheduler.finish(sample.values)?));
        }
        Ok(latents.into_iter().flatten().collect())
    }

    fn prepare(&self, embeddings: &[&Tensor], observer: Option<Observer<'_>>) -> Result<Vec<Text>, Error> {
        embeddings.iter().map(|rows| Ok(self.transformer.prepare(rows, observer)?)).collect()
    }

    /// The model's output for each call, guided where there is a negative text after the positive one.
    fn outputs(&self, calls: &[Call<'_>], observer: Option<Observer<'_>>) -> Result<Vec<Tensor>, Error> {
        let told = self.transformer.config().guidance_scale;
        let sequences: Vec<_> = calls
            .iter()
            .flat_map(|call| {
                let guidance = told.map(|scale| call.guidance as f32 * scale as f32);
                let sequence =
                    move |text| Sequence { latent: &call.input, text, timestep: call.timestep, guidance };
                call.texts.iter().map(sequence)
            })
            .collect();
        let outputs = self.transformer.forward(&sequences, observer)?;
        let mut rest = outputs.as_slice();
        let mut guided = Vec::with_capacity(calls.len());
        for call in calls {
            let own;
            (own, rest) = rest.split_at_checked(call.texts.len()).unwrap_or_default();
            guided.push(match own {
                [only] => only.clone(),
                [positive, negative] => (negative + ((positive - negative)? * call.guidance)?)?,
                _ => return Err(Error::Setting("the transformer gave no output".to_owned())),
            });
        }
        Ok(guided)
    }

    /// Repeats a call to find the first module whose result is not finite.
    fn culprit(&self, call: &Call<'_>, embeddings: &[&Tensor]) -> Result<String, Error> {
        let first = RefCell::new(None);
        let observe = |name: &str, value: &Tensor| {
            if first.borrow().is_none() && !finite(value)? {
                *first.borrow_mut() = Some(name.to_owned());
            }
            Ok(())
        };
        let texts = self.prepare(embeddings, Some(&observe))?;
        self.outputs(&[Call { input: call.input.clone(), texts: &texts, ..*call }], Some(&observe))?;
        // With a finite output it is the step itself.
        Ok(first.into_inner().unwrap_or_else(|| "scheduler".to_owned()))
    }
}

/// What the model is asked in a step for one picture.
struct Call<'a> {
    input: Tensor,
    timestep: f32,
    guidance: f64,
    texts: &'a [Text],
}

/// Whether all values are numbers and none is infinite.
pub(crate) fn finite(tensor: &Tensor) -> candle_core::Result<bool> {
    Ok(to_vec(tensor)?.iter().all(|value| value.is_finite()))
}

//! Whole pipelines: from prompt and seed over embeddings and latents to the bytes of the picture.

use std::ops::ControlFlow;

use candle_core::{DType, IndexOp, Tensor};
use serde::Deserialize;
use serde_json::Value;

use super::case::{Case, values};
use super::report::Report;
use crate::autoencoder::Tiling;
use crate::config::SchedulerConfig;
use crate::denoise::Start;
use crate::scheduler::scheduler;
use crate::size::plan;
use crate::{BinMode, Error, Family, Latent, Memory, Pipeline};

/// Bytes of a picture may be one level off, this share of them.
const BYTES_OFF: f64 = 0.001;

/// A call of the reference pipeline.
#[derive(Deserialize)]
struct Call {
    prompt: String,
    #[serde(default)]
    negative_prompt: String,
    max_sequence_length: usize,
    complex_human_instruction: Option<Value>,
    height: u32,
    width: u32,
    num_inference_steps: u32,
    guidance_scale: f64,
    #[serde(default = "one")]
    num_images_per_prompt: usize,
    #[serde(default = "yes")]
    use_resolution_binning: bool,
}

fn one() -> usize {
    1
}

fn yes() -> bool {
    true
}

pub(super) fn check(case: &Case, report: &mut Report) -> Result<(), Error> {
    let pipeline = Pipeline::load_on(&case.dir.join("model"), Memory::Resident, &case.placement)?;
    let calls: serde_json::Map<String, Value> = case.config("calls")?;
    let seeds: serde_json::Map<String, Value> = case.config("seeds")?;
    for (name, call) in &calls {
        let call = Call::deserialize(call).map_err(|e| Error::Model(format!("call {name}: {e}")))?;
        let seed = seeds.get(name).and_then(Value::as_u64);
        let seed = seed.ok_or_else(|| Error::Model(format!("call {name} has no seed")))?;
        check_call(case, report, &pipeline, name, &call, seed)?;
    }
    Ok(())
}

fn check_call(
    case: &Case,
    report: &mut Report,
    pipeline: &Pipeline,
    name: &str,
    call: &Call,
    seed: u64,
) -> Result<(), Error> {
    let tolerance = case.tolerance("latents");
    let sprint = pipeline.info().family == Family::Sprint;
    let guided = call.guidance_scale > 1.0 && !sprint;
    let text = pipeline.encode_with(
        &*pipeline.text_encoder()?,
        &call.prompt,
        guided.then_some(call.negative_prompt.as_str()),
        call.max_sequence_length,
        call.complex_human_instruction.is_some(),
    )?;

    // With guidance the library puts the negative prompts in front; pictures of one prompt repeat it.
    let mut rows = Vec::new();
    for embedding in text.negative.iter().chain([&text.positive]) {
        for _ in 0..call.num_images_per_prompt {
            rows.extend(values(&embedding.rows)?);
        }
    }
    let embeds = format!("mid.{name}.prompt_embeds");
    let mask = case.tensor(&format!("mid.{name}.prompt_mask"))?.to_dtype(DType::U32)?.to_vec2::<u32>()?;
    report.compare(&embeds, &rows, &masked(case.tensor(&embeds)?, &mask)?, tolerance)?;

    let bin = if call.use_resolution_binning { BinMode::Always } else { BinMode::Never };
    let plan = plan(call.width, call.height, bin, pipeline.sample_size())?;
    let noise = pipeline.noise(&plan, seed, call.num_images_per_prompt);
    let initial = format!("mid.{name}.initial_noise");
    let first = channels_first(&noise.clone().draw()?)?;
    // Vectorised logarithms and sines differ by this much (reference section 6).
    report.compare(&initial, &first, case.tensor(&initial)?, 2.4e-7)?;
    let scheduler = scheduler(pipeline.scheduler(), call.num_inference_steps)?;
    let timesteps = format!("mid.{name}.timesteps");
    // Those of Sprint are quotients of sines and cosines.
    let exact = if sprint { f64::from(f32::EPSILON) } else { 0.0 };
    report.compare(&timesteps, scheduler.timesteps(), case.tensor(&timesteps)?, exact)?;

    let mut trace = Vec::new();
    let mut failed = None;
    let mut observe = |_: usize, _: u32, latent: &Tensor| match channels_first(std::slice::from_ref(latent)) {
        Ok(values) => {
            trace.extend(values);
            ControlFlow::Continue(())
        }
        Err(error) => {
            failed = Some(error);
            ControlFlow::Break(())
        }
    };
    let starts = vec![Start { noise, text: &text }];
    let (steps, guidance) = (call.num_inference_steps, call.guidance_scale);
    let latents = pipeline.denoise_from(&*pipeline.transformer()?, starts, steps, guidance, &mut observe);
    if let Some(error) = failed {
        return Err(error);
    }
    let latents = latents?.into_iter().collect::<Result<Vec<_>, _>>()?;
    let each = format!("mid.{name}.latents");
    report.compare(&each, &trace, case.tensor(&each)?, tolerance)?;
    let last = format!("out.{name}.latents");
    report.compare(&last, &channels_first(&latents)?, case.tensor(&last)?, tolerance)?;

    let decoded = format!("mid.{name}.decoded");
    if case.has(&decoded) {
        let decoder = pipeline.held_decoder()?;
        let mut pictures = Vec::new();
        for latent in &latents {
            let latent = (latent / decoder.scaling_factor())?;
            pictures.push(decoder.decode_whole(&latent, None)?);
        }
        report.compare(
            &decoded,
            &channels_first(&pictures)?,
            case.tensor(&decoded)?,
            case.tolerance("decoded"),
        )?;
    }
    let image = format!("out.{name}.image");
    for tiling in [Tiling::Bands(None), Tiling::Whole] {
        let mut bytes = Vec::new();
        for values in &latents {
            let latent = Latent { values: values.clone() };
            pipeline.decode_tiled(&plan, &latent, tiling, &mut |rows| {
                bytes.extend_from_slice(rows);
                Ok(())
            })?;
        }
        report.compare_bytes(&image, &bytes, case.tensor(&image)?, 1, BYTES_OFF)?;
    }
    Ok(())
}

/// Rows of `[batch, tokens, hidden]` whose mask is 1.
fn masked(embeds: &Tensor, mask: &[Vec<u32>]) -> Result<Tensor, Error> {
    let mut rows = Vec::new();
    for (index, mask) in mask.iter().enumerate() {
        let count = mask.iter().filter(|bit| **bit == 1).count();
        rows.push(embeds.i((index, ..count))?);
    }
    Ok(Tensor::cat(&rows, 0)?)
}

/// Values of pictures with the channels first, one after the other.
fn channels_first(pictures: &[Tensor]) -> Result<Vec<f32>, Error> {
    let mut all = Vec::new();
    for picture in pictures {
        all.extend(values(&picture.permute((2, 0, 1))?.contiguous()?)?);
    }
    Ok(all)
}

impl Pipeline {
    fn scheduler(&self) -> &SchedulerConfig {
        self.parts().0
    }

    fn sample_size(&self) -> usize {
        self.parts().1
    }
}

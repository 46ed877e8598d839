//! Schedulers: noise levels, timesteps, trajectories for given and for closed-loop velocities.

use std::collections::BTreeMap;

use candle_core::{IndexOp, Tensor};
use serde::Deserialize;

use super::case::{Case, values};
use super::report::Report;
use crate::Error;
use crate::config::{FlowConfig, SchedulerConfig, ScmConfig};
use crate::noise::Generator;
use crate::scheduler::{Scheduler, Scm, scheduler};

pub(super) fn check(case: &Case, report: &mut Report) -> Result<(), Error> {
    let config = SchedulerConfig::from_value(case.config("scheduler")?, &case.config_path())?;
    match &config {
        SchedulerConfig::Scm(config) => check_scm(case, report, config),
        SchedulerConfig::FlowDpm(_) | SchedulerConfig::FlowEuler(_) => check_flow(case, report, &config),
    }
}

fn check_flow(case: &Case, report: &mut Report, config: &SchedulerConfig) -> Result<(), Error> {
    for key in case.names_between("out.", ".sigmas") {
        let solver = solver(config, key)?;
        let name = format!("out.{key}.sigmas");
        report.compare(&name, solver.levels(), case.tensor(&name)?, case.tolerance("sigmas"))?;
        let name = format!("out.{key}.timesteps");
        report.compare(&name, solver.timesteps(), case.tensor(&name)?, case.tolerance("timesteps"))?;
    }
    for key in case.names_between("out.", ".samples") {
        let mut solver = solver(config, key)?;
        let mut sample = case.tensor(&format!("in.{key}.sample"))?.clone();
        let mut samples = Vec::new();
        for i in 0..solver.timesteps().len() {
            let velocity = velocity(case, key, i, solver.levels()[i], &sample)?;
            sample = solver.step(i, &velocity, &sample, None)?;
            samples.extend(values(&sample)?);
        }
        let name = format!("out.{key}.samples");
        report.compare(&name, &samples, case.tensor(&name)?, case.tolerance("samples"))?;
    }
    Ok(())
}

/// For a key such as `shift3.steps20` or `closed.shift3.steps20`.
fn solver(config: &SchedulerConfig, key: &str) -> Result<Box<dyn Scheduler>, Error> {
    let parsed = key.rsplit_once(".steps").and_then(|(shift, steps)| {
        let (_, shift) = shift.rsplit_once("shift")?;
        Some((shift.parse().ok()?, steps.parse().ok()?))
    });
    let (shift, steps) =
        parsed.ok_or_else(|| Error::Model(format!("tensor name part {key} has no shift and steps")))?;
    let mut config = config.clone();
    if let SchedulerConfig::FlowDpm(flow) | SchedulerConfig::FlowEuler(flow) = &mut config {
        *flow = FlowConfig { shift, ..*flow };
    }
    scheduler(&config, steps)
}

fn velocity(case: &Case, key: &str, i: usize, sigma: f32, sample: &Tensor) -> Result<Tensor, Error> {
    if !key.starts_with("closed.") {
        return Ok(case.tensor(&format!("in.{key}.model_outputs"))?.i(i)?);
    }
    let target = case.tensor(&format!("in.{key}.target"))?.tanh()?;
    Ok(((sample - target)? / f64::from(sigma.max(0.05)))?)
}

/// How a run of the Sprint scheduler is set up.
#[derive(Deserialize)]
struct Run {
    num_inference_steps: u32,
    max_timesteps: Option<f32>,
    intermediate_timesteps: Option<f32>,
    timesteps: Option<Vec<f32>>,
}

impl Run {
    fn scheduler(&self, config: &ScmConfig) -> Result<Scm, Error> {
        match (&self.timesteps, self.max_timesteps, self.intermediate_timesteps) {
            (Some(angles), ..) => Scm::with_angles(config, angles.clone()),
            (None, Some(first), Some(middle)) => Scm::with_angles(config, vec![first, middle, 0.0]),
            (None, Some(first), None) => Scm::even(config, first, self.num_inference_steps),
            (None, None, _) => Scm::new(config, self.num_inference_steps),
        }
    }
}

fn check_scm(case: &Case, report: &mut Report, config: &ScmConfig) -> Result<(), Error> {
    let seed = case.config("noise_seed")?;
    for (key, run) in case.config::<BTreeMap<String, Run>>("runs")? {
        let scm = run.scheduler(config)?;
        let steps = scm.timesteps().len();
        let name = |part: &str| format!("out.{key}.{part}");
        let scales: Vec<f32> = (0..steps).map(|step| scm.input_scale(step)).collect();
        for (part, got) in
            [("timesteps", scm.levels()), ("flow_time", scm.timesteps()), ("input_scale", &scales)]
        {
            // One unit in the last place above 1 is more than what the fixture states for all.
            let tolerance = case.tolerance("timesteps").max(f64::from(f32::EPSILON));
            report.compare(&name(part), got, case.tensor(&name(part))?, tolerance)?;
        }

        let mut sample = case.tensor(&format!("in.{key}.sample"))?.clone();
        let outputs = case.tensor(&format!("in.{key}.model_outputs"))?;
        let (mut generator, mut noises) = (Generator::new(seed), Vec::new());
        let (mut samples, mut latents) = (Vec::new(), Vec::new());
        for step in 0..steps {
            let noise = generator.randn(sample.elem_count());
            noises.extend_from_slice(&noise);
            let noise = Tensor::from_vec(noise, sample.dims(), sample.device())?;
            let noise = scm.takes_noise(step).then_some(&noise);
            let (next, latent) = scm.turn(step, &outputs.i(step)?, &sample, noise)?;
            samples.extend(values(&next)?);
            latents.extend(values(&latent)?);
            sample = next;
        }
        let noise = format!("mid.{key}.noise");
        // Vectorised logarithms and sines differ by this much (reference section 6).
        report.compare(&noise, &noises, case.tensor(&noise)?, 2.4e-7)?;
        for (part, got) in [("samples", samples), ("denoised", latents)] {
            report.compare(&name(part), &got, case.tensor(&name(part))?, case.tolerance("samples"))?;
        }
    }
    Ok(())
}

//! Schedulers: which noise levels the steps visit, and how a step moves the sample.
//!
//! Reference section 8. A pipeline knows only [`Scheduler`]; [`scheduler`] makes the one that a model folder names.

use candle_core::{Result, Tensor};

use crate::Error;
use crate::config::SchedulerConfig;

mod dpm_flow;
mod euler_flow;
mod scm;

pub use dpm_flow::FlowDpmSolver;
pub use euler_flow::FlowEuler;
pub use scm::Scm;

/// Takes one sample from noise to a latent, step by step from 0. Samples, noise and outputs of the model have one
/// shape.
pub trait Scheduler: std::fmt::Debug + Send {
    /// Noise levels: one before each step, then that of the latent.
    fn levels(&self) -> &[f32];

    /// What the model is told for each step.
    fn timesteps(&self) -> &[f32];

    /// The sample before the first step, from standard normal noise.
    fn start(&self, noise: Tensor) -> Result<Tensor> {
        Ok(noise)
    }

    /// What the model is given in this step.
    fn input(&self, _step: usize, sample: &Tensor) -> Result<Tensor> {
        Ok(sample.clone())
    }

    /// Whether the step takes fresh standard normal noise.
    fn takes_noise(&self, _step: usize) -> bool {
        false
    }

    /// The sample after the step, from the model's output for [`Self::input`]; `noise` is there when
    /// [`Self::takes_noise`] asks for it.
    fn step(
        &mut self,
        step: usize,
        output: &Tensor,
        sample: &Tensor,
        noise: Option<&Tensor>,
    ) -> std::result::Result<Tensor, Error>;

    /// The latent, from the sample after the last step.
    fn finish(&self, sample: Tensor) -> Result<Tensor> {
        Ok(sample)
    }
}

/// A scheduler for one picture in `steps` steps, which must be 1 to the number of timesteps of the training.
pub fn scheduler(config: &SchedulerConfig, steps: u32) -> std::result::Result<Box<dyn Scheduler>, Error> {
    Ok(match config {
        SchedulerConfig::FlowDpm(config) => Box::new(FlowDpmSolver::new(config, steps)?),
        SchedulerConfig::FlowEuler(config) => Box::new(FlowEuler::new(config, steps)?),
        SchedulerConfig::Scm(config) => Box::new(Scm::new(config, steps)?),
    })
}

fn check_steps(steps: u32, most: usize) -> std::result::Result<(), Error> {
    if steps == 0 || steps as usize > most {
        return Err(Error::Setting(format!("steps is {steps}; choose 1 to {most}")));
    }
    Ok(())
}

/// The levels before and after a step.
fn levels_of(step: usize, levels: &[f32]) -> std::result::Result<(f32, f32), Error> {
    match levels.get(step..step + 2) {
        Some(&[from, to]) => Ok((from, to)),
        Some(_) | None => Err(Error::Setting(format!("step {step} of {}", levels.len().saturating_sub(1)))),
    }
}

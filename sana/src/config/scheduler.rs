use std::path::Path;

use serde_json::Value;

use super::{Keys, known, read_json};
use crate::Error;

/// `scheduler/scheduler_config.json`.
#[derive(Clone, Debug, PartialEq)]
pub enum SchedulerConfig {
    /// Flow DPM-Solver++ (`DPMSolverMultistepScheduler`).
    FlowDpm(FlowConfig),
    /// Flow Euler (`FlowMatchEulerDiscreteScheduler`).
    FlowEuler(FlowConfig),
    /// Consistency steps of Sprint (`SCMScheduler`).
    Scm(ScmConfig),
}

/// Of a scheduler for flow models.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowConfig {
    /// How far the noise levels are pushed towards noise; 1 leaves them even.
    pub shift: f64,
    /// Timestep of pure noise.
    pub num_train_timesteps: usize,
}

/// Of the scheduler of Sprint.
#[derive(Clone, Debug, PartialEq)]
pub struct ScmConfig {
    /// Standard deviation of the latents that it was trained for.
    pub sigma_data: f64,
    /// Most steps.
    pub num_train_timesteps: usize,
}

impl SchedulerConfig {
    /// Reads the file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::from_value(read_json(path)?, path)
    }

    /// `origin` is the file that errors name. Without `_class_name` the `prediction_type` tells which it is.
    pub fn from_value(value: Value, origin: &Path) -> Result<Self, Error> {
        let keys = Keys::new(value, origin)?;
        let trigflow = keys.raw("prediction_type").is_some_and(|kind| kind == "trigflow");
        let default = if trigflow { "SCMScheduler" } else { "DPMSolverMultistepScheduler" };
        let class: String = keys.or("_class_name", default.to_owned())?;
        match class.as_str() {
            "DPMSolverMultistepScheduler" => flow_dpm(&keys).map(Self::FlowDpm),
            "FlowMatchEulerDiscreteScheduler" => flow_euler(&keys).map(Self::FlowEuler),
            "SCMScheduler" => scm(&keys).map(Self::Scm),
            _ => {
                let why = "only DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler and SCMScheduler \
                           are supported";
                Err(keys.error("_class_name", &class.into(), why))
            }
        }
    }

    /// The library's class.
    pub fn class_name(&self) -> &'static str {
        match self {
            Self::FlowDpm(_) => "DPMSolverMultistepScheduler",
            Self::FlowEuler(_) => "FlowMatchEulerDiscreteScheduler",
            Self::Scm(_) => "SCMScheduler",
        }
    }

    /// What recipes call it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::FlowDpm(_) => "flow-dpm-solver++",
            Self::FlowEuler(_) => "flow-euler",
            Self::Scm(_) => "scm",
        }
    }
}

fn flow_dpm(keys: &Keys) -> Result<FlowConfig, Error> {
    keys.only("algorithm_type", "dpmsolver++", "dpmsolver++")?;
    keys.only("solver_order", 2, 2)?;
    keys.only("solver_type", "midpoint", "midpoint")?;
    // The library's own defaults are for other models, so a Sana scheduler has to name these two.
    keys.only("prediction_type", "epsilon", "flow_prediction")?;
    keys.only("use_flow_sigmas", false, true)?;
    keys.only("final_sigmas_type", "zero", "zero")?;
    keys.only("variance_type", Value::Null, Value::Null)?;
    off(keys, &["use_lu_lambdas", "thresholding"])?;
    flow(keys, "flow_shift", known::FLOW_DPM)
}

fn flow_euler(keys: &Keys) -> Result<FlowConfig, Error> {
    keys.only("shift_terminal", Value::Null, Value::Null)?;
    off(keys, &["invert_sigmas", "stochastic_sampling"])?;
    flow(keys, "shift", known::FLOW_EULER)
}

fn flow(keys: &Keys, shift: &str, harmless: &[&str]) -> Result<FlowConfig, Error> {
    off(keys, &["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_dynamic_shifting"])?;
    let config = FlowConfig {
        shift: keys.positive(shift, 1.0)?,
        num_train_timesteps: keys.count("num_train_timesteps", 1000)?,
    };
    keys.finish(harmless)?;
    Ok(config)
}

fn scm(keys: &Keys) -> Result<ScmConfig, Error> {
    keys.only("prediction_type", "trigflow", "trigflow")?;
    let config = ScmConfig {
        sigma_data: keys.positive("sigma_data", 0.5)?,
        num_train_timesteps: keys.count("num_train_timesteps", 1000)?,
    };
    keys.finish(&[])?;
    Ok(config)
}

/// Refuses switches that are on.
fn off(keys: &Keys, switches: &[&str]) -> Result<(), Error> {
    switches.iter().try_for_each(|key| keys.only(key, false, false))
}

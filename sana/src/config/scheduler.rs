use std::path::Path;

use serde_json::Value;

use super::{Keys, read_json};
use crate::Error;

/// `scheduler/scheduler_config.json` of the flow DPM-Solver++.
#[derive(Clone, Debug, PartialEq)]
pub struct SchedulerConfig {
    /// How far the noise levels are pushed towards noise; 1 leaves them even.
    pub flow_shift: f64,
    /// Timestep of pure noise.
    pub num_train_timesteps: usize,
}

impl SchedulerConfig {
    /// Reads the file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::from_value(read_json(path)?, path)
    }

    /// `origin` is the file that errors name.
    pub fn from_value(value: Value, origin: &Path) -> Result<Self, Error> {
        let keys = Keys::new(value, origin)?;
        if keys.raw("_class_name").is_some_and(|name| name == "SCMScheduler") {
            return Err(Error::Model(format!(
                "_class_name is SCMScheduler in {}: it belongs to Sana Sprint, which comes in a later version",
                origin.display()
            )));
        }
        keys.only("_class_name", "DPMSolverMultistepScheduler", "DPMSolverMultistepScheduler")?;
        keys.only("algorithm_type", "dpmsolver++", "dpmsolver++")?;
        keys.only("solver_order", 2, 2)?;
        keys.only("solver_type", "midpoint", "midpoint")?;
        // The library's own defaults are for other models, so a Sana scheduler has to name these two.
        keys.only("prediction_type", "epsilon", "flow_prediction")?;
        keys.only("use_flow_sigmas", false, true)?;
        keys.only("final_sigmas_type", "zero", "zero")?;
        for key in [
            "use_karras_sigmas",
            "use_exponential_sigmas",
            "use_beta_sigmas",
            "use_lu_lambdas",
            "use_dynamic_shifting",
            "thresholding",
        ] {
            keys.only(key, false, false)?;
        }
        Ok(Self {
            flow_shift: keys.positive("flow_shift", 1.0)?,
            num_train_timesteps: keys.count("num_train_timesteps", 1000)?,
        })
    }
}

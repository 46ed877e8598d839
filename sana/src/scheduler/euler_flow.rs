use candle_core::Tensor;

use super::{Scheduler, check_steps, levels_of};
use crate::Error;
use crate::config::FlowConfig;

/// Euler's method for flow models: a straight step along the velocity.
#[derive(Debug)]
pub struct FlowEuler {
    sigmas: Vec<f32>,
    timesteps: Vec<f32>,
}

impl FlowEuler {
    /// A solver for one picture in `steps` steps.
    pub fn new(config: &FlowConfig, steps: u32) -> Result<Self, Error> {
        check_steps(steps, config.num_train_timesteps)?;
        let most = config.num_train_timesteps as f64;
        // The library shifts its first and its last level in f32 and all levels between them once more in f64.
        let end = |timestep: f32| {
            let (even, shift) = (timestep / most as f32, config.shift as f32);
            f64::from(shift * even / (1.0 + (config.shift - 1.0) as f32 * even)) * most
        };
        let (first, last) = (end(most as f32), end(1.0));
        let sigmas: Vec<f32> = (0..steps)
            .map(|i| {
                // The end is set and not computed, as in numpy's linspace.
                let timestep = if i > 0 && i + 1 == steps {
                    last
                } else {
                    f64::from(i) * ((last - first) / f64::from(steps.max(2) - 1)) + first
                };
                let even = timestep / most;
                (config.shift * even / (1.0 + (config.shift - 1.0) * even)) as f32
            })
            .collect();
        let timesteps = sigmas.iter().map(|sigma| sigma * most as f32).collect();
        Ok(Self { sigmas: sigmas.into_iter().chain([0.0]).collect(), timesteps })
    }
}

impl Scheduler for FlowEuler {
    fn levels(&self) -> &[f32] {
        &self.sigmas
    }

    fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    fn step(
        &mut self,
        step: usize,
        output: &Tensor,
        sample: &Tensor,
        _noise: Option<&Tensor>,
    ) -> Result<Tensor, Error> {
        let (from, to) = levels_of(step, &self.sigmas)?;
        Ok((sample + (output * f64::from(to - from))?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_fall_from_noise_to_none() {
        for steps in [1, 2, 20] {
            let solver =
                FlowEuler::new(&FlowConfig { shift: 3.0, num_train_timesteps: 1000 }, steps).unwrap();
            let levels = solver.levels();
            assert_eq!((levels.len(), levels[0], levels[steps as usize]), (steps as usize + 1, 1.0, 0.0));
            assert!(levels.windows(2).all(|pair| pair[1] < pair[0]), "{levels:?}");
        }
    }
}

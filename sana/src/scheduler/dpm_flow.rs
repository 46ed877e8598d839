use candle_core::Tensor;

use super::{Scheduler, check_steps, levels_of};
use crate::Error;
use crate::config::FlowConfig;

/// DPM-Solver++ of second order for flow models: midpoint, first order at both ends, down to noise 0.
#[derive(Debug)]
pub struct FlowDpmSolver {
    sigmas: Vec<f32>,
    timesteps: Vec<f32>,
    /// Denoised sample of the step before.
    previous: Option<Tensor>,
}

impl FlowDpmSolver {
    /// A solver for one picture in `steps` steps.
    pub fn new(config: &FlowConfig, steps: u32) -> Result<Self, Error> {
        check_steps(steps, config.num_train_timesteps)?;
        let most = config.num_train_timesteps as f64;
        let shift = config.shift;
        let span = 1.0 / most - 1.0;
        let shifted: Vec<f64> = (1..=steps)
            .rev()
            .map(|i| {
                // The end is set and not computed, as in numpy's linspace.
                let alpha =
                    if i == steps { 1.0 / most } else { f64::from(i) * (span / f64::from(steps)) + 1.0 };
                let even = 1.0 - alpha;
                shift * even / (1.0 + (shift - 1.0) * even)
            })
            .collect();
        // The model sees whole timesteps, cut off and not rounded; the solver sees the exact noise levels.
        let timesteps = shifted.iter().map(|sigma| (sigma * most).trunc() as f32).collect();
        let sigmas = shifted.iter().map(|sigma| *sigma as f32).chain([0.0]).collect();
        Ok(Self { sigmas, timesteps, previous: None })
    }
}

impl Scheduler for FlowDpmSolver {
    fn levels(&self) -> &[f32] {
        &self.sigmas
    }

    fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    fn step(
        &mut self,
        i: usize,
        velocity: &Tensor,
        sample: &Tensor,
        _noise: Option<&Tensor>,
    ) -> Result<Tensor, Error> {
        let (from, to) = levels_of(i, &self.sigmas)?;
        let (from, to) = (f64::from(from), f64::from(to));
        let denoised = (sample - (velocity * from)?)?;
        let next = if to == 0.0 {
            // The general formula has the same limit but passes infinity on the way.
            denoised.clone()
        } else {
            let h = log_snr(to) - log_snr(from);
            let e = (1.0 - to) * ((-h).exp() - 1.0);
            let first = ((sample * (to / from))? - (&denoised * e)?)?;
            match &self.previous {
                Some(previous) if i > 0 => {
                    let r = (log_snr(from) - log_snr(f64::from(self.sigmas[i - 1]))) / h;
                    (first - ((&denoised - previous)? * (0.5 * e / r))?)?
                }
                Some(_) | None => first,
            }
        };
        self.previous = Some(denoised);
        Ok(next)
    }
}

/// Half the logarithm of signal over noise.
fn log_snr(sigma: f64) -> f64 {
    (1.0 - sigma).ln() - sigma.ln()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn solver(steps: u32) -> Result<FlowDpmSolver, Error> {
        FlowDpmSolver::new(&FlowConfig { shift: 3.0, num_train_timesteps: 1000 }, steps)
    }

    #[test]
    fn timesteps_of_twenty_steps_are_those_of_the_library() {
        let steps = solver(20).unwrap();
        assert_eq!(steps.timesteps()[..5], [999.0, 982.0, 963.0, 944.0, 922.0]);
        assert_eq!(steps.timesteps()[18..], [249.0, 136.0]);
    }

    #[test]
    fn a_true_velocity_leads_to_the_picture() {
        let picture = Tensor::new(&[0.5_f32, -1.0, 0.25], &Device::Cpu).unwrap();
        let mut sample = Tensor::new(&[1.0_f32, 0.5, -2.0], &Device::Cpu).unwrap();
        let mut solver = solver(7).unwrap();
        for i in 0..7 {
            let sigma = f64::from(solver.levels()[i]);
            let velocity = ((&sample - &picture).unwrap() / sigma).unwrap();
            sample = solver.step(i, &velocity, &sample, None).unwrap();
        }
        let off = (sample - picture).unwrap().abs().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
        assert!(off < 1e-6, "{off}");
    }

    #[test]
    fn no_steps_and_too_many_steps_are_refused() {
        assert!(matches!(solver(0), Err(Error::Setting(_))));
        assert!(matches!(solver(1001), Err(Error::Setting(_))));
        assert_eq!(solver(1000).unwrap().timesteps().len(), 1000);
    }
}

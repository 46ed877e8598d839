use std::f64::consts::FRAC_PI_2;

use candle_core::{Result, Tensor};

use super::{Scheduler, check_steps, levels_of};
use crate::Error;
use crate::config::ScmConfig;

/// Where the library starts: pi/2 to five digits, pure noise.
#[expect(clippy::approx_constant, reason = "the digits count, pi/2 gives other pictures")]
const FIRST: f32 = 1.570_80;

/// Where it stops between two steps.
const MIDDLE: f32 = 1.3;

/// Consistency steps of Sprint: each estimates the latent and puts fresh noise on it. Levels are angles, from noise at
/// about pi/2 to the latent at 0.
#[derive(Debug)]
pub struct Scm {
    sigma_data: f64,
    angles: Vec<f32>,
    times: Vec<f32>,
}

impl Scm {
    /// For one picture in `steps` steps, at the library's angles: evenly spaced, but 1.3 between two steps.
    pub fn new(config: &ScmConfig, steps: u32) -> std::result::Result<Self, Error> {
        if steps == 2 {
            return Self::with_angles(config, vec![FIRST, MIDDLE, 0.0]);
        }
        Self::even(config, FIRST, steps)
    }

    /// Evenly spaced angles from `first`.
    pub fn even(config: &ScmConfig, first: f32, steps: u32) -> std::result::Result<Self, Error> {
        check_steps(steps, config.num_train_timesteps)?;
        // Counted from the nearer end, as torch's linspace does.
        let width = -first / steps as f32;
        let angle = |i| if i <= steps / 2 { first + width * i as f32 } else { -width * (steps - i) as f32 };
        Self::with_angles(config, (0..=steps).map(angle).collect())
    }

    /// One angle before each step, then 0; they must fall.
    pub fn with_angles(config: &ScmConfig, angles: Vec<f32>) -> std::result::Result<Self, Error> {
        let falls = angles.windows(2).all(|pair| pair[1] < pair[0]);
        let first = angles.first().is_some_and(|first| f64::from(*first) < FRAC_PI_2 + 1e-3);
        if !falls || !first || angles.len() < 2 || angles.last() != Some(&0.0) {
            return Err(Error::Setting(format!("angles {angles:?} must fall from at most pi/2 to 0")));
        }
        check_steps(angles.len() as u32 - 1, config.num_train_timesteps)?;
        let time = |angle: &f32| {
            let (sin, cos) = sin_cos(*angle);
            sin / (cos + sin)
        };
        let times = angles[..angles.len() - 1].iter().map(time).collect();
        Ok(Self { sigma_data: config.sigma_data, angles, times })
    }

    /// What the model's input of a step is multiplied by.
    pub fn input_scale(&self, step: usize) -> f32 {
        let time = self.times[step];
        (time * time + (1.0 - time) * (1.0 - time)).sqrt()
    }

    /// The sample after a step and the latent that the step estimates, both times the standard deviation of the data.
    /// `velocity` is along the circle of angles.
    pub fn turn(
        &self,
        step: usize,
        velocity: &Tensor,
        sample: &Tensor,
        noise: Option<&Tensor>,
    ) -> std::result::Result<(Tensor, Tensor), Error> {
        let (from, to) = levels_of(step, &self.angles)?;
        let ((sin, cos), (next_sin, next_cos)) = (sin_cos(from), sin_cos(to));
        let latent = ((sample * f64::from(cos))? - (velocity * f64::from(sin))?)?;
        let next = match noise {
            None => latent.clone(),
            Some(noise) => {
                let noise = ((noise * self.sigma_data)? * f64::from(next_sin))?;
                ((&latent * f64::from(next_cos))? + noise)?
            }
        };
        Ok((next, latent))
    }
}

impl Scheduler for Scm {
    fn levels(&self) -> &[f32] {
        &self.angles
    }

    /// Shares of noise on a straight way, 0 to 1.
    fn timesteps(&self) -> &[f32] {
        &self.times
    }

    fn start(&self, noise: Tensor) -> Result<Tensor> {
        noise * self.sigma_data
    }

    fn input(&self, step: usize, sample: &Tensor) -> Result<Tensor> {
        (sample / self.sigma_data)? * f64::from(self.input_scale(step))
    }

    /// The library draws it in the last step too, and multiplies it by 0.
    fn takes_noise(&self, step: usize) -> bool {
        step + 1 < self.times.len()
    }

    fn step(
        &mut self,
        step: usize,
        output: &Tensor,
        sample: &Tensor,
        noise: Option<&Tensor>,
    ) -> std::result::Result<Tensor, Error> {
        levels_of(step, &self.angles)?;
        let time = self.times[step];
        let (straight, curved) = (1.0 - 2.0 * time, 1.0 - 2.0 * time + 2.0 * (time * time));
        let input = self.input(step, sample)?;
        let velocity = ((input * f64::from(straight))? + (output * f64::from(curved))?)?;
        let velocity = ((velocity / f64::from(self.input_scale(step)))? * self.sigma_data)?;
        Ok(self.turn(step, &velocity, sample, noise)?.0)
    }

    fn finish(&self, sample: Tensor) -> Result<Tensor> {
        sample / self.sigma_data
    }
}

/// Rounded once from f64.
fn sin_cos(angle: f32) -> (f32, f32) {
    let (sin, cos) = f64::from(angle).sin_cos();
    (sin as f32, cos as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> ScmConfig {
        ScmConfig { sigma_data: 0.5, num_train_timesteps: 1000 }
    }

    #[test]
    fn angles_that_do_not_lead_to_the_latent_are_refused() {
        for angles in [vec![], vec![0.0], vec![1.0], vec![1.0, 0.5], vec![0.5, 1.0, 0.0], vec![2.0, 0.0]] {
            assert!(
                matches!(Scm::with_angles(&config(), angles.clone()), Err(Error::Setting(_))),
                "{angles:?}"
            );
        }
        assert!(Scm::with_angles(&config(), vec![f32::NAN, 0.0]).is_err());
    }

    #[test]
    fn only_steps_before_the_last_take_noise() {
        let scm = Scm::new(&config(), 2).unwrap();
        assert_eq!(scm.levels(), [FIRST, MIDDLE, 0.0]);
        assert!(scm.takes_noise(0) && !scm.takes_noise(1));
        assert!(!Scm::new(&config(), 1).unwrap().takes_noise(0));
        for steps in [0, 1001] {
            assert!(matches!(Scm::new(&config(), steps), Err(Error::Setting(_))));
        }
    }
}

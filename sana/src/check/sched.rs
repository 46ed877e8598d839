//! Flow DPM-Solver++: noise levels, timesteps, trajectories for given and for closed-loop velocities.

use candle_core::{IndexOp, Tensor};

use super::case::{Case, values};
use super::report::Report;
use crate::Error;
use crate::config::SchedulerConfig;
use crate::scheduler::FlowDpmSolver;

pub(super) fn check(case: &Case, report: &mut Report) -> Result<(), Error> {
    for key in case.names_between("out.", ".sigmas") {
        let solver = solver(case, key)?;
        let name = format!("out.{key}.sigmas");
        report.compare(&name, solver.sigmas(), case.tensor(&name)?, case.tolerance("sigmas"))?;
        let name = format!("out.{key}.timesteps");
        let timesteps: Vec<f32> = solver.timesteps().iter().map(|t| *t as f32).collect();
        report.compare(&name, &timesteps, case.tensor(&name)?, case.tolerance("timesteps"))?;
    }
    for key in case.names_between("out.", ".samples") {
        let mut solver = solver(case, key)?;
        let mut sample = case.tensor(&format!("in.{key}.sample"))?.clone();
        let mut samples = Vec::new();
        for i in 0..solver.timesteps().len() {
            let velocity = velocity(case, key, i, solver.sigmas()[i], &sample)?;
            sample = solver.step(i, &velocity, &sample)?;
            samples.extend(values(&sample)?);
        }
        let name = format!("out.{key}.samples");
        report.compare(&name, &samples, case.tensor(&name)?, case.tolerance("samples"))?;
    }
    Ok(())
}

/// For a key such as `shift3.steps20` or `closed.shift3.steps20`.
fn solver(case: &Case, key: &str) -> Result<FlowDpmSolver, Error> {
    let parsed = key.rsplit_once(".steps").and_then(|(shift, steps)| {
        let (_, shift) = shift.rsplit_once("shift")?;
        Some((shift.parse().ok()?, steps.parse().ok()?))
    });
    let (flow_shift, steps) =
        parsed.ok_or_else(|| Error::Model(format!("tensor name part {key} has no shift and steps")))?;
    let config = SchedulerConfig::from_value(case.config("scheduler")?, &case.config_path())?;
    FlowDpmSolver::new(&SchedulerConfig { flow_shift, ..config }, steps)
}

fn velocity(case: &Case, key: &str, i: usize, sigma: f32, sample: &Tensor) -> Result<Tensor, Error> {
    if !key.starts_with("closed.") {
        return Ok(case.tensor(&format!("in.{key}.model_outputs"))?.i(i)?);
    }
    let target = case.tensor(&format!("in.{key}.target"))?.tanh()?;
    Ok(((sample - target)? / f64::from(sigma.max(0.05)))?)
}

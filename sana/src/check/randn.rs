//! Starting noise: single draws, chains of draws from one generator, and the raw uniforms.

use std::collections::BTreeMap;

use super::case::Case;
use super::report::Report;
use crate::Error;
use crate::noise::Generator;

pub(super) fn check(case: &Case, report: &mut Report) -> Result<(), Error> {
    let tolerance = |n: usize| case.tolerance(if n < 16 { "below_16" } else { "16_and_above" });

    for middle in case.names_between("out.seed", "") {
        let name = format!("out.seed{middle}");
        let want = case.tensor(&name)?;
        let seed = middle.split('.').next().and_then(|seed| seed.parse().ok());
        let seed = seed.ok_or_else(|| Error::Model(format!("tensor {name} names no seed")))?;
        let got = Generator::new(seed).randn(want.elem_count());
        report.compare(&name, &got, want, tolerance(got.len()))?;
    }

    // These two are named after the first seed of the unshifted set and drawn from the first of this one.
    let first = case.config::<Vec<u64>>("seeds")?.first().copied().unwrap_or_default();
    for middle in case.names_between("out.latent_", "") {
        let name = format!("out.latent_{middle}");
        let want = case.tensor(&name)?;
        let got = Generator::new(first).randn(want.elem_count());
        report.compare(&name, &got, want, tolerance(got.len()))?;
    }
    for middle in case.names_between("out.rand_", "") {
        let name = format!("out.rand_{middle}");
        let want = case.tensor(&name)?;
        report.compare(&name, &Generator::new(first).uniform(want.elem_count()), want, 0.0)?;
    }

    let seed = case.config("chain_seed")?;
    for (chain, sizes) in case.config::<BTreeMap<String, Vec<usize>>>("chains")? {
        let mut generator = Generator::new(seed);
        for (i, n) in sizes.into_iter().enumerate() {
            let name = format!("out.chain.{chain}.{i}");
            report.compare(&name, &generator.randn(n), case.tensor(&name)?, tolerance(n))?;
        }
    }
    Ok(())
}

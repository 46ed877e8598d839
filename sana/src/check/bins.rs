//! Resolution bins: requested size to trained size.

use super::case::{Case, values};
use super::report::Report;
use crate::size::plan;
use crate::{BinMode, Error};

pub(super) fn check(case: &Case, report: &mut Report) -> Result<(), Error> {
    let columns: Vec<String> = case.config("columns")?;
    if columns != ["sample_size", "height", "width", "bin_height", "bin_width"] {
        return Err(Error::Model(format!("columns {columns:?} of out.bins are not the known ones")));
    }
    let want = case.tensor("out.bins")?;
    let table = values(want)?;
    let (rows, _) = table.as_chunks::<5>();
    let mut got = Vec::with_capacity(table.len());
    for row in rows {
        let [sample_size, height, width, ..] = row.map(|value| value as u32);
        let plan = plan(width, height, BinMode::Always, sample_size as usize)?;
        let row = [sample_size, height, width, plan.compute_height, plan.compute_width];
        got.extend(row.map(|value| value as f32));
    }
    report.compare("out.bins", &got, want, 0.0)
}

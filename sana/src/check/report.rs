use candle_core::{DType, Tensor};

use crate::{Error, Placement};

/// What came of one fixture.
#[derive(Debug)]
pub struct Report {
    /// Name of the fixture.
    pub case: String,
    /// One for each tensor that was compared.
    pub rows: Vec<Row>,
    /// Whether it was checked at all.
    pub state: State,
    slack: Slack,
}

/// What a device may differ from the fixtures' own tolerances.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Slack {
    /// Of the largest value of a tensor.
    pub relative: f64,
    /// Levels of a picture's byte.
    pub levels: u8,
    /// Share of a picture's bytes that may be off.
    pub share: f64,
}

impl Slack {
    /// None on the CPU. In f32 other orders of sums; in bf16 the rounding of every result to 8 bits, whose traces add up from
    /// layer to layer and from step to step.
    pub fn of(placement: &Placement) -> Self {
        match placement.dtype() {
            DType::F32 if placement.by_kernels() => Self { relative: 1e-4, levels: 1, share: 0.01 },
            DType::F32 => Self::default(),
            _ => Self { relative: 0.25, levels: 64, share: 1.0 },
        }
    }
}

/// One comparison.
#[derive(Clone, Debug)]
pub struct Row {
    /// The tensor of the fixture.
    pub name: String,
    /// Its shape, or of the part that counts.
    pub shape: Vec<usize>,
    /// Largest absolute difference.
    pub difference: f64,
    /// What is allowed.
    pub tolerance: f64,
    /// Whether it agrees.
    pub ok: bool,
}

/// How far a check came.
#[derive(Debug)]
pub enum State {
    /// To the end; the rows say the rest.
    Checked,
    /// Nothing in the fixture says what it checks.
    Unknown,
    /// Stopped by an error.
    Failed(Error),
}

impl Report {
    pub(super) fn new(case: String, slack: Slack) -> Self {
        Self { case, rows: Vec::new(), state: State::Unknown, slack }
    }

    /// Whether something was compared and all of it agrees.
    pub fn passed(&self) -> bool {
        matches!(self.state, State::Checked) && !self.rows.is_empty() && self.rows.iter().all(|row| row.ok)
    }

    /// Compares all values with a tensor of the same number of elements.
    pub(super) fn compare(
        &mut self,
        name: &str,
        got: &[f32],
        want: &Tensor,
        tolerance: f64,
    ) -> Result<(), Error> {
        let wanted = want.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        let difference = if wanted.len() == got.len() {
            got.iter().zip(&wanted).map(|(got, want)| distance(f64::from(*got), *want)).fold(0.0, f64::max)
        } else {
            f64::INFINITY
        };
        let largest = wanted.iter().fold(0.0, |largest: f64, value| largest.max(value.abs()));
        let tolerance = tolerance.max(self.slack.relative * largest);
        self.add(name, want.dims(), difference, tolerance, difference <= tolerance);
        Ok(())
    }

    /// Compares bytes of which at most `share` may be off, each by at most `levels`.
    pub(super) fn compare_bytes(
        &mut self,
        name: &str,
        got: &[u8],
        want: &Tensor,
        levels: u8,
        share: f64,
    ) -> Result<(), Error> {
        let wanted = want.flatten_all()?.to_vec1::<u8>()?;
        let (difference, off) = if wanted.len() == got.len() {
            let differences = got.iter().zip(&wanted).map(|(got, want)| got.abs_diff(*want));
            let off = differences.clone().filter(|difference| *difference > 0).count();
            (f64::from(differences.max().unwrap_or(0)), off)
        } else {
            (f64::INFINITY, wanted.len())
        };
        let (levels, share) = (levels.max(self.slack.levels), share.max(self.slack.share));
        let ok = difference <= f64::from(levels) && off as f64 <= share * wanted.len() as f64;
        self.add(name, want.dims(), difference, f64::from(levels), ok);
        Ok(())
    }

    /// Compares texts, letter by letter.
    pub(super) fn compare_text(&mut self, name: &str, got: &str, want: &str) {
        let difference = if got == want { 0.0 } else { f64::INFINITY };
        self.add(name, &[want.chars().count()], difference, 0.0, got == want);
    }

    fn add(&mut self, name: &str, shape: &[usize], difference: f64, tolerance: f64, ok: bool) {
        self.rows.push(Row { name: name.to_owned(), shape: shape.to_vec(), difference, tolerance, ok });
    }
}

/// Infinite where one of both is no number: `max` would pass over it.
fn distance(a: f64, b: f64) -> f64 {
    let distance = (a - b).abs();
    if distance.is_nan() { f64::INFINITY } else { distance }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn a_difference_above_the_tolerance_fails() {
        let want = Tensor::new(&[1.0_f32, 2.0], &Device::Cpu).unwrap();
        for (got, ok) in [
            (&[1.0, 2.0][..], true),
            (&[1.0, 2.05], true),
            (&[1.0, 2.2], false),
            (&[1.0, f32::NAN], false),
            (&[1.0], false),
        ] {
            let mut report = Report::new("case".to_owned(), Slack::default());
            report.compare("x", got, &want, 0.1).unwrap();
            report.state = State::Checked;
            assert_eq!(report.passed(), ok, "{got:?}");
        }
    }

    #[test]
    fn a_report_without_rows_has_not_passed() {
        let mut report = Report::new("case".to_owned(), Slack::default());
        report.state = State::Checked;
        assert!(!report.passed());
    }

    #[test]
    fn bytes_may_be_off_by_little_and_rarely() {
        let want = Tensor::zeros(1000, DType::U8, &Device::Cpu).unwrap();
        let mut bytes = vec![0; 1000];
        let passed = |bytes: &[u8]| {
            let mut report = Report::new("case".to_owned(), Slack::default());
            report.compare_bytes("x", bytes, &want, 1, 0.001).unwrap();
            report.state = State::Checked;
            report.passed()
        };
        bytes[7] = 1;
        assert!(passed(&bytes));
        bytes[8] = 1;
        assert!(!passed(&bytes));
        bytes[8] = 0;
        bytes[7] = 2;
        assert!(!passed(&bytes));
    }
}

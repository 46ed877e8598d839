//! What a metric is.

/// A metric: the tables of them are the one source of their names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metric {
    /// As Prometheus has it.
    pub name: &'static str,
    /// How it counts.
    pub kind: Kind,
    /// What tells its values apart.
    pub labels: &'static [Label],
    /// What it says.
    pub help: &'static str,
}

/// How a metric counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Goes up.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size; these are the upper ends of its buckets.
    Histogram(&'static [f64]),
}

impl Kind {
    /// The word in the documentation.
    pub fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// A label of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// All values that it has: they are there from the start. Empty where values come with the work.
    pub values: &'static [&'static str],
}

/// A label whose values come with the work.
pub(crate) const fn open(name: &'static str) -> Label {
    Label { name, values: &[] }
}

/// Seconds of what should take milliseconds.
pub(crate) const SHORT: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Seconds of work on a picture.
pub(crate) const WORK: &[f64] =
    &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];

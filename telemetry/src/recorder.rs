//! Where the metrics of this process are kept.

use std::time::Duration;

use metrics::{Gauge, Label, Unit};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_util::MetricKindMask;

use crate::metric::{Kind, Metric};

/// How often what histograms have gathered is put in order.
const UPKEEP: Duration = Duration::from_secs(5);

/// A gauge that nobody sets any more is dropped after this long: its label may be of something long gone.
const FORGET: Duration = Duration::from_secs(600);

/// Why there is no recorder.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A table is wrong.
    #[error("prepare metrics: {0}")]
    Build(#[from] BuildError),
    /// There is one already.
    #[error("this process counts already")]
    Installed,
}

/// The metrics of this process, as Prometheus reads them.
#[derive(Clone)]
pub struct Recorder {
    handle: PrometheusHandle,
    build: Gauge,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}

impl Recorder {
    /// All of them as text.
    pub fn render(&self) -> String {
        // Always there.
        self.build.set(1.0);
        self.handle.render()
    }

    /// Keeps what has been gathered small between two scrapes. Never ends.
    pub async fn keep_up(self) {
        let mut ticks = tokio::time::interval(UPKEEP);
        loop {
            ticks.tick().await;
            self.handle.run_upkeep();
        }
    }
}

/// Counts the metrics of this table from now on, in the whole process. Those whose labels are known are there at once.
pub fn install(table: &[Metric], role: &'static str, version: &'static str) -> Result<Recorder, Error> {
    let mut builder = PrometheusBuilder::new().idle_timeout(MetricKindMask::GAUGE, Some(FORGET));
    for metric in table {
        if let Kind::Histogram(buckets) = metric.kind {
            builder = builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), buckets)?;
        }
    }
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|_| Error::Installed)?;
    table.iter().for_each(begin);
    let build = metrics::gauge!(crate::coordinator::BUILD_INFO, "version" => version, "role" => role);
    Ok(Recorder { handle, build })
}

/// Describes a metric, and makes it appear with each value of its label.
fn begin(metric: &Metric) {
    let Metric { name, kind, help, .. } = *metric;
    match kind {
        Kind::Counter => metrics::describe_counter!(name, help),
        Kind::Gauge => metrics::describe_gauge!(name, help),
        Kind::Histogram(_) => metrics::describe_histogram!(name, Unit::Seconds, help),
    }
    let labels: Vec<Vec<Label>> = match metric.labels {
        [] => vec![Vec::new()],
        [label] => label.values.iter().map(|value| vec![Label::new(label.name, *value)]).collect(),
        _ => Vec::new(),
    };
    for labels in labels {
        match kind {
            Kind::Counter => metrics::counter!(name, labels).absolute(0),
            Kind::Gauge => metrics::gauge!(name, labels).set(0.0),
            Kind::Histogram(_) => drop(metrics::histogram!(name, labels)),
        }
    }
}

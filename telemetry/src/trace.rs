//! What became of one image, over all processes that had it in hand, as OpenTelemetry spans.
//!
//! An image has a trace. Its id, and the id of its root span, follow from the job and the index: every process computes the
//! same ones and passes nothing on, and whether an image is traced follows from its id as well
//! ([ADR 24](../../docs/adr/0024-derived-trace-ids.md)). Spans are told when they have ended, with the times that were
//! measured. Without a receiver, or for an image that is not traced, there is nothing to do but to find that out.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_otlp::{ExporterBuildError, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanExporter, SpanLinks, SpanProcessor,
};
use sha2::{Digest, Sha256};
use tonic::transport::ClientTlsConfig;
use uuid::Uuid;

/// Spans that may wait to be sent; more are dropped.
const QUEUE: usize = 16_384;
/// Spans sent at once.
const BATCH: usize = 512;
/// Spans wait this long for others.
const DELAY: Duration = Duration::from_secs(1);
/// How long the receiver may take for some spans, and at the end for the last ones.
const LIMIT: Duration = Duration::from_secs(5);

/// The process's own tracer, if there is one.
static TRACER: OnceLock<Tracer> = OnceLock::new();

/// Where spans go.
#[derive(Clone, Debug)]
pub struct Settings {
    /// URL of a receiver of OTLP over gRPC.
    pub endpoint: String,
    /// Share of images that are traced.
    pub ratio: f64,
    /// What the process is: `coordinator`, `worker` or `submit`.
    pub role: &'static str,
    /// Which of them it is.
    pub instance: String,
}

/// Why spans cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL.
    #[error(
        "send traces to {endpoint}: {source}; write the URL of an OTLP receiver, such as http://127.0.0.1:4317"
    )]
    Endpoint {
        /// As it was given.
        endpoint: String,
        /// What is wrong with it.
        source: Box<ExporterBuildError>,
    },
    /// There is a tracer already.
    #[error("this process sends traces already")]
    Started,
}

#[derive(Debug)]
struct Tracer {
    processor: BatchSpanProcessor,
    scope: InstrumentationScope,
    /// Ids below this are traced.
    below: u64,
}

/// Sends the spans of this process until it is closed.
#[derive(Debug)]
#[must_use = "the last spans are sent when it is closed"]
pub struct Traces(());

/// Traces images from now on. To be called inside the async runtime, which the connection lives in.
pub fn start(settings: &Settings) -> Result<Traces, Error> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(settings.endpoint.as_str())
        .with_timeout(LIMIT);
    let exporter = match settings.endpoint.starts_with("https://") {
        true => exporter.with_tls_config(ClientTlsConfig::new().with_enabled_roots()),
        false => exporter,
    };
    let exporter = exporter.build().map_err(|source| Error::Endpoint {
        endpoint: settings.endpoint.clone(),
        source: Box::new(source),
    })?;
    let exporter = Telling { exporter, endpoint: settings.endpoint.clone(), away: AtomicBool::new(false) };
    let config = BatchConfigBuilder::default()
        .with_max_queue_size(QUEUE)
        .with_max_export_batch_size(BATCH)
        .with_scheduled_delay(DELAY)
        .build();
    let mut processor = BatchSpanProcessor::builder(exporter).with_batch_config(config).build();
    let resource = Resource::builder_empty()
        .with_service_name(format!("sanafarm-{}", settings.role))
        .with_attribute(KeyValue::new("service.instance.id", settings.instance.clone()))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    processor.set_resource(&resource);
    let scope = InstrumentationScope::builder("sanafarm").with_version(env!("CARGO_PKG_VERSION")).build();
    let tracer = Tracer { processor, scope, below: below(settings.ratio) };
    TRACER.set(tracer).map_err(|_| Error::Started)?;
    Ok(Traces(()))
}

impl Traces {
    /// Sends what is left, waiting some seconds at most.
    pub async fn close(self) {
        let closed = tokio::task::spawn_blocking(|| {
            TRACER.get().map(|tracer| tracer.processor.shutdown_with_timeout(LIMIT))
        });
        if let Ok(Some(Err(error))) = closed.await {
            tracing::warn!(%error, "the last traces are not sent");
        }
    }
}

/// Of 2^63 ids.
fn below(ratio: f64) -> u64 {
    (ratio.clamp(0.0, 1.0) * (1_u64 << 63) as f64) as u64
}

/// The exporter, which tells once that the receiver is away, and once that it is back.
#[derive(Debug)]
struct Telling<E> {
    exporter: E,
    endpoint: String,
    away: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Telling<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let sent = self.exporter.export(batch).await;
        let was_away = self.away.swap(sent.is_err(), Ordering::Relaxed);
        match &sent {
            Err(error) if !was_away => {
                tracing::warn!(%error, endpoint = self.endpoint, "traces are not sent: those of this time are lost");
            }
            Ok(()) if was_away => tracing::info!(endpoint = self.endpoint, "traces are sent again"),
            Ok(()) | Err(_) => {}
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// The trace of an image or of a job's submission.
#[derive(Clone, Copy, Debug)]
pub struct Trace {
    tracer: &'static Tracer,
    id: TraceId,
    root: SpanId,
}

/// The trace of an image; none when it is not traced.
pub fn image(job: &str, index: u64) -> Option<Trace> {
    let tracer = TRACER.get()?;
    let (id, root) = image_ids(job, index);
    is_below(id, tracer.below).then_some(Trace { tracer, id, root })
}

/// Whether any image may be traced.
pub fn is_on() -> bool {
    TRACER.get().is_some_and(|tracer| tracer.below > 0)
}

/// The trace of a job's submission; none when nothing is traced.
pub fn job(job: &str) -> Option<Trace> {
    let tracer = TRACER.get().filter(|tracer| tracer.below > 0)?;
    let (id, root) = job_ids(job);
    Some(Trace { tracer, id, root })
}

/// As the usual samplers by trace id do it.
fn is_below(id: TraceId, below: u64) -> bool {
    let bytes = id.to_bytes();
    let low = u64::from_be_bytes(bytes[8..].try_into().unwrap_or_default());
    low >> 1 < below
}

/// Ids of an image's trace and of its root span.
fn image_ids(job: &str, index: u64) -> (TraceId, SpanId) {
    let hash = Sha256::digest(format!("{job}/{index}"));
    (TraceId::from_bytes(first(&hash)), SpanId::from_bytes(first(&hash[16..])))
}

/// Ids of a job's trace, which is the job's own id, and of its root span.
fn job_ids(job: &str) -> (TraceId, SpanId) {
    let hash = Sha256::digest(job);
    let id = Uuid::parse_str(job).map_or_else(|_| first(&hash), Uuid::into_bytes);
    (TraceId::from_bytes(id), SpanId::from_bytes(first(&hash)))
}

fn first<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut taken = [0; N];
    taken.copy_from_slice(&bytes[..N]);
    taken
}

/// When a job was made, as its id tells; none for an id that does not.
pub fn job_made_at(job: &str) -> Option<SystemTime> {
    let (seconds, nanos) = Uuid::parse_str(job).ok()?.get_timestamp()?.to_unix();
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))
}

impl Trace {
    /// The root span.
    pub fn root(&self, name: &'static str, start: SystemTime, end: SystemTime) -> Span {
        Span::new(self, name, self.root, SpanId::INVALID, start, end)
    }

    /// A child of the root span.
    pub fn child(&self, name: &'static str, start: SystemTime, end: SystemTime) -> Span {
        Span::new(self, name, fresh(), self.root, start, end)
    }

    /// The child of the root span that stands for one attempt at the image.
    pub fn attempt(&self, attempt: &Attempt<'_>, start: SystemTime, end: SystemTime) -> Span {
        Span::new(self, "render", self.attempt_id(attempt), self.root, start, end)
            .with("shard", attempt.shard.to_owned())
            .with("attempt", i64::from(attempt.number))
    }

    /// A child of that span.
    pub fn stage(
        &self,
        attempt: &Attempt<'_>,
        name: &'static str,
        start: SystemTime,
        end: SystemTime,
    ) -> Span {
        Span::new(self, name, fresh(), self.attempt_id(attempt), start, end)
    }

    /// Follows from what it names, so that a worker that takes up what an earlier process left goes on with its span.
    fn attempt_id(&self, Attempt { shard, number }: &Attempt<'_>) -> SpanId {
        let hash = Sha256::digest(format!("{}/{shard}/{number}", self.id));
        SpanId::from_bytes(first(&hash))
    }
}

/// Names one attempt at an image.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// What is leased.
    pub shard: &'a str,
    /// Which lease of it.
    pub number: u32,
}

/// A span id that nobody else has to know.
fn fresh() -> SpanId {
    SpanId::from_bytes(first(&Uuid::new_v4().into_bytes()[8..]))
}

/// A span that has ended.
#[derive(Debug)]
#[must_use = "it is not told before it is recorded"]
pub struct Span {
    tracer: &'static Tracer,
    data: SpanData,
}

impl Span {
    fn new(
        trace: &Trace,
        name: &'static str,
        id: SpanId,
        parent: SpanId,
        start: SystemTime,
        end: SystemTime,
    ) -> Self {
        let data = SpanData {
            span_context: context(trace.id, id),
            parent_span_id: parent,
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: name.into(),
            start_time: start,
            // Clocks of two machines may disagree.
            end_time: end.max(start),
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: Default::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: trace.tracer.scope.clone(),
        };
        Self { tracer: trace.tracer, data }
    }

    /// Adds an attribute.
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.data.attributes.push(KeyValue::new(name, value));
        self
    }

    /// Points to the submission of a job.
    pub fn of_job(mut self, job: &str) -> Self {
        let (id, root) = job_ids(job);
        self.data.links.links.push(Link::new(context(id, root), Vec::new(), 0));
        self.with("job", job.to_owned())
    }

    /// What it stands for went wrong.
    pub fn failed(mut self, why: &str) -> Self {
        self.data.status = Status::error(why.to_owned());
        self
    }

    /// Tells it to the receiver, without waiting for it.
    pub fn record(self) {
        self.tracer.processor.on_end(self.data);
    }
}

fn context(trace: TraceId, span: SpanId) -> SpanContext {
    SpanContext::new(trace, span, TraceFlags::SAMPLED, true, TraceState::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_computes_the_same_ids() {
        let (id, root) = image_ids("018f6a2e-0000-7000-8000-000000000001", 7);
        assert_eq!(id.to_string(), "0af6316f86505abfd65b736e38b5d4d7");
        assert_eq!(root.to_string(), "a44eefcdc7945b0d");
        let (id, _) = job_ids("018f6a2e-0000-7000-8000-000000000001");
        assert_eq!(id.to_string(), "018f6a2e000070008000000000000001");
    }

    #[test]
    fn a_share_of_all_images_is_traced() {
        let traced = |ratio| {
            let below = below(ratio);
            (0..10_000).filter(|index| is_below(image_ids("job", *index).0, below)).count()
        };
        assert_eq!((traced(0.0), traced(1.0)), (0, 10_000));
        let tenth = traced(0.1);
        assert!((850..1150).contains(&tenth), "{tenth}");
    }

    #[test]
    fn a_job_tells_when_it_was_made() {
        let made = job_made_at("018f6a2e-0000-7000-8000-000000000001").unwrap();
        assert_eq!(made.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis(), 0x018f_6a2e_0000);
        assert_eq!(job_made_at("job"), None);
    }
}

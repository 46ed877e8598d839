//! How a process shows itself to those who watch it: metrics over HTTP, and traces to a receiver.

mod serve;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sanafarm_coordinator::Door;
use sanafarm_net::ServerTls;
use sanafarm_telemetry::http::{self, Watched};
use sanafarm_telemetry::recorder::{self, Recorder};
use sanafarm_telemetry::trace::{self, Settings, Traces};
use sanafarm_telemetry::{Metric, coordinator, worker};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::args::{TracingArgs, WatchingArgs};
use crate::error::Error;
use crate::printer::Printer;

use serve::serve;

/// How long those who look may take to hear the last answer.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// What the process is.
#[derive(Clone, Copy, Debug)]
pub enum Role {
    /// `coordinator`.
    Coordinator,
    /// `worker`.
    Worker,
    /// `submit`.
    Submit,
}

impl Role {
    fn word(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Worker => "worker",
            Self::Submit => "submit",
        }
    }

    fn metrics(self) -> &'static [Metric] {
        match self {
            Self::Coordinator => coordinator::TABLE,
            Self::Worker => worker::TABLE,
            Self::Submit => &[],
        }
    }
}

/// Sends traces from now on, if there is a receiver. `instance` tells this process from others of its role.
pub fn trace(args: &TracingArgs, role: Role, instance: &str) -> Result<Option<Traces>, Error> {
    let Some(endpoint) = args.trace_endpoint.clone().filter(|endpoint| !endpoint.is_empty()) else {
        return Ok(None);
    };
    let settings =
        Settings { endpoint, ratio: args.trace_ratio, role: role.word(), instance: instance.to_owned() };
    let traces =
        trace::start(&settings).map_err(|error| Error::mistake("start tracing").caused_by(&error))?;
    Ok(Some(traces))
}

/// Ready to show a process.
pub struct Watching {
    role: Role,
    http: Option<(TcpListener, Recorder)>,
    traces: Option<Traces>,
    stop: CancellationToken,
    serving: Option<JoinHandle<std::io::Result<()>>>,
    keeping_up: Option<AbortOnDropHandle<()>>,
}

impl Watching {
    /// Counts and traces from now on. Port 0 of the address takes a free one.
    pub async fn begin(args: &WatchingArgs, role: Role, instance: &str) -> Result<Self, Error> {
        let traces = trace(&args.tracing, role, instance)?;
        let http = match args.http.as_deref().filter(|address| !address.is_empty()) {
            None => None,
            Some(address) => {
                let listener = TcpListener::bind(address).await.map_err(|error| {
                    Error::mistake(format!("serve metrics on {address}"))
                        .caused_by(&error)
                        .hint("name a free address of this machine with --http, such as 127.0.0.1:7071")
                })?;
                let recorder = recorder::install(role.metrics(), role.word(), env!("CARGO_PKG_VERSION"));
                Some((listener, recorder.map_err(|error| Error::failure("count").caused_by(&error))?))
            }
        };
        let stop = CancellationToken::new();
        Ok(Self { role, http, traces, stop, serving: None, keeping_up: None })
    }

    /// Where it will be shown.
    pub fn address(&self) -> Option<SocketAddr> {
        self.http.as_ref().and_then(|(listener, _)| listener.local_addr().ok())
    }

    /// Shows the process to those whom a door lets in, until it is closed.
    pub fn show(
        &mut self,
        watched: Arc<dyn Watched>,
        door: Option<Door>,
        tls: Option<Arc<ServerTls>>,
        printer: &Printer,
    ) -> Result<(), Error> {
        let Some((listener, recorder)) = self.http.take() else { return Ok(()) };
        let address = listener.local_addr();
        let address = address.map_err(|error| Error::failure("serve metrics").caused_by(&error))?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        printer.note(format!("{} serves metrics on {scheme}://{address}/metrics", self.role.word()));
        self.keeping_up = Some(AbortOnDropHandle::new(tokio::spawn(recorder.clone().keep_up())));
        let serving = serve(listener, tls, door, http::router(watched, recorder), self.stop.clone());
        self.serving = Some(tokio::spawn(serving));
        Ok(())
    }

    /// Answers those who are looking, and sends the last traces.
    pub async fn close(mut self) {
        self.stop.cancel();
        if let Some(mut serving) = self.serving.take() {
            match timeout(LAST_ANSWERS, &mut serving).await {
                Ok(Ok(Ok(()))) => {}
                Ok(Ok(Err(error))) => tracing::warn!(%error, "metrics were not served"),
                Ok(Err(error)) => tracing::warn!(%error, "metrics were not served"),
                Err(_) => serving.abort(),
            }
        }
        if let Some(traces) = self.traces.take() {
            traces.close().await;
        }
    }
}

//! How a process is watched.

use clap::{Args, ValueEnum};

/// How a process that stays is watched.
#[derive(Debug, Args)]
pub struct WatchingArgs {
    /// Serve /metrics, /healthz and /readyz at this address, over HTTPS where there is a --tls-cert; port 0 takes a free
    /// one [env: SANAFARM_HTTP=]
    #[arg(long, value_name = "ADDR")]
    pub http: Option<String>,
    /// What is traced.
    #[command(flatten)]
    pub tracing: TracingArgs,
    /// Form of the log: text for people or json for programs [env: SANAFARM_LOG_FORMAT=]
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
}

/// What is traced.
#[derive(Debug, Args)]
pub struct TracingArgs {
    /// Receiver of traces, OTLP over gRPC, such as http://127.0.0.1:4317 [env: SANAFARM_TRACE_ENDPOINT=]
    #[arg(long, value_name = "URL")]
    pub trace_endpoint: Option<String>,
    /// Share of images that are traced; the same for all processes of a farm [env: SANAFARM_TRACE_RATIO=]
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, value_parser = share)]
    pub trace_ratio: f64,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// An object a line.
    Json,
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "a share is a number from 0 to 1".to_owned())
}

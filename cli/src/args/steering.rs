//! What changes jobs, owners and workers.

use clap::Args;
use sanafarm_proto::v1::ErrorClass;

use super::{AccessArgs, PlaceArgs, values};

/// A job that is to be changed.
#[derive(Debug, Args)]
pub struct ChangeArgs {
    /// Job id, or a beginning that fits one job only
    pub job: String,
    /// Why, for the history
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub reason: String,
    /// Where the job is.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// JSON on standard output
    #[arg(long)]
    pub json: bool,
}

/// `priority`.
#[derive(Debug, Args)]
pub struct PriorityArgs {
    /// The job.
    #[command(flatten)]
    pub change: ChangeArgs,
    /// Higher goes first; waiting without a worker adds 1 every ten minutes
    #[arg(value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-1000..=1000))]
    pub priority: i32,
}

/// `retry`.
#[derive(Debug, Args)]
pub struct RetryArgs {
    /// The job.
    #[command(flatten)]
    pub change: ChangeArgs,
    /// The images that failed
    #[arg(long, required = true)]
    pub failed: bool,
    /// Only those that failed for this reason
    #[arg(long, value_name = "CLASS", value_parser = values::error_class)]
    pub error_class: Option<ErrorClass>,
}

/// `owner`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("wanted").required(true).multiple(true).args(["hold", "release", "weight"]))]
pub struct OwnerArgs {
    /// Whose jobs
    pub owner: String,
    /// Lease nothing new of their jobs
    #[arg(long, conflicts_with = "release")]
    pub hold: bool,
    /// Lease their jobs again
    #[arg(long)]
    pub release: bool,
    /// Their share of the farm, against others' 1
    #[arg(long, value_name = "W")]
    pub weight: Option<f64>,
    /// Why, for the history
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub reason: String,
    /// Address of the coordinator [env: SANAFARM_COORDINATOR=]
    #[arg(long, value_name = "ADDR")]
    pub coordinator: Option<String>,
    /// Who asks.
    #[command(flatten)]
    pub access: AccessArgs,
}

/// `drain`.
#[derive(Debug, Args)]
pub struct DrainArgs {
    /// Name of the worker, of which all sessions are asked, or a session id
    #[arg(value_name = "WORKER")]
    pub worker: String,
    /// At its next denoising step: the image in hand is handed back too
    #[arg(long)]
    pub now: bool,
    /// Why, for the history
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub reason: String,
    /// Address of the coordinator [env: SANAFARM_COORDINATOR=]
    #[arg(long, value_name = "ADDR")]
    pub coordinator: Option<String>,
    /// Who asks.
    #[command(flatten)]
    pub access: AccessArgs,
    /// One JSON object for each session, as `workers --json` tells it
    #[arg(long)]
    pub json: bool,
}

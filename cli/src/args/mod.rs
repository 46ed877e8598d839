//! The command line, as clap reads it.

mod access;
mod cache;
mod checks;
mod prompts;
mod reference;
mod scheduling;
mod staying;
mod steering;
mod token;
mod values;
mod watching;
mod webhooks;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use sanafarm_net::Secret;
use sanafarm_worker::Devices;

pub use access::{AccessArgs, PlaceArgs, ServingArgs};
pub use cache::{
    CacheArgs, ModelsArgs, ModelsListArgs, ModelsPlaceArgs, ModelsPullArgs, ModelsRmArgs, ModelsVerb,
    ModelsVerifyArgs,
};
pub use checks::{GcArgs, ReproduceArgs, VerifyArgs};
pub use prompts::SubmissionArgs;
pub use reference::{CompletionsArgs, ManArgs};
pub use scheduling::{SchedulingArgs, TimingArgs};
pub use staying::{LeavingArgs, OutboxArgs};
pub use steering::{ChangeArgs, DrainArgs, OwnerArgs, PriorityArgs, RetryArgs};
pub use token::{
    CaInitArgs, CaIssueArgs, CaVerb, CertificateRole, TokenArgs, TokenCreateArgs, TokenListArgs,
    TokenPlaceArgs, TokenRevokeArgs, TokenRotateArgs, TokenVerb,
};
pub use values::{Bin, ExportFormatName, ImageStateName, OnDuplicate, Size, image};
pub use watching::{LogFormat, TracingArgs, WatchingArgs};
pub use webhooks::WebhookArgs;

/// Render dataset-scale prompt lists into pictures with Sana, on one machine or a farm.
#[derive(Debug, Parser)]
#[command(name = "sanafarm", version, arg_required_else_help = true)]
#[command(
    after_help = "Results are written to standard output, talk to standard error. Exit codes: 0 done, \
                        1 a mistake that you can mend, 2 a failure, 3 no device left to render on, \
                        130 interrupted.\n\
                        Logs: SANAFARM_LOG=debug. Settings also stand in a file (--config) or in variables (docs/configuration.md)."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Render a prompt list on this machine; the same command again goes on where it stopped
    Render(RenderArgs),
    /// Serve jobs to workers and clients over gRPC
    Coordinator(CoordinatorArgs),
    /// Render what a coordinator hands out
    Worker(WorkerArgs),
    /// Hand a prompt list to a coordinator
    Submit(SubmitArgs),
    /// Tell what a prompt list would take: images, shards, time and bytes
    Estimate(EstimateArgs),
    /// List jobs, newest first
    Jobs(JobsArgs),
    /// Show one job
    Show(JobArgs),
    /// Follow a job until it has ended, or until nobody works on it in a data folder; exit code 0 only when it has succeeded
    Watch(JobArgs),
    /// List the images of a job
    Images(ImagesArgs),
    /// Tell why the parts of a job wait
    Explain(JobArgs),
    /// Tell what happened to a job, an image or a worker
    History(HistoryArgs),
    /// Print what workers logged about an image
    Logs(LogsArgs),
    /// List connected workers with their devices and what they hold
    Workers(ListArgs),
    /// Ask a worker to leave: it finishes the image in hand and hands back the rest
    Drain(DrainArgs),
    /// Lease nothing new of a job until it is resumed
    Pause(ChangeArgs),
    /// Let a paused job go on
    Resume(ChangeArgs),
    /// Change which job goes first
    Priority(PriorityArgs),
    /// Try the failed images of a job again
    Retry(RetryArgs),
    /// Cancel a job; finished images stay
    Cancel(ChangeArgs),
    /// Hold the jobs of an owner back, or change their share
    Owner(OwnerArgs),
    /// Write what the manifest tells of a job, ended or not, as Parquet, CSV or JSON lines
    Export(ExportArgs),
    /// Look whether the objects of a job are what the history says, and have lost pictures rendered again
    Verify(VerifyArgs),
    /// Render a picture again from its own recipe and tell whether it is the same
    Reproduce(ReproduceArgs),
    /// List what lies in an output and belongs to nobody, and delete it
    Gc(GcArgs),
    /// Ask the history one read-only SQL question
    Sql(SqlArgs),
    /// Make, list and end tokens, and certificates of a CA of your own
    Token(TokenArgs),
    /// List, download, check and remove models on this machine
    Models(ModelsArgs),
    /// Print completions for a shell
    Completions(CompletionsArgs),
    /// Write the manual pages to a folder
    Man(ManArgs),
}

/// `render`.
#[derive(Debug, Args)]
pub struct RenderArgs {
    /// The list and what to make of it.
    #[command(flatten)]
    pub submission: SubmissionArgs,
    /// Folder of the database and the models [env: SANAFARM_DATA=] [default: .sanafarm]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Read and check the whole list, tell what it would take, and render nothing
    #[arg(long)]
    pub dry_run: bool,
    /// End with one JSON object on standard output
    #[arg(long)]
    pub json: bool,
}

/// `submit`.
#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// The list and what to make of it.
    #[command(flatten)]
    pub submission: SubmissionArgs,
    /// What the farm makes of it.
    #[command(flatten)]
    pub scheduling: SchedulingArgs,
    /// Whose job it is: an admin may name anybody [default: the token's owner, or else the user]
    #[arg(long, value_name = "NAME")]
    pub owner: Option<String>,
    /// Call this URL when the job has ended (docs/webhooks.md)
    #[arg(long, value_name = "URL")]
    pub webhook: Option<String>,
    /// Address of the coordinator [env: SANAFARM_COORDINATOR=]
    #[arg(long, value_name = "ADDR")]
    pub coordinator: Option<String>,
    /// Who asks.
    #[command(flatten)]
    pub access: AccessArgs,
    /// Folder for temporary files and models [env: SANAFARM_DATA=] [default: .sanafarm]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// What is traced.
    #[command(flatten)]
    pub tracing: TracingArgs,
    /// Read and check the whole list, tell what it would take, and submit nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print the job as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `estimate`.
#[derive(Debug, Args)]
pub struct EstimateArgs {
    /// The list and what to make of it.
    #[command(flatten)]
    pub submission: SubmissionArgs,
    /// When it would begin and end.
    #[command(flatten)]
    pub timing: TimingArgs,
    /// Where images were rendered before.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// One JSON object on standard output
    #[arg(long)]
    pub json: bool,
}

/// `coordinator`.
#[derive(Debug, Args)]
pub struct CoordinatorArgs {
    /// Address to serve on; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7070")]
    pub listen: String,
    /// Folder of the database [env: SANAFARM_DATA=] [default: .sanafarm]
    #[arg(long, value_name = "DIR", conflicts_with = "database")]
    pub data: Option<PathBuf>,
    /// PostgreSQL database for any number of coordinators, such as postgres://user@host/sanafarm [env: SANAFARM_DATABASE=]
    #[arg(long, value_name = "URL")]
    pub database: Option<Secret>,
    /// A worker that is not heard of for this long is lost, and its images are given to others
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub lease_seconds: u64,
    /// Redis that carries hints between coordinators, such as redis://host:6379 [env: SANAFARM_REDIS=]
    #[arg(long, value_name = "URL")]
    pub redis: Option<Secret>,
    /// Sign upload URLs for workers, which then need no keys of the object store [env: SANAFARM_PRESIGN=]
    #[arg(long)]
    pub presign: bool,
    /// Where webhooks may go.
    #[command(flatten)]
    pub webhooks: WebhookArgs,
    /// Whom it serves.
    #[command(flatten)]
    pub serving: ServingArgs,
    /// How it is watched.
    #[command(flatten)]
    pub watching: WatchingArgs,
}

/// `worker`.
#[derive(Debug, Args)]
pub struct WorkerArgs {
    /// Address of the coordinator [env: SANAFARM_COORDINATOR=]
    #[arg(long, value_name = "ADDR")]
    pub coordinator: Option<String>,
    /// Who it is.
    #[command(flatten)]
    pub access: AccessArgs,
    /// Lasting name of this worker [default: the host name]
    #[arg(long)]
    pub name: Option<String>,
    /// Folder of the models and the outbox [env: SANAFARM_DATA=] [default: .sanafarm]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Where models are kept.
    #[command(flatten)]
    pub cache: CacheArgs,
    /// Render on auto (all CUDA devices of a build that has them, or else cpu), all, or a list such as cuda:0,cuda:2
    #[arg(long, alias = "device", value_name = "DEVICES", default_value = "auto")]
    pub devices: Devices,
    /// What jobs may ask for with --label, such as zone=eu; may be given again
    #[arg(long, value_name = "NAME=VALUE", value_parser = values::label)]
    pub label: Vec<(String, String)>,
    /// What it keeps.
    #[command(flatten)]
    pub outbox: OutboxArgs,
    /// When it leaves.
    #[command(flatten)]
    pub leaving: LeavingArgs,
    /// How it is watched.
    #[command(flatten)]
    pub watching: WatchingArgs,
}

/// `jobs`.
#[derive(Debug, Args)]
pub struct JobsArgs {
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub limit: u32,
    /// Where the jobs are.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// `workers`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Where the jobs are.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// `show`, `watch` and `explain`.
#[derive(Debug, Args)]
pub struct JobArgs {
    /// Job id, or a beginning that fits one job only
    pub job: String,
    /// Where the jobs are.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// JSON on standard output
    #[arg(long)]
    pub json: bool,
}

/// `images`.
#[derive(Debug, Args)]
pub struct ImagesArgs {
    /// Job id, or a beginning that fits one job only
    pub job: String,
    /// Only images in this state; may be given again
    #[arg(long, value_enum)]
    pub state: Vec<ImageStateName>,
    /// Only those that were given up: as --state failed
    #[arg(long)]
    pub failed: bool,
    /// At most this many [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Where the jobs are.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// `history`.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// Job id or a beginning that fits one job only, JOB/INDEX for an image of it, name of a worker, or session id
    #[arg(value_name = "JOB|JOB/INDEX|WORKER")]
    pub subject: String,
    /// The newest so many events [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// A line for each event, also where many of one sort follow each other
    #[arg(long)]
    pub all: bool,
    /// Where the jobs are.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// One JSON object for each event
    #[arg(long)]
    pub json: bool,
}

/// `logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// JOB/INDEX: an image of a job, which is told by its id or a beginning that fits one job only
    #[arg(value_name = "JOB/INDEX", value_parser = values::image)]
    pub image: (String, u64),
    /// Of this attempt only
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub attempt: Option<u32>,
    /// Where the jobs are.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// One JSON object for each attempt
    #[arg(long)]
    pub json: bool,
}

/// `export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Job id, or a beginning that fits one job only
    pub job: String,
    /// Kind of file [default: as the name of the file ends, on standard output parquet]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub format: Option<ExportFormatName>,
    /// Where to write it; it is there when it is complete [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Write over a file that is there
    #[arg(long, requires = "output")]
    pub replace: bool,
    /// Where the jobs are.
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// `sql`.
#[derive(Debug, Args)]
pub struct SqlArgs {
    /// One read-only statement over the audit views (docs/sql.md)
    #[arg(allow_hyphen_values = true)]
    pub statement: String,
    /// Where the jobs are.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Comma-separated values with a header
    #[arg(long, conflicts_with = "json")]
    pub csv: bool,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}

//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Measures a whole farm with real coordinators and simulated workers whose engine is synthetic.
#[derive(Debug, Parser)]
#[command(name = "farm-bench", args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What the program does when it runs itself again.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The measurement.
    #[command(flatten)]
    pub bench: BenchArgs,
}

/// A part of the farm in a process of its own.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// A coordinator; started by the benchmark itself
    #[command(hide = true)]
    Coordinator(CoordinatorArgs),
    /// Simulated workers; started by the benchmark itself
    #[command(hide = true)]
    Workers(WorkersArgs),
}

/// What is measured.
#[derive(Clone, Debug, Args)]
pub struct BenchArgs {
    /// URL of a PostgreSQL database or path of a SQLite file; without it a PostgreSQL server is started in a
    /// temporary folder, with the settings that it has after its installation
    #[arg(long)]
    pub database: Option<String>,
    /// Images of the job, each with a prompt of its own
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub images: u64,
    /// Simulated workers, each with a session and a connection of its own
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub workers: u32,
    /// Coordinator processes
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub coordinators: u32,
    /// Images of a shard
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub shard_images: u32,
    /// How long the synthetic engine takes for an image, give or take a tenth
    #[arg(long, default_value_t = 0.0, value_parser = seconds)]
    pub image_seconds: f64,
    /// The workers ask for their first shard spread over this time
    #[arg(long, default_value_t = 0.0, value_parser = seconds)]
    pub ramp_seconds: f64,
    /// How long the farm is watched at rest, after the job; 0 leaves out what is measured then, which the count of
    /// transactions is part of
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    pub idle_seconds: f64,
    /// Simulated workers of a process at most
    #[arg(long, default_value_t = 250, value_parser = clap::value_parser!(u32).range(1..))]
    pub process_workers: u32,
    /// URL of a Redis server for the coordinators
    #[arg(long)]
    pub redis: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// A coordinator.
#[derive(Clone, Debug, Args)]
pub struct CoordinatorArgs {
    /// URL of a PostgreSQL database or path of a SQLite file
    #[arg(long)]
    pub database: String,
    /// Folder for what is on its way to the output
    #[arg(long)]
    pub scratch: PathBuf,
    /// URL of a Redis server
    #[arg(long)]
    pub redis: Option<String>,
    /// What a shard should take
    #[arg(long)]
    pub shard_seconds: f64,
}

/// Simulated workers.
#[derive(Clone, Debug, Args)]
pub struct WorkersArgs {
    /// Address of a coordinator; the workers are spread over all that are named
    #[arg(long, required = true)]
    pub coordinator: Vec<String>,
    /// Number of the first one
    #[arg(long)]
    pub first: u32,
    /// How many
    #[arg(long)]
    pub count: u32,
    /// How long the synthetic engine takes for an image
    #[arg(long)]
    pub image_seconds: f64,
    /// What it says that it took
    #[arg(long)]
    pub told_seconds: f64,
    /// Time between the first shards of two workers that follow each other
    #[arg(long)]
    pub ramp_step_seconds: f64,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("give seconds from 0 to 86400".to_owned()),
    }
}

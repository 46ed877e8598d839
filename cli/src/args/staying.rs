//! What a worker keeps, and when it leaves.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use sanafarm_worker::{Limits, Notices, Spot};

use super::values;

/// Finished images on their way to the output.
#[derive(Debug, Args)]
pub struct OutboxArgs {
    /// Folder on a local disk for finished images until they are acknowledged [default: outbox in the folder of models, if one is
    /// named, or else in the data folder]
    #[arg(long, value_name = "DIR")]
    pub outbox: Option<PathBuf>,
    /// Finished images that may wait there: the device waits beyond that
    #[arg(long, value_name = "BYTES", value_parser = values::bytes, default_value = "10GB")]
    pub outbox_size: u64,
    /// Uploads at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256), default_value_t = 8)]
    pub uploads: u32,
}

/// When a worker leaves.
#[derive(Debug, Args)]
pub struct LeavingArgs {
    /// How long finished images may still be uploaded when it leaves; the others wait in the outbox
    #[arg(long, value_name = "TIME", value_parser = values::duration, default_value = "25s")]
    pub drain_timeout: Duration,
    /// Leave when there was no work for so long, such as 10m
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    pub max_idle: Option<Duration>,
    /// Take on so many jobs, and leave when nothing is left to do of them
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_jobs: Option<u32>,
    /// Leave after such a time, such as 12h
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    pub max_lifetime: Option<Duration>,
    /// Whose spot machine it is: leave when its cloud is about to take it back
    #[arg(long, value_name = "CLOUD", value_enum, default_value = "none")]
    pub spot: SpotName,
    /// Where that cloud answers [default: http://169.254.169.254]
    #[arg(long, value_name = "URL")]
    pub spot_endpoint: Option<String>,
    /// Leave when there is such a file
    #[arg(long, value_name = "PATH")]
    pub drain_file: Option<PathBuf>,
    /// Leave when this shell command, run every few seconds, ends with 0
    #[arg(long, value_name = "CMD")]
    pub drain_command: Option<String>,
}

/// `--spot`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SpotName {
    /// Amazon
    Aws,
    /// Google
    Gcp,
    /// Whichever answers at the start
    Auto,
    /// Ask nobody
    None,
}

impl LeavingArgs {
    /// When it leaves by itself.
    pub fn limits(&self) -> Limits {
        Limits {
            max_idle: self.max_idle,
            max_jobs: self.max_jobs.map(|jobs| jobs as usize),
            max_lifetime: self.max_lifetime,
        }
    }

    /// What it listens for.
    pub fn notices(&self) -> Notices {
        let spot = match self.spot {
            SpotName::Aws => Spot::Aws,
            SpotName::Gcp => Spot::Gcp,
            SpotName::Auto => Spot::Auto,
            SpotName::None => Spot::None,
        };
        Notices {
            spot,
            spot_endpoint: self.spot_endpoint.clone(),
            file: self.drain_file.clone(),
            command: self.drain_command.clone(),
        }
    }
}

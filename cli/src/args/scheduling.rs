//! Which workers a job gets, and when.

use clap::Args;
use jiff::Timestamp;

use super::values::{self, DeviceKindName};

/// Which workers a job gets, and when.
#[derive(Clone, Debug, Args)]
pub struct SchedulingArgs {
    /// Higher goes first; waiting without a worker adds 1 every ten minutes
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true,
        value_parser = clap::value_parser!(i32).range(-1000..=1000))]
    pub priority: i32,
    /// When it begins and ends.
    #[command(flatten)]
    pub timing: TimingArgs,
    /// Only on workers with this label; may be given again
    #[arg(long, value_name = "NAME=VALUE", value_parser = values::label)]
    pub label: Vec<(String, String)>,
    /// Only on workers with such a device
    #[arg(long, value_enum, value_name = "KIND")]
    pub device_kind: Option<DeviceKindName>,
    /// Only on workers with this much free device memory, such as 24GB
    #[arg(long, value_name = "SIZE", value_parser = values::bytes, default_value_t = 0, hide_default_value = true)]
    pub min_memory: u64,
}

/// When a job may begin, and when it ends.
#[derive(Clone, Debug, Default, Args)]
pub struct TimingArgs {
    /// Wait until this job has succeeded; cancelled when it fails or is cancelled; may be given again
    #[arg(long, value_name = "JOB")]
    pub after: Vec<String>,
    /// Wait until this job has ended in any way; may be given again
    #[arg(long, value_name = "JOB")]
    pub after_any: Vec<String>,
    /// Cancel what is not rendered by then: 2026-11-30T08:00:00Z, or from now on 90m, 2h, 3d
    #[arg(long, value_name = "TIME", value_parser = values::deadline)]
    pub deadline: Option<Timestamp>,
}

//! What processes tell of themselves: metrics, health, traces and logs.

mod logs;
mod metrics;
pub mod receiver;
mod traces;

use crate::support::{Sandbox, wait_until};

/// Where a process of this role serves its metrics.
fn metrics_of(sandbox: &Sandbox, role: &str) -> String {
    let before = format!("{role} serves metrics on http://");
    let mut address = None;
    wait_until("the address of its metrics", || {
        let log = sandbox.running_log();
        let line = log.lines().find_map(|line| line.split_once(&before));
        address = line.and_then(|(_, rest)| Some(rest.split_once("/metrics")?.0.to_owned()));
        address.is_some()
    });
    address.unwrap()
}

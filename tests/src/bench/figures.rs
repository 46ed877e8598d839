//! What is printed.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::error::Error;

/// One measurement. What the system or the database does not tell is null.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// What stands in for the model.
    pub engine: &'static str,
    /// Images of the job.
    pub images: u64,
    /// Simulated workers, each with a session.
    pub workers: u32,
    /// HTTP/2 connections of the workers: one each.
    pub connections: u32,
    /// Processes that the workers run in.
    pub worker_processes: usize,
    /// Coordinator processes.
    pub coordinators: u32,
    /// Images of a shard as asked for.
    pub shard_images: u32,
    /// Images of the largest shard that was leased.
    pub shard_images_leased: i64,
    /// Time that an image takes.
    pub image_seconds: f64,
    /// Time over which the workers began.
    pub ramp_seconds: f64,
    /// Name and version of the database.
    pub database: String,
    /// Whether the coordinators had Redis.
    pub redis: bool,
    /// Whether the benchmark started the database.
    pub own_database: bool,
    /// Those of its settings that decide what a commit costs.
    pub database_settings: BTreeMap<String, String>,
    /// Cores of the machine, which everything shares.
    pub machine_cores: usize,
    /// From the first prompt to the answer after the last.
    pub submit_seconds: f64,
    /// Prompts over that time.
    pub submit_prompts_per_s: f64,
    /// CPU seconds of all coordinators over that time.
    pub submit_coordinator_cpu_share: Option<f64>,
    /// The same of the server, if the benchmark started it.
    pub submit_database_cpu_share: Option<f64>,
    /// From the moment the workers begin to the last committed result.
    pub commit_seconds: f64,
    /// Results over that time.
    pub committed_images_per_s: f64,
    /// Calls for a shard that were answered with one that was ready.
    pub claims: usize,
    /// Those that waited at the end of the job for what another worker had, or for a lease that was lost.
    pub taken_over: u64,
    /// How long they took, half of them at most.
    pub claim_ms_p50: f64,
    /// How long they took, all but one of a hundred at most.
    pub claim_ms_p99: f64,
    /// How long the longest took.
    pub claim_ms_max: f64,
    /// Calls that reported results.
    pub reports: u64,
    /// Calls that renewed leases.
    pub renewals: u64,
    /// Calls that were tried again.
    pub retries: u64,
    /// Results that came a second time.
    pub known_results: u64,
    /// Leases that a renewal found gone.
    pub gone_leases: u64,
    /// CPU seconds of all coordinators over the time of the work.
    pub coordinator_cpu_share: Option<f64>,
    /// The same of the simulated workers.
    pub worker_cpu_share: Option<f64>,
    /// The same of the server, if the benchmark started it.
    pub database_cpu_share: Option<f64>,
    /// Most memory that a coordinator ever had in use.
    pub coordinator_rss_bytes: Option<u64>,
    /// From the last committed result to the end of the job, in which its manifest is written.
    pub finish_seconds: f64,
    /// Transactions from the submission to the end of the job.
    pub db_transactions_per_image: Option<f64>,
    /// How long the farm was watched at rest, all sessions open.
    pub idle_seconds: f64,
    /// CPU seconds of all coordinators over that time.
    pub idle_coordinator_cpu_share: Option<f64>,
    /// The same of the server, if the benchmark started it.
    pub idle_database_cpu_share: Option<f64>,
    /// Transactions a second at rest.
    pub idle_transactions_per_s: Option<f64>,
}

impl Figures {
    /// One object on one line.
    pub fn json(&self) -> Result<String, Error> {
        serde_json::to_string(self)
            .map_err(|error| Error::Farm(format!("write the figures as JSON: {error}")))
    }

    /// One figure a line.
    pub fn table(&self) -> Result<String, Error> {
        let figures = serde_json::to_value(self)
            .map_err(|error| Error::Farm(format!("write the figures as a table: {error}")))?;
        let Value::Object(figures) = figures else { return Ok(figures.to_string()) };
        let width = figures.keys().map(String::len).max().unwrap_or(0);
        let lines = figures.iter().map(|(name, value)| format!("{name:width$}  {}", cell(value)));
        Ok(lines.collect::<Vec<_>>().join("\n"))
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "not known".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => {
            let number = number.as_f64().unwrap_or(f64::NAN);
            if number.abs() < 10.0 { format!("{number:.3}") } else { format!("{number:.1}") }
        }
        Value::Object(settings) => {
            let settings = settings.iter().map(|(name, value)| format!("{name} {}", cell(value)));
            settings.collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

/// The value below which this part of the sorted values lies; 0 of none.
pub fn quantile(sorted: &[u64], part: f64) -> u64 {
    let rank = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!(
            (quantile(&hundred, 0.5), quantile(&hundred, 0.99), quantile(&hundred, 1.0)),
            (50, 99, 100)
        );
        assert_eq!((quantile(&[7], 0.5), quantile(&[], 0.5)), (7, 0));
    }
}

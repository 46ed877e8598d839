//! Ends jobs whose images all have their result: first the manifest, then the state. A crash in between does it
//! all again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::manifest;
use crate::domain::id::JobId;
use crate::farm::Farm;
use crate::store;
use crate::store::records::Job;

/// Longest wait between two attempts at an output that cannot be written.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A job whose output cannot be written.
struct Trouble {
    wait: Duration,
    again_at: Instant,
}

pub(super) async fn run(farm: Arc<Farm>) {
    let mut troubles = HashMap::new();
    loop {
        if let Err(error) = round(&farm, &mut troubles).await {
            tracing::warn!(%error, "look for jobs to finish");
        }
        tokio::select! {
            () = farm.stop.cancelled() => return,
            () = farm.live.until_complete() => {}
            () = tokio::time::sleep(farm.options.sweep_interval) => {}
        }
    }
}

async fn round(farm: &Farm, troubles: &mut HashMap<JobId, Trouble>) -> store::Result<()> {
    let jobs = farm.store.jobs_to_finish().await?;
    troubles.retain(|id, _| jobs.iter().any(|job| job.id == *id));
    let scratch = farm.scratch();
    for job in jobs {
        if farm.stop.is_cancelled() {
            return Ok(());
        }
        if troubles.get(&job.id).is_some_and(|trouble| Instant::now() < trouble.again_at) {
            continue;
        }
        let written = tokio::select! {
            () = farm.stop.cancelled() => return Ok(()),
            written = manifest::write(farm.store.as_ref(), &job, &scratch) => written,
        };
        match written {
            Ok(()) => {
                let ended = farm.store.finish_job(&job.id, Timestamp::now()).await?;
                troubles.remove(&job.id);
                tracing::info!(job = %ended.id, state = %ended.state, done = ended.done, failed = ended.failed, "job ended");
                farm.live.job_changed();
            }
            Err(error) => note_trouble(farm, troubles, &job, &error).await?,
        }
    }
    Ok(())
}

async fn note_trouble(
    farm: &Farm,
    troubles: &mut HashMap<JobId, Trouble>,
    job: &Job,
    error: &manifest::Error,
) -> store::Result<()> {
    let wait = match troubles.get(&job.id) {
        Some(trouble) => (trouble.wait * 2).min(LONGEST_WAIT),
        None => {
            // Once per trouble, not once per attempt.
            farm.store.record_output_error(&job.id, &error.to_string(), Timestamp::now()).await?;
            Duration::from_secs(1)
        }
    };
    tracing::error!(job = %job.id, output = job.output, %error, retry_seconds = wait.as_secs(), "write manifest");
    troubles.insert(job.id.clone(), Trouble { wait, again_at: Instant::now() + wait });
    Ok(())
}

//! What a caller may see of the jobs. A job of others is as if it were not there.

use std::collections::HashMap;

use tonic::Status;

use super::status::status;
use crate::auth::Principal;
use crate::farm::Farm;
use crate::store::Error;
use crate::store::records::{Job, Presence};

/// The job with this id or beginning, if the caller may see it.
pub(super) async fn job(farm: &Farm, who: &Principal, id: &str) -> Result<Job, Status> {
    seen(farm, who, id).await.map_err(status)
}

/// As [`job`]; one of others is not found in the very words in which one that never was is not.
pub(super) async fn seen(farm: &Farm, who: &Principal, id: &str) -> Result<Job, Error> {
    let job = farm.store.job_of(who.only_owner(), id).await?;
    if who.sees(&job) { Ok(job) } else { Err(Error::NotFound { what: "job", id: id.to_owned() }) }
}

/// Refuses an output that holds a job of others.
pub(super) async fn output(farm: &Farm, who: &Principal, output: &str) -> Result<(), Status> {
    if who.only_owner().is_none() {
        return Ok(());
    }
    let jobs = farm.store.jobs_of_output(output).await.map_err(status)?;
    if jobs.iter().all(|job| who.sees(job)) {
        return Ok(());
    }
    Err(Status::permission_denied(format!(
        "output {output} holds jobs of another owner; choose another output"
    )))
}

/// Leaves out what sessions hold of jobs of others.
pub(super) async fn leases(farm: &Farm, who: &Principal, sessions: &mut [Presence]) -> Result<(), Status> {
    if who.only_owner().is_none() {
        return Ok(());
    }
    let mut seen = HashMap::new();
    for id in sessions.iter().flat_map(|session| &session.leases).map(|lease| &lease.job) {
        if !seen.contains_key(id) {
            let job = farm.store.job(id.as_str()).await.map_err(status)?;
            seen.insert(id.clone(), who.sees(&job));
        }
    }
    for session in sessions {
        session.leases.retain(|lease| seen.get(&lease.job) == Some(&true));
    }
    Ok(())
}

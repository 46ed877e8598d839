//! One submission from its first message to its last.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::{Stream, StreamExt};
use sanafarm_proto::v1;
use sanafarm_proto::v1::submit_job_request::Part;
use sanafarm_storage::{Found, Output};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::status::{status, stopping};
use super::{convert, own};
use crate::auth::Principal;
use crate::domain::form::Layout;
use crate::domain::id::JobId;
use crate::domain::spec::JobSpec;
use crate::domain::submission::Submission;
use crate::domain::webhook;
use crate::farm::Farm;
use crate::store::records::{Begun, Job};

/// A submission of which nothing comes for this long is given up: it holds rows that nobody can see.
const SILENCE: Duration = Duration::from_secs(120);
/// How long an output may take to say what it holds.
const LOOK: Duration = Duration::from_secs(10);

/// Takes a stream of messages in. A stream that does not end in a seal leaves no job.
pub(super) async fn submit(
    farm: &Farm,
    stop: &CancellationToken,
    who: &Principal,
    mut messages: impl Stream<Item = Result<v1::SubmitJobRequest, Status>> + Unpin,
) -> Result<(Job, bool), Status> {
    let Some(Part::Spec(spec)) = next(stop, &mut messages).await? else {
        return Err(Status::invalid_argument("a submission begins with its spec"));
    };
    let spec = owned(farm, who, convert::spec(spec)?).await?;
    allow_webhook(farm, &spec)?;
    // Asks the clean spec before anything is written.
    let speeds = farm.store.speeds(&spec.model).await.map_err(status)?;
    let mut submission = Submission::new(spec.clone(), farm.options.target_shard_duration, speeds)
        .map_err(|invalid| status(invalid.into()))?;
    let (job, before) = match farm.store.begin_job(&spec, farm.store.clock()).await.map_err(status)? {
        Begun::Existing(job) if who.sees(&job) => return Ok((*job, true)),
        Begun::Existing(_) => {
            return Err(Status::permission_denied("this client token is that of a job of another owner"));
        }
        Begun::New(job, before) => {
            submission.continue_after(before);
            (job, before)
        }
    };
    // What earlier jobs of this database have written there is this one's to write anew.
    let foreign = if before == 0 { foreign_manifest(&spec.output, stop).await } else { None };
    let filled = match foreign {
        Some(refused) => Err(refused),
        None => fill(farm, stop, &job, submission, messages).await,
    };
    match filled {
        Ok(job) => {
            tracing::info!(job = %job.id, images = job.images, "job submitted");
            Ok((job, false))
        }
        Err(refused) => {
            if let Err(error) = farm.store.abandon_job(&job).await {
                // Nobody can see or lease it, and the next process to open the database drops it.
                tracing::warn!(%job, %error, "abandon unsealed job");
            }
            farm.live.job_abandoned();
            Err(refused)
        }
    }
}

/// The spec as its caller may submit it.
async fn owned(farm: &Farm, who: &Principal, mut spec: JobSpec) -> Result<JobSpec, Status> {
    spec.owner = who.owner_of_new(spec.owner)?;
    if let Some(owner) = who.only_owner() {
        own::output(farm, who, &spec.output).await?;
        for wanted in &mut spec.after {
            wanted.job = own::job(farm, who, &wanted.job).await?.id.to_string();
        }
        // The same list of two owners is two jobs, whatever is in their names.
        spec.client_token = format!("{}/{owner}/{}", owner.len(), spec.client_token);
    }
    Ok(spec)
}

/// Refuses a webhook that would never be called.
fn allow_webhook(farm: &Farm, spec: &JobSpec) -> Result<(), Status> {
    let Some(url) = &spec.webhook else { return Ok(()) };
    let url = webhook::parse(url).map_err(|invalid| status(invalid.into()))?;
    let Some(webhooks) = &farm.options.webhooks else {
        return Err(Status::failed_precondition(
            "this coordinator calls no webhooks; ask its operator to start it with --webhook-hosts HOST",
        ));
    };
    webhooks.check(&url).map_err(Status::permission_denied)
}

/// Refuses an output that a job of another database has written its manifest to: this job's would replace it. An
/// output that cannot be looked at from here is left to the workers and to the end of the job, who tell why.
async fn foreign_manifest(output: &str, stop: &CancellationToken) -> Option<Status> {
    tokio::select! {
        () = stop.cancelled() => Some(stopping()),
        found = timeout(LOOK, manifest_in(output)) => {
            let name = found.unwrap_or_default()?;
            let text = format!("output {output} holds the {name} of another job; choose another output");
            Some(Status::already_exists(text))
        }
    }
}

/// A manifest or index that lies there; none when nobody can say.
async fn manifest_in(output: &str) -> Option<&'static str> {
    let place = output.to_owned();
    let opened = tokio::task::spawn_blocking(move || Output::open(&place)).await.ok()?.ok()?;
    let names: BTreeSet<&'static str> =
        Layout::ALL.iter().flat_map(|layout| layout.indices()).copied().collect();
    for name in names {
        match opened.get(name, 0).await {
            Ok(Found::Object(_) | Found::Larger) => return Some(name),
            Ok(Found::Nothing) => {}
            Err(_) => return None,
        }
    }
    None
}

async fn fill(
    farm: &Farm,
    stop: &CancellationToken,
    job: &JobId,
    mut submission: Submission,
    mut messages: impl Stream<Item = Result<v1::SubmitJobRequest, Status>> + Unpin,
) -> Result<Job, Status> {
    let mut rows = 0;
    loop {
        match next(stop, &mut messages).await? {
            Some(Part::Spec(_)) => return Err(Status::invalid_argument("a submission has one spec only")),
            Some(Part::Batch(batch)) => {
                rows += batch.rows.len() as u64;
                if rows > farm.options.max_prompts {
                    return Err(Status::resource_exhausted(format!(
                        "the list has more than {} prompts; send it as several jobs",
                        farm.options.max_prompts
                    )));
                }
                for row in batch.rows {
                    submission.push(convert::row(row)).map_err(|invalid| status(invalid.into()))?;
                    if submission.is_full() {
                        let batch = submission.take_batch();
                        farm.store.add_batch(job, &batch, farm.store.clock()).await.map_err(status)?;
                    }
                }
            }
            Some(Part::Seal(seal)) => {
                let last = submission.seal(seal.rows).map_err(|invalid| status(invalid.into()))?;
                return farm.store.seal_job(job, &last, farm.store.clock()).await.map_err(status);
            }
            None => {
                return Err(Status::invalid_argument("the submission ended without its seal; submit again"));
            }
        }
    }
}

async fn next(
    stop: &CancellationToken,
    messages: &mut (impl Stream<Item = Result<v1::SubmitJobRequest, Status>> + Unpin),
) -> Result<Option<Part>, Status> {
    let message = tokio::select! {
        () = stop.cancelled() => return Err(stopping()),
        message = timeout(SILENCE, messages.next()) => message.map_err(|_| {
            let text = format!("nothing came for {} seconds; submit again", SILENCE.as_secs());
            Status::deadline_exceeded(text)
        })?,
    };
    match message {
        Some(message) => message?.part.map(Some).ok_or_else(|| convert::missing("part")),
        None => Ok(None),
    }
}

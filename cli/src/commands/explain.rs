//! `sanafarm explain`: why the parts of a job wait.

use sanafarm_proto::v1::job_service_client::JobServiceClient;
use sanafarm_proto::v1::{ExplainJobRequest, ExplainJobResponse};
use serde_json::{Value, json};

use super::alone;
use crate::args::JobArgs;
use crate::connect::Connection;
use crate::error::{Error, Exit};
use crate::job_view::{job_state, time_json};
use crate::printer::Printer;
use crate::printer::amounts::counted;

/// Tells a part a line.
pub async fn run(args: JobArgs, printer: &Printer) -> Result<Exit, Error> {
    let connection = Connection::reading(args.place.into()).await?;
    let mut client = JobServiceClient::new(connection.channel.clone());
    let what = || format!("explain job {}", args.job);
    let answer = client.explain_job(ExplainJobRequest { job_id: args.job.clone() }).await;
    let explained = answer.map_err(|status| Error::call(what(), &status))?.into_inner();
    let job =
        explained.job.as_ref().ok_or_else(|| Error::failure(what()).because("the answer holds no job"))?;
    if args.json {
        printer.data(explained_json(&explained))?;
    } else {
        let (id, state) = (&job.job_id, job_state(job.state()));
        let failed = if job.failed == 0 {
            String::new()
        } else {
            format!(", {} failed", counted(job.failed, "image"))
        };
        printer.data(format!(
            "job {id} is {state}: {} of {} are there{failed}",
            job.done,
            counted(job.images, "image")
        ))?;
        for part in &explained.parts {
            printer.data(format!("- {}", part.text))?;
        }
        let workers =
            format!("{} of {} connected workers have what it needs", explained.fitting, explained.workers);
        printer.data(workers)?;
    }
    alone::tell_abandoned(&connection, job, printer);
    drop(client);
    connection.close().await;
    Ok(Exit::Success)
}

fn explained_json(explained: &ExplainJobResponse) -> Value {
    let parts: Vec<_> = explained
        .parts
        .iter()
        .map(|part| {
            json!({
                "shards": part.shards,
                "cause": part.cause,
                "text": part.text,
                "at": time_json(part.at.as_ref()),
            })
        })
        .collect();
    json!({
        "job_id": explained.job.as_ref().map(|job| &job.job_id),
        "state": explained.job.as_ref().map(|job| job_state(job.state())),
        "parts": parts,
        "workers": explained.workers,
        "fitting": explained.fitting,
    })
}

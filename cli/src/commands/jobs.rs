//! `sanafarm jobs`: the newest jobs.

use sanafarm_proto::v1::ListJobsRequest;
use sanafarm_proto::v1::job_service_client::JobServiceClient;

use super::alone;
use crate::args::JobsArgs;
use crate::connect::Connection;
use crate::error::{Error, Exit};
use crate::job_view::{job_json, job_state};
use crate::printer::{Printer, Table};

/// Lists jobs, newest first.
pub async fn run(args: JobsArgs, printer: &Printer) -> Result<Exit, Error> {
    let connection = Connection::reading(args.place.into()).await?;
    let mut client = JobServiceClient::new(connection.channel.clone());
    let answer = client.list_jobs(ListJobsRequest { states: Vec::new(), limit: args.limit }).await;
    let jobs = answer.map_err(|status| Error::call("list jobs", &status))?.into_inner().jobs;
    if args.json {
        for job in &jobs {
            printer.data(job_json(job))?;
        }
    } else {
        let mut table = Table::on_stdout(&["job", "name", "state", "images", "done", "failed", "submitted"]);
        for job in &jobs {
            table.row(vec![
                job.job_id.clone(),
                job.name.clone(),
                job_state(job.state()).to_owned(),
                job.images.to_string(),
                job.done.to_string(),
                job.failed.to_string(),
                job.submitted_at.as_ref().map(ToString::to_string).unwrap_or_default(),
            ])?;
        }
        table.finish()?;
    }
    alone::tell_all_abandoned(&connection, &jobs, printer);
    drop(client);
    connection.close().await;
    Ok(Exit::Success)
}

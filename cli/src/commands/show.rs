//! `sanafarm show`: one job.

use sanafarm_proto::v1::job_service_client::JobServiceClient;
use sanafarm_proto::v1::{GetJobRequest, Job};

use super::alone;
use crate::args::JobArgs;
use crate::connect::Connection;
use crate::error::{Error, Exit};
use crate::job_view::{job_json, job_lines};
use crate::printer::Printer;

/// Shows a job.
pub async fn run(args: JobArgs, printer: &Printer) -> Result<Exit, Error> {
    let connection = Connection::reading(args.place.into()).await?;
    let mut client = JobServiceClient::new(connection.channel.clone());
    let answer = client.get_job(GetJobRequest { job_id: args.job.clone() }).await;
    let job = answer.map_err(|status| Error::call(format!("show job {}", args.job), &status))?.into_inner();
    print(&job, args.json, printer)?;
    alone::tell_abandoned(&connection, &job, printer);
    drop(client);
    connection.close().await;
    Ok(Exit::Success)
}

/// Prints a job as JSON or as lines.
pub fn print(job: &Job, json: bool, printer: &Printer) -> Result<(), Error> {
    if json {
        return printer.data(job_json(job));
    }
    job_lines(job).into_iter().try_for_each(|(name, value)| printer.data(format!("{name:9} {value}")))
}

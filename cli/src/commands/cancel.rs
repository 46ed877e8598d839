//! `sanafarm cancel`: end a job.

use sanafarm_proto::v1::CancelJobRequest;
use sanafarm_proto::v1::job_service_client::JobServiceClient;

use super::show;
use crate::args::CancelArgs;
use crate::connect::{Connection, Place};
use crate::error::{Error, Exit};
use crate::printer::Printer;

/// Cancels a job and shows how it stands then.
pub async fn run(args: CancelArgs, printer: &Printer) -> Result<Exit, Error> {
    let connection = Connection::changing(Place { coordinator: args.coordinator, data: None }).await?;
    let mut client = JobServiceClient::new(connection.channel.clone());
    let answer = client.cancel_job(CancelJobRequest { job_id: args.job.clone() }).await;
    let job = answer.map_err(|status| Error::call(format!("cancel job {}", args.job), &status))?.into_inner();
    show::print(&job, args.json, printer)?;
    drop(client);
    connection.close().await;
    Ok(Exit::Success)
}

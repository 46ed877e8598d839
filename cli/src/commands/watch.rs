//! `sanafarm watch`: follow a job to its end.

use sanafarm_proto::v1::job_service_client::JobServiceClient;
use sanafarm_proto::v1::{Job, JobState, WatchJobRequest};

use super::show;
use crate::args::JobArgs;
use crate::connect::Connection;
use crate::error::{Error, Exit};
use crate::job_view::{has_ended, job_json};
use crate::printer::Printer;
use crate::progress::Progress;

/// Follows a job. Ends well when the job has succeeded.
pub async fn run(args: JobArgs, printer: &Printer) -> Result<Exit, Error> {
    let connection = Connection::reading(args.place.into()).await?;
    let mut client = JobServiceClient::new(connection.channel.clone());
    let failed = |status| Error::call(format!("watch job {}", args.job), &status);
    let answer = client.watch_job(WatchJobRequest { job_id: args.job.clone() }).await;
    let mut updates = answer.map_err(failed)?.into_inner();
    let mut progress: Option<Progress> = None;
    let mut last: Option<Job> = None;
    while let Some(job) = updates.message().await.map_err(failed)? {
        if args.json {
            printer.data(job_json(&job))?;
        } else {
            progress.get_or_insert_with(|| Progress::start(&job, printer)).update(&job);
        }
        last = Some(job);
    }
    if let Some(progress) = progress {
        progress.finish();
    }
    let job = last.filter(has_ended).ok_or_else(|| {
        Error::failure(format!("watch job {}", args.job))
            .because("the coordinator ended the stream before the job")
    })?;
    if !args.json {
        show::print(&job, false, printer)?;
    }
    drop((client, updates));
    connection.close().await;
    Ok(if job.state() == JobState::Succeeded { Exit::Success } else { Exit::Failure })
}

//! `sanafarm submit`: hand a prompt list to a coordinator.

use sanafarm_coordinator::domain::schedule::DeviceKind;
use sanafarm_proto::v1::job_service_client::JobServiceClient;
use sanafarm_proto::v1::{JobSpec, JobState, Needs};

use super::{estimate, timing};
use crate::args::{SchedulingArgs, SubmitArgs};
use crate::connect::{Connection, Place};
use crate::data_folder::DataFolder;
use crate::error::{Error, Exit};
use crate::job_view::{job_json, job_state};
use crate::printer::Printer;
use crate::submission::{GoodList, Submission, report_skipped, submitted_model};

/// Submits a job and prints its id.
pub async fn run(mut args: SubmitArgs, printer: &Printer) -> Result<Exit, Error> {
    let data = DataFolder::choose(args.data);
    let place = Place { coordinator: args.coordinator, data: None };
    if args.dry_run {
        let history = Connection::history(&place, &data).await?;
        let timing = args.scheduling.timing;
        return estimate::rehearse(&args.submission, timing, &data, history, args.json, printer).await;
    }
    // Looking for a coordinator costs less than reading a million lines.
    let connection = Connection::changing(place).await?;
    timing::find_jobs(&mut args.scheduling.timing, &connection.channel).await?;
    data.create()?;
    let list = GoodList::read(&args.submission, &data, printer).await?;
    let model = submitted_model(&args.submission, &data, printer).await?;
    let mut submission = Submission::new(&args.submission, list, &model, printer).await?;
    schedule(&mut submission.spec, args.scheduling);
    let mut client = JobServiceClient::new(connection.channel.clone());
    let (job, existed, skipped) = submission.send(&mut client).await?;
    drop(client);
    connection.close().await;
    report_skipped(&skipped, printer);
    if existed {
        let anew =
            if job.state() == JobState::Cancelled { "; another --name makes it another job" } else { "" };
        printer.note(format!("this job was submitted before; it is {}{anew}", job_state(job.state())));
    }
    if args.json {
        printer.data(job_json(&job))?
    } else {
        printer.data(&job.job_id)?
    }
    Ok(Exit::Success)
}

/// Not a part of what makes the same command the same job: nothing of it changes a picture.
fn schedule(spec: &mut JobSpec, args: SchedulingArgs) {
    timing::apply(spec, args.timing);
    spec.priority = args.priority;
    spec.needs = Some(Needs {
        labels: args.label.into_iter().collect(),
        device_kind: args
            .device_kind
            .map_or_else(String::new, |kind| DeviceKind::from(kind).word().to_owned()),
        memory_bytes: args.min_memory,
    });
}

//! `sanafarm submit`: hand a prompt list to a coordinator.

use std::time::SystemTime;

use sanafarm_coordinator::domain::schedule::DeviceKind;
use sanafarm_proto::v1::job_service_client::JobServiceClient;
use sanafarm_proto::v1::{Job, JobSpec, JobState, Needs};
use sanafarm_telemetry::trace;

use super::{estimate, timing};
use crate::args::{SchedulingArgs, SubmitArgs};
use crate::connect::{Connection, Place};
use crate::data_folder::DataFolder;
use crate::environment;
use crate::error::{Error, Exit};
use crate::job_view::{has_ended, job_json, job_state};
use crate::printer::{Printer, quoted};
use crate::submission::{GoodList, Submission, report_skipped, submitted_model};
use crate::watching::{self, Role};

/// Submits a job and prints its id.
pub async fn run(mut args: SubmitArgs, printer: &Printer) -> Result<Exit, Error> {
    let data = DataFolder::choose(args.data);
    let place = Place { coordinator: args.coordinator, data: None, access: args.access.into() };
    if args.dry_run {
        let history = Connection::history(&place, &data).await?;
        let timing = args.scheduling.timing;
        return estimate::rehearse(&args.submission, timing, &data, history, args.json, printer).await;
    }
    let address = place.coordinator.clone().unwrap_or_default();
    let is_somebody = place.access.is_somebody();
    let (start, traces) = (SystemTime::now(), watching::trace(&args.tracing, Role::Submit, "submit")?);
    // Looking for a coordinator costs less than reading a million lines.
    let connection = Connection::farm(place).await?;
    timing::find_jobs(&mut args.scheduling.timing, &connection.channel).await?;
    data.create()?;
    let list = GoodList::read(&args.submission, &data, printer).await?;
    let model = submitted_model(&args.submission, &data, printer).await?;
    let mut submission = Submission::new(&args.submission, list, &model, printer).await?;
    match args.owner {
        Some(owner) => submission.spec.owner = owner,
        // The coordinator knows.
        None if is_somebody => submission.spec.owner.clear(),
        None => {}
    }
    schedule(&mut submission.spec, args.scheduling);
    submission.spec.webhook = args.webhook.unwrap_or_default();
    let mut client = JobServiceClient::new(connection.channel.clone());
    let (job, existed, skipped) = submission.send(&mut client).await?;
    drop(client);
    connection.close().await;
    if let Some(traces) = traces {
        tell(&job, start);
        traces.close().await;
    }
    report_skipped(&skipped, printer);
    if existed {
        let anew =
            if job.state() == JobState::Cancelled { "; another --name makes it another job" } else { "" };
        printer.note(format!("this job was submitted before; it is {}{anew}", job_state(job.state())));
    }
    if args.json {
        printer.data(job_json(&job))?
    } else {
        printer.data(&job.job_id)?;
        if !has_ended(&job) {
            printer.note(format!(
                "its pictures go to {}; follow it with `sanafarm watch {}{}`",
                job.output,
                job.job_id,
                at(&address)
            ));
        }
    }
    Ok(Exit::Success)
}

/// The option that names a coordinator in another command, unless that finds it by itself.
fn at(address: &str) -> String {
    let known = environment::filled(environment::COORDINATOR).is_some_and(|known| known == address);
    match known || environment::filled(environment::CONFIG).is_some() {
        true => String::new(),
        false => format!(" --coordinator {}", quoted(address)),
    }
}

/// The span of a submission, which those of its images point to.
fn tell(job: &Job, start: SystemTime) {
    if let Some(trace) = trace::job(&job.job_id) {
        let span = trace.root("submit", start, SystemTime::now());
        let images = i64::try_from(job.images).unwrap_or(i64::MAX);
        span.with("job", job.job_id.clone()).with("name", job.name.clone()).with("images", images).record();
    }
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

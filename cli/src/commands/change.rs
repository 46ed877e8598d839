//! `sanafarm pause|resume|priority|retry|cancel`: change a job. `sanafarm owner`: change what an owner gets.

use sanafarm_proto::v1::change_job_request::Change;
use sanafarm_proto::v1::job_service_client::JobServiceClient;
use sanafarm_proto::v1::{
    By, Cancel, ChangeJobRequest, ChangeJobResponse, ChangeOwnerRequest, ErrorClass, Job, JobState, Pause,
    Resume, Retry,
};

use super::{alone, show};
use crate::args::{ChangeArgs, OwnerArgs, PriorityArgs, RetryArgs};
use crate::connect::{Connection, Place};
use crate::data_folder::DataFolder;
use crate::environment;
use crate::error::{Error, Exit};
use crate::job_view::job_state;
use crate::printer::Printer;
use crate::printer::amounts::count;

/// `pause`.
pub async fn pause(args: ChangeArgs, printer: &Printer) -> Result<Exit, Error> {
    change(args, "pause", Change::Pause(Pause {}), printer).await
}

/// `resume`.
pub async fn resume(args: ChangeArgs, printer: &Printer) -> Result<Exit, Error> {
    let what = format!("resume job {}", args.job);
    let resumed = ask(&args, "resume", &what, Change::Resume(Resume {})).await?;
    match resumed.answer.job.as_ref().and_then(|job| cannot_resume(job, &what)) {
        Some(error) => Err(error),
        None => resumed.show(&what, args.json, printer),
    }
}

/// `cancel`.
pub async fn cancel(args: ChangeArgs, printer: &Printer) -> Result<Exit, Error> {
    change(args, "cancel", Change::Cancel(Cancel {}), printer).await
}

/// `priority`.
pub async fn priority(args: PriorityArgs, printer: &Printer) -> Result<Exit, Error> {
    change(args.change, "priority", Change::Priority(args.priority), printer).await
}

/// `retry`.
pub async fn retry(args: RetryArgs, printer: &Printer) -> Result<Exit, Error> {
    let error_class = args.error_class.unwrap_or(ErrorClass::Unspecified).into();
    let (json, what) = (args.change.json, format!("retry job {}", args.change.job));
    let changed = ask(&args.change, "retry", &what, Change::Retry(Retry { error_class })).await?;
    match changed.answer.retried {
        0 => printer.note("no image of it failed so; nothing is tried again"),
        1 => printer.note("1 image is to be tried again"),
        many => printer.note(format!("{} images are to be tried again", count(many))),
    }
    changed.show(&what, json, printer)
}

/// `owner`.
pub async fn owner(args: OwnerArgs, printer: &Printer) -> Result<Exit, Error> {
    let connection =
        Connection::farm(Place { coordinator: args.coordinator, data: None, access: args.access.into() })
            .await?;
    let mut client = JobServiceClient::new(connection.channel.clone());
    let request = ChangeOwnerRequest {
        owner: args.owner.clone(),
        held: (args.hold || args.release).then_some(args.hold),
        weight: args.weight,
        by: Some(by(args.reason)),
    };
    let answer = client.change_owner(request).await;
    answer.map_err(|status| Error::call(format!("change owner {}", args.owner), &status))?;
    printer.note(format!("owner {} is changed", args.owner));
    drop(client);
    connection.close().await;
    Ok(Exit::Success)
}

/// Why nothing has come of it: an ended job was not paused.
fn cannot_resume(job: &Job, what: &str) -> Option<Error> {
    let hint = match job.state() {
        JobState::Cancelled => {
            return Some(
                Error::mistake(what)
                    .because("the job is cancelled and does not come back")
                    .hint("submit it again to another output"),
            );
        }
        JobState::Failed => format!("`sanafarm retry {} --failed` tries what failed again", job.job_id),
        JobState::Succeeded => format!("`sanafarm show {}` tells where its pictures are", job.job_id),
        JobState::Unspecified | JobState::Pending | JobState::Running | JobState::Paused => return None,
    };
    let state = job_state(job.state());
    Some(Error::mistake(what).because(format!("the job has ended: it is {state}")).hint(hint))
}

/// Changes a job and shows how it stands then.
async fn change(args: ChangeArgs, verb: &str, change: Change, printer: &Printer) -> Result<Exit, Error> {
    let what = format!("{} job {}", if verb == "priority" { "prioritise" } else { verb }, args.job);
    let changed = ask(&args, verb, &what, change).await?;
    changed.show(&what, args.json, printer)
}

/// How a job stands after a change.
struct Changed {
    answer: ChangeJobResponse,
    /// Where it is, when no coordinator was asked.
    data: Option<DataFolder>,
}

async fn ask(args: &ChangeArgs, verb: &str, what: &str, change: Change) -> Result<Changed, Error> {
    let connection = Connection::changing(args.place.clone().into(), verb).await?;
    let mut client = JobServiceClient::new(connection.channel.clone());
    let request = ChangeJobRequest {
        job_id: args.job.clone(),
        change: Some(change),
        by: Some(by(args.reason.clone())),
    };
    let answer = client.change_job(request).await.map_err(|status| Error::call(what, &status))?;
    drop(client);
    let data = connection.data().cloned();
    connection.close().await;
    Ok(Changed { answer: answer.into_inner(), data })
}

impl Changed {
    fn show(self, what: &str, json: bool, printer: &Printer) -> Result<Exit, Error> {
        let job = self.answer.job.ok_or_else(|| Error::failure(what).because("the answer holds no job"))?;
        show::print(&job, json, printer)?;
        if let Some(data) = &self.data {
            alone::tell_next(&job, data, printer);
        }
        Ok(Exit::Success)
    }
}

/// Whoever runs this.
pub(super) fn by(reason: String) -> By {
    By { actor: environment::filled("USER").unwrap_or_default(), reason }
}

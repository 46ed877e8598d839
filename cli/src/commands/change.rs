//! `sanafarm pause|resume|priority|retry|cancel`: change a job. `sanafarm owner`: change what an owner gets.

use sanafarm_proto::v1::change_job_request::Change;
use sanafarm_proto::v1::job_service_client::JobServiceClient;
use sanafarm_proto::v1::{
    By, Cancel, ChangeJobRequest, ChangeJobResponse, ChangeOwnerRequest, ErrorClass, Pause, Resume, Retry,
};

use super::show;
use crate::args::{ChangeArgs, OwnerArgs, PriorityArgs, RetryArgs};
use crate::connect::{Connection, Place};
use crate::environment;
use crate::error::{Error, Exit};
use crate::printer::Printer;

/// `pause`.
pub async fn pause(args: ChangeArgs, printer: &Printer) -> Result<Exit, Error> {
    change(args, "pause", Change::Pause(Pause {}), printer).await
}

/// `resume`.
pub async fn resume(args: ChangeArgs, printer: &Printer) -> Result<Exit, Error> {
    change(args, "resume", Change::Resume(Resume {}), printer).await
}

/// `cancel`.
pub async fn cancel(args: ChangeArgs, printer: &Printer) -> Result<Exit, Error> {
    change(args, "cancel", Change::Cancel(Cancel {}), printer).await
}

/// `priority`.
pub async fn priority(args: PriorityArgs, printer: &Printer) -> Result<Exit, Error> {
    change(args.change, "prioritise", Change::Priority(args.priority), printer).await
}

/// `retry`.
pub async fn retry(args: RetryArgs, printer: &Printer) -> Result<Exit, Error> {
    let error_class = args.error_class.unwrap_or(ErrorClass::Unspecified).into();
    let (json, what) = (args.change.json, format!("retry job {}", args.change.job));
    let changed = ask(&args.change, &what, Change::Retry(Retry { error_class })).await?;
    match changed.retried {
        0 => printer.note("no image of it failed so; nothing is tried again"),
        1 => printer.note("1 image is tried again"),
        many => printer.note(format!("{many} images are tried again")),
    }
    show_changed(changed, &what, json, printer)
}

/// `owner`.
pub async fn owner(args: OwnerArgs, printer: &Printer) -> Result<Exit, Error> {
    let connection =
        Connection::changing(Place { coordinator: args.coordinator, data: None, access: args.access.into() })
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

/// Changes a job and shows how it stands then.
async fn change(args: ChangeArgs, verb: &str, change: Change, printer: &Printer) -> Result<Exit, Error> {
    let what = format!("{verb} job {}", args.job);
    let changed = ask(&args, &what, change).await?;
    show_changed(changed, &what, args.json, printer)
}

async fn ask(args: &ChangeArgs, what: &str, change: Change) -> Result<ChangeJobResponse, Error> {
    let place =
        Place { coordinator: args.coordinator.clone(), data: None, access: args.access.clone().into() };
    let connection = Connection::changing(place).await?;
    let mut client = JobServiceClient::new(connection.channel.clone());
    let request = ChangeJobRequest {
        job_id: args.job.clone(),
        change: Some(change),
        by: Some(by(args.reason.clone())),
    };
    let answer = client.change_job(request).await.map_err(|status| Error::call(what, &status))?;
    drop(client);
    connection.close().await;
    Ok(answer.into_inner())
}

fn show_changed(
    changed: ChangeJobResponse,
    what: &str,
    json: bool,
    printer: &Printer,
) -> Result<Exit, Error> {
    let job = changed.job.ok_or_else(|| Error::failure(what).because("the answer holds no job"))?;
    show::print(&job, json, printer)?;
    Ok(Exit::Success)
}

/// Whoever runs this.
pub(super) fn by(reason: String) -> By {
    By { actor: environment::filled("USER").unwrap_or_default(), reason }
}

//! `sanafarm watch`: follow a job to its end.

use std::time::{Duration, Instant};

use sanafarm_proto::v1::job_service_client::JobServiceClient;
use sanafarm_proto::v1::{Job, JobState, WatchJobRequest};

use tokio::time::sleep;
use tonic::{Code, Status};

use super::{alone, show};
use crate::args::JobArgs;
use crate::connect::{Connection, Place};
use crate::error::{Error, Exit};
use crate::job_view::{has_ended, job_json};
use crate::printer::Printer;
use crate::progress::Progress;

/// Longest that a coordinator may be away before the watch gives up.
const PATIENCE: Duration = Duration::from_secs(600);
/// Pause before another attempt.
const PAUSE: Duration = Duration::from_secs(1);
/// How often a data folder is looked at for somebody who renders: whoever starts has it in hand within one of these.
const LOOK: Duration = Duration::from_secs(2);

/// Follows a job, over another connection when one breaks. Ends well when the job has succeeded. In a data folder on which
/// nobody works it ends as well, as with a job that failed: nothing would come.
pub async fn run(args: JobArgs, printer: &Printer) -> Result<Exit, Error> {
    let place = Place::from(args.place.clone());
    let mut connection = Connection::reading(place.clone()).await?;
    let mut view = View { printer, json: args.json, progress: None, last: None };
    let mut away_since: Option<Instant> = None;
    let job = loop {
        let before = view.last.clone();
        let error = match follow(&connection, &args.job, &mut view).await {
            Ok(Some(job)) => break job,
            Ok(None) => {
                break view.last.clone().ok_or_else(|| Error::failure("watch a job that was never told"))?;
            }
            Err(Broken::Refused(status)) => {
                return Err(Error::call(format!("watch job {}", args.job), &status));
            }
            Err(Broken::Printer(error)) => return Err(error),
            Err(Broken::Connection(error)) => error,
        };
        if view.last != before {
            away_since = None;
        }
        let since = *away_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= PATIENCE {
            return Err(Error::failure(format!("watch job {}", args.job)).because(error));
        }
        if since.elapsed() < PAUSE {
            printer.note(format!("connection lost ({error}); trying again"));
        }
        sleep(PAUSE).await;
        // An address may lead to another coordinator now.
        if let Ok(other) = Connection::reading(place.clone()).await {
            connection = other;
        }
    };
    if let Some(progress) = view.progress {
        progress.finish();
    }
    if !args.json {
        show::print(&job, false, printer)?;
    }
    alone::tell_abandoned(&connection, &job, printer);
    connection.close().await;
    Ok(if job.state() == JobState::Succeeded { Exit::Success } else { Exit::Failure })
}

/// Why a stream ended before its job.
enum Broken {
    /// The answer would be the same again.
    Refused(Status),
    /// The connection, or the coordinator behind it.
    Connection(String),
    /// Nobody reads.
    Printer(Error),
}

/// What is shown of a job.
struct View<'a> {
    printer: &'a Printer,
    json: bool,
    progress: Option<Progress>,
    last: Option<Job>,
}

impl View<'_> {
    fn show(&mut self, job: &Job) -> Result<(), Error> {
        if self.last.as_ref() == Some(job) {
            // Told again over another connection.
            return Ok(());
        }
        if self.json {
            self.printer.data(job_json(job))?;
        } else {
            self.progress.get_or_insert_with(|| Progress::start(job, self.printer)).update(job);
        }
        self.last = Some(job.clone());
        Ok(())
    }
}

/// Follows over one connection; the job when it has ended, `None` when nobody works on it.
async fn follow(connection: &Connection, job: &str, view: &mut View<'_>) -> Result<Option<Job>, Broken> {
    let broken = |status: Status| match status.code() {
        Code::InvalidArgument | Code::NotFound | Code::PermissionDenied | Code::Unauthenticated => {
            Broken::Refused(status)
        }
        _ => Broken::Connection(status.message().to_owned()),
    };
    let mut client = JobServiceClient::new(connection.channel.clone());
    let answer = client.watch_job(WatchJobRequest { job_id: job.to_owned() }).await;
    let mut updates = answer.map_err(broken)?.into_inner();
    // A token that ended meanwhile may have a successor: the next call finds out.
    let ended = |status: Status| match status.code() {
        Code::Unauthenticated => Broken::Connection(status.message().to_owned()),
        _ => broken(status),
    };
    let mut looks = tokio::time::interval(LOOK);
    let mut idle_before = false;
    loop {
        let job = tokio::select! {
            biased;
            update = updates.message() => match update.map_err(ended)? {
                Some(job) => job,
                None => break,
            },
            _ = looks.tick() => {
                let idle = connection.idle_data().is_some();
                // A command that starts may not have it in hand yet.
                if idle && idle_before && view.last.is_some() {
                    return Ok(None);
                }
                idle_before = idle;
                continue;
            }
        };
        view.show(&job).map_err(Broken::Printer)?;
        if has_ended(&job) {
            return Ok(Some(job));
        }
    }
    Err(Broken::Connection("the coordinator ended the stream before the job".to_owned()))
}

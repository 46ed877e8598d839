//! `sanafarm render`: a coordinator, a worker and one job in one process.

mod ending;
mod follow;

use std::time::Instant;

use sanafarm_coordinator::domain::form::Layout;
use sanafarm_coordinator::{Coordinator, Options};
use sanafarm_net::Channel;
use sanafarm_proto::v1::job_service_client::JobServiceClient;
use sanafarm_proto::v1::{Job, JobState};
use sanafarm_storage::Output;

use super::estimate;
use crate::args::{RenderArgs, TimingArgs};
use crate::connect::{Connection, Place};
use crate::data_folder::DataFolder;
use crate::error::{Error, Exit};
use crate::job_view::has_ended;
use crate::models;
use crate::printer::Printer;
use crate::printer::amounts::{count, counted};
use crate::submission::{GoodList, Skipped, Submission, local_model};

use ending::Ending;
use follow::Follow;

/// Renders a list, or goes on with it where an earlier run of the same command stopped.
pub async fn run(args: RenderArgs, printer: &Printer) -> Result<Exit, Error> {
    let started = Instant::now();
    let data = DataFolder::choose(args.data);
    if args.dry_run {
        let here = Place { data: Some(data.path().to_owned()), ..Place::default() };
        let history = Connection::history(&here, &data).await?;
        let timing = TimingArgs::default();
        return estimate::rehearse(&args.submission, timing, &data, history, args.json, printer).await;
    }
    data.create()?;
    let _lock = data.lock("render", None)?;
    let list = GoodList::read(&args.submission, &data, printer).await?;
    let models = models::options(args.submission.cache.clone(), &data);
    let model = local_model(&args.submission.model, &models, printer).await?;
    let submission = Submission::new(&args.submission, list, &model, printer).await?;
    let output = open_output(&submission.spec.output).await?;

    let failed = |error: sanafarm_coordinator::Error| {
        Error::failure(format!("open the database {}", data.database().display())).caused_by(&error)
    };
    // The only worker there is: trying for longer helps nobody.
    let options = Options { max_errors: 3, ..Options::file(data.database()) };
    let coordinator = Coordinator::open(options).await.map_err(failed)?;
    let result = work(&coordinator, submission, &output, models, &data, printer).await;
    coordinator.close().await;
    let seconds = started.elapsed().as_secs_f64();
    Ending { run: result?, seconds, data: &data, json: args.json, printer }.tell()
}

/// What became of a job in this run of the program.
#[derive(Debug)]
struct Run {
    /// As it is at the end.
    job: Job,
    /// Images that had a result before.
    there: Counts,
    /// Lines of the list that were left out.
    skipped: Skipped,
    /// Why not all is well; `None` when the job has succeeded.
    stop: Option<Stop>,
}

/// Images by their result.
#[derive(Clone, Copy, Debug)]
struct Counts {
    done: u64,
    failed: u64,
}

impl Counts {
    fn of(job: &Job) -> Self {
        Self { done: job.done, failed: job.failed }
    }

    /// Those that are new in `self`.
    fn since(self, before: Self) -> Self {
        let Self { done, failed } = self;
        Self { done: done.saturating_sub(before.done), failed: failed.saturating_sub(before.failed) }
    }

    fn all(self) -> u64 {
        self.done + self.failed
    }
}

/// Why a run ended without all images done.
#[derive(Debug)]
enum Stop {
    /// The user asked.
    Interrupted,
    /// Something is wrong.
    Error(Error),
}

async fn work(
    coordinator: &Coordinator,
    submission: Submission,
    output: &Output,
    models: sanafarm_worker::models::Options,
    data: &DataFolder,
    printer: &Printer,
) -> Result<Run, Error> {
    let channel = coordinator
        .local_channel()
        .await
        .map_err(|error| Error::failure("reach the coordinator in this process").caused_by(&error))?;
    let channel = Channel::from(channel);
    let mut client = JobServiceClient::new(channel.clone());
    let (job, existed, skipped) = submission.send(&mut client).await?;
    let there = Counts::of(&job);
    if has_ended(&job) {
        let stop = ending::shortfall(&mut client, &job, data).await?;
        let stop = match stop {
            Some(stop) => Some(stop),
            None => ending::missing_output(output, &job, data).await?,
        };
        let stop = stop.map(Stop::Error);
        return Ok(Run { job, there, skipped, stop });
    }
    if job.state() == JobState::Paused {
        let stop = Some(Stop::Error(ending::paused(&job, data)));
        return Ok(Run { job, there, skipped, stop });
    }
    if existed {
        let images = counted(job.images, "image");
        printer.note(format!("going on: {} of {images} are there already", count(there.all())));
    }
    let follow = Follow { client, channel, output, models, data, printer };
    let (job, stop) = follow.run(job).await?;
    Ok(Run { job, there, skipped, stop })
}

/// Opens the output, clears it of what killed processes left half-written, and tries it: a full or forbidden
/// place is told before the first picture. Others may be writing there now.
async fn open_output(output: &str) -> Result<Output, Error> {
    let failed = |error: sanafarm_storage::Error| output_error(output, &error);
    let opened = Output::open(output).map_err(failed)?;
    let swept = opened.sweep_staging().await.map_err(failed)?;
    tracing::debug!(output, swept, "cleared leftovers");
    try_output(&opened).await.map_err(failed)?;
    Ok(opened)
}

/// Whether pictures, the manifest and the metadata can be written.
async fn try_output(output: &Output) -> Result<(), sanafarm_storage::Error> {
    output.check_writable().await?;
    for name in Layout::ALL.iter().flat_map(|layout| layout.indices()) {
        output.check_replaceable(name).await?;
    }
    Ok(())
}

fn output_error(output: &str, error: &sanafarm_storage::Error) -> Error {
    let hint = match output.contains("://") {
        true => error.hint(),
        false => "name a folder that can be written with --output, or make room",
    };
    Error::mistake(format!("write to output {output}")).caused_by(error).hint(hint)
}

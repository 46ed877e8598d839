//! One worker renders while the job is watched.

use std::time::Duration;

use sanafarm_net::Channel;
use sanafarm_proto::v1::job_service_client::JobServiceClient;
use sanafarm_proto::v1::{GetJobRequest, Job, WatchJobRequest};
use sanafarm_storage::Output;
use sanafarm_worker::{Activity, OUTBOX_BYTES, Options, OutboxSettings, Shutdown, Summary, models};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tonic::Status;

use super::{Stop, ending, output_error, try_output};
use crate::data_folder::DataFolder;
use crate::error::{Error, Exit};
use crate::job_view::has_ended;
use crate::printer::Printer;
use crate::progress::Progress;
use crate::signals::Signals;

/// A job whose images are all there ends in moments, unless its manifest cannot be written: the output is
/// tried this often.
const MANIFEST_CHECK: Duration = Duration::from_secs(3);

/// What following a job needs.
pub struct Follow<'a> {
    pub client: JobServiceClient<Channel>,
    pub channel: Channel,
    pub output: &'a Output,
    pub models: models::Options,
    pub data: &'a DataFolder,
    pub printer: &'a Printer,
}

type WorkerEnd = Result<Result<Summary, sanafarm_worker::Error>, JoinError>;

impl Follow<'_> {
    /// Renders until the job has ended, the user interrupts or the worker fails. The job as it is then, and
    /// why not all is well.
    pub async fn run(mut self, job: Job) -> Result<(Job, Option<Stop>), Error> {
        let shutdown = Shutdown::default();
        let message = "finishing the image in hand, the same command goes on later; again to stop now";
        let signals = Signals::listen(shutdown.clone(), message, self.printer)?;
        let (activity, activities) = watch::channel(Vec::new());
        // Other jobs of this folder wait for their own command.
        let options = Options {
            job: Some(job.job_id.clone()),
            activity: Some(activity),
            outbox: OutboxSettings { folder: self.data.outbox(), limit: OUTBOX_BYTES },
            models: self.models.clone(),
            ..Options::new("render", self.models.cache.clone())
        };
        let mut worker = JoinSet::new();
        worker.spawn(sanafarm_worker::run(self.channel.clone(), options, shutdown.clone()));

        let job_id = job.job_id.clone();
        let mut progress = Progress::start(&job, self.printer);
        let watched = self.watch(job, &mut worker, activities, &mut progress).await;
        progress.finish();
        let interrupted = shutdown.soft.is_cancelled();
        // Whatever ended the watch, the worker leaves in order: its leases are handed back.
        shutdown.soft.cancel();
        let worker_error = match (watched, worker.join_next().await) {
            (Err(error), _) => Some(error),
            (Ok(Some(end)), _) | (Ok(None), Some(end)) => worker_error(end),
            (Ok(None), None) => None,
        };
        signals.end_at_once();
        let job = self.latest(job_id).await?;
        if !has_ended(&job) {
            return Ok((job, Some(reason(worker_error, interrupted))));
        }
        if let Some(error) = worker_error {
            tracing::warn!(error = error.what, causes = ?error.causes, "the job has ended in spite of an error");
        }
        let shortfall = ending::shortfall(&mut self.client, &job, self.data).await?;
        Ok((job, shortfall.map(Stop::Error)))
    }

    /// Watches until the job or the worker has ended; how the worker ended, if it did.
    async fn watch(
        &mut self,
        mut job: Job,
        worker: &mut JoinSet<Result<Summary, sanafarm_worker::Error>>,
        mut activities: watch::Receiver<Vec<Activity>>,
        progress: &mut Progress,
    ) -> Result<Option<WorkerEnd>, Error> {
        let request = WatchJobRequest { job_id: job.job_id.clone() };
        let mut updates = self.client.watch_job(request).await.map_err(|s| watch_error(&s))?.into_inner();
        let mut check = tokio::time::interval(MANIFEST_CHECK);
        let mut complete_before = false;
        loop {
            tokio::select! {
                update = updates.message() => {
                    let update = update.map_err(|status| watch_error(&status))?;
                    job = update.ok_or_else(|| watch_error(&Status::internal("the stream ended before the job")))?;
                    progress.update(&job);
                    if has_ended(&job) {
                        return Ok(None);
                    }
                }
                Some(end) = worker.join_next() => return Ok(Some(end)),
                Ok(()) = activities.changed() => progress.activity(&activities.borrow_and_update()),
                _ = check.tick() => {
                    let complete = job.done + job.failed == job.images;
                    if complete && complete_before {
                        let tried = try_output(self.output).await;
                        tried.map_err(|error| go_on(output_error(&job.output, &error)))?;
                        if let Some(error) = &job.output_error {
                            return Err(go_on(Error::failure("write the manifest").because(error.clone())));
                        }
                    }
                    complete_before = complete;
                }
            }
        }
    }

    async fn latest(&mut self, job_id: String) -> Result<Job, Error> {
        let answer = self.client.get_job(GetJobRequest { job_id }).await;
        Ok(answer.map_err(|status| Error::call("read the job", &status))?.into_inner())
    }
}

/// Why a run ended before its job.
fn reason(error: Option<Error>, interrupted: bool) -> Stop {
    match error {
        Some(error) => Stop::Error(error),
        None if interrupted => Stop::Interrupted,
        None => Stop::Error(Error::failure("the worker left before the job had ended")),
    }
}

fn watch_error(status: &Status) -> Error {
    Error::call("watch the job", status)
}

fn go_on(error: Error) -> Error {
    Error { exit: Exit::Failure, ..error }
        .hint("finished images are safe; run the same command again when the cause is gone")
}

fn worker_error(end: WorkerEnd) -> Option<Error> {
    match end {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => {
            let exit = Exit::of_worker(&error);
            Some(Error { exit, ..go_on(Error::failure("render").caused_by(&error)) })
        }
        Err(error) => Some(go_on(Error::failure("run the worker").caused_by(&error))),
    }
}

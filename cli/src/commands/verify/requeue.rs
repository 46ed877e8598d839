//! Having lost pictures rendered again.

use std::collections::BTreeMap;

use sanafarm_net::Channel;
use sanafarm_proto::v1::change_job_request::Change;
use sanafarm_proto::v1::job_service_client::JobServiceClient;
use sanafarm_proto::v1::{ChangeJobRequest, Job, JobState, Requeue};
use sanafarm_storage::Output;

use super::problem::{Lost, Problem};
use crate::commands::change::by;
use crate::error::Error;
use crate::output::storage_error;
use crate::printer::Printer;

/// Images that are handed in at a time.
const BATCH: usize = 1000;

/// Gathers the images whose pictures are lost, and hands them in.
pub struct Requeuer {
    client: JobServiceClient<Channel>,
    output: Output,
    job: String,
    reason: String,
    printer: Printer,
    /// By index and object.
    waiting: BTreeMap<(u64, String), Lost>,
    requeued: u64,
}

/// Whether pictures of a job can be rendered again at all: told before anything is removed.
pub fn check(job: &Job) -> Result<(), Error> {
    if job.state() != JobState::Cancelled {
        return Ok(());
    }
    Err(Error::mistake(format!("render pictures of job {} again", job.job_id))
        .because("it was cancelled")
        .hint("render its list as another job, to another output"))
}

impl Requeuer {
    pub fn new(
        client: JobServiceClient<Channel>,
        output: Output,
        job: &Job,
        reason: String,
        printer: &Printer,
    ) -> Self {
        Self {
            client,
            output,
            job: job.job_id.clone(),
            reason,
            printer: printer.clone(),
            waiting: BTreeMap::new(),
            requeued: 0,
        }
    }

    /// Notes what is to be rendered again because of it.
    pub async fn note(&mut self, problem: &Problem) -> Result<(), Error> {
        if let Some(lost) = &problem.lost {
            self.waiting.insert((lost.index, lost.object.clone()), lost.clone());
        }
        if self.waiting.len() >= BATCH { self.hand_in().await } else { Ok(()) }
    }

    /// Hands in the rest: how many images are rendered again.
    pub async fn finish(&mut self) -> Result<u64, Error> {
        self.hand_in().await?;
        Ok(self.requeued)
    }

    async fn hand_in(&mut self) -> Result<(), Error> {
        let mut indices = Vec::with_capacity(self.waiting.len());
        for ((index, _), lost) in std::mem::take(&mut self.waiting) {
            if self.make_room(&lost).await? && indices.last() != Some(&index) {
                indices.push(index);
            }
        }
        if indices.is_empty() { Ok(()) } else { self.ask(indices).await }
    }

    /// Images that are rendered again so far.
    pub fn requeued(&self) -> u64 {
        self.requeued
    }

    /// Has the job write its tables anew; nothing is rendered for that.
    pub async fn write_tables(&mut self) -> Result<(), Error> {
        self.ask(Vec::new()).await
    }

    async fn ask(&mut self, indices: Vec<u64>) -> Result<(), Error> {
        let request = ChangeJobRequest {
            job_id: self.job.clone(),
            change: Some(Change::Requeue(Requeue { indices })),
            by: Some(by(self.reason.clone())),
        };
        let answer = self.client.change_job(request).await;
        let answer =
            answer.map_err(|status| Error::call(format!("requeue images of job {}", self.job), &status))?;
        self.requeued += answer.into_inner().retried;
        Ok(())
    }

    /// Removes a damaged object; false when it has the hash of the history, which may be since a moment ago: then it stays.
    async fn make_room(&self, lost: &Lost) -> Result<bool, Error> {
        let Lost { object, sha256, .. } = lost;
        let failed = |error| storage_error(format!("remove the damaged {object}"), &error);
        match self.output.digest(object).await.map_err(failed)? {
            None => Ok(true),
            Some(digest) if digest.sha256 == *sha256 => {
                self.printer.warn(format!("{object} is as it was stored, and stays as it is"));
                Ok(false)
            }
            Some(_) => self.output.remove(object).await.map(|_| true).map_err(failed),
        }
    }
}

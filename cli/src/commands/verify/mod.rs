//! `sanafarm verify`: whether the objects of a job are what the history says.
//!
//! The images of the job are streamed, and so many objects are looked at at the same time: memory does not grow with the
//! job.
//!
//! - `pictures`: objects of their own; `tars`: the layout webdataset; `tables`, `rows`: manifest and the other files
//! - `problem`: what is wrong; `recipe`: in which fields; `sample`: some at random; `requeue`: render again

mod pictures;
mod problem;
mod recipe;
mod requeue;
mod rows;
mod sample;
mod tables;
mod tars;

use std::future::ready;
use std::pin::pin;

use futures::{Stream, StreamExt};
use sanafarm_net::Channel;
use sanafarm_proto::v1::job_service_client::JobServiceClient;
use sanafarm_proto::v1::{GetJobRequest, ImageState, Job, JobState, Layout, ListImagesRequest};
use sanafarm_storage::Output;

use super::alone;
use crate::args::VerifyArgs;
use crate::connect::{Connection, Place};
use crate::data_folder::DataFolder;
use crate::error::{Error, Exit};
use crate::output;
use crate::printer::Printer;
use crate::printer::amounts::count;
use crate::progress::Counting;

pub use recipe::differences;

use pictures::{Checked, Depth};
use problem::{Problem, Tally, What};
use requeue::Requeuer;
use sample::Sample;
use tars::Tar;

/// Looks at everything, tells what is wrong and sums up.
pub async fn run(args: VerifyArgs, printer: &Printer) -> Result<Exit, Error> {
    let place = Place::from(args.place.clone());
    let connection = match args.requeue {
        true => Connection::changing(place, "verify").await?,
        false => Connection::reading(place).await?,
    };
    let mut client = JobServiceClient::new(connection.channel.clone());
    let request = GetJobRequest { job_id: args.job.clone() };
    let failed = |status| Error::call(format!("verify job {}", args.job), &status);
    let job = client.get_job(request).await.map_err(failed)?.into_inner();
    if args.requeue {
        requeue::check(&job)?;
    }
    let output = output::open(args.output.as_deref().unwrap_or(&job.output)).await?;
    let depth = match (args.quick, args.deep) {
        (true, _) => Depth::Quick,
        (false, true) => Depth::Pixels,
        (false, false) => Depth::Bytes,
    };
    let requeuer = args
        .requeue
        .then(|| Requeuer::new(client.clone(), output.clone(), &job, args.reason.clone(), printer));
    let mut verify = Verify {
        channel: connection.channel.clone(),
        client: client.clone(),
        output,
        depth,
        requeuer,
        tally: Tally::default(),
        mendable: Mendable::default(),
        place: connection.data().map(DataFolder::option).unwrap_or_default(),
        args: &args,
        job: &job,
        printer,
    };
    verify.objects().await?;
    let (exit, requeued) = verify.end().await?;
    if let Some(data) = connection.data().filter(|_| requeued) {
        let again = client.get_job(GetJobRequest { job_id: job.job_id.clone() }).await.map_err(failed)?;
        alone::tell_next(again.get_ref(), data, printer);
    }
    drop(client);
    connection.close().await;
    Ok(exit)
}

/// What was found that rendering again mends.
#[derive(Debug, Default)]
struct Mendable {
    pictures: bool,
    tables: bool,
}

struct Verify<'a> {
    channel: Channel,
    client: JobServiceClient<Channel>,
    output: Output,
    depth: Depth,
    requeuer: Option<Requeuer>,
    tally: Tally,
    /// What `--requeue` mends: lost pictures, and tables that are not as they should be.
    mendable: Mendable,
    /// What a command needs to find the same data folder, if anything.
    place: String,
    args: &'a VerifyArgs,
    job: &'a Job,
    printer: &'a Printer,
}

impl Verify<'_> {
    async fn objects(&mut self) -> Result<(), Error> {
        let layout = self.job.form.as_ref().map_or(Layout::Files, |form| form.layout());
        let tars = match layout {
            Layout::Webdataset => Some(tars::list(&self.channel, &self.job.job_id).await?),
            Layout::Files | Layout::Unspecified => None,
        };
        match &tars {
            Some(tars) => self.tars(tars).await?,
            None => self.pictures().await?,
        }
        match self.job.state() {
            // They are written last, and again after images that were handed in meanwhile.
            JobState::Succeeded | JobState::Failed
                if self.requeuer.as_ref().is_none_or(|requeuer| requeuer.requeued() == 0) =>
            {
                for problem in
                    tables::check(&self.output, self.client.clone(), self.job, tars.as_deref()).await?
                {
                    self.mendable.tables = true;
                    self.wrong(&problem).await?;
                }
            }
            JobState::Unspecified
            | JobState::Succeeded
            | JobState::Failed
            | JobState::Pending
            | JobState::Running
            | JobState::Paused
            | JobState::Cancelled => {}
        }
        Ok(())
    }

    async fn pictures(&mut self) -> Result<(), Error> {
        let job = self.job;
        let failed = move |status| Error::call(format!("list images of job {}", job.job_id), &status);
        let request = ListImagesRequest {
            job_id: self.job.job_id.clone(),
            states: vec![ImageState::Done.into()],
            with_recipe: self.depth != Depth::Quick,
            ..Default::default()
        };
        let images = self.client.list_images(request).await.map_err(failed)?.into_inner();
        let mut sample = Sample::new(self.args.sample, self.job.done);
        let (output, depth) = (self.output.clone(), self.depth);
        let checks = images
            .filter(move |image| ready(image.is_err() || sample.takes()))
            .map(move |image| {
                let output = output.clone();
                async move { pictures::check(&output, depth, image.map_err(failed)?).await }
            })
            .buffered(self.args.parallel.into());
        let bar = Counting::start(
            self.args.sample.unwrap_or(u64::MAX).min(self.job.done),
            "pictures",
            self.printer,
        );
        self.take(checks, &bar).await
    }

    async fn tars(&mut self, tars: &[Tar]) -> Result<(), Error> {
        let mut sample = Sample::new(self.args.sample, tars.len() as u64);
        let chosen: Vec<Tar> = tars.iter().filter(|_| sample.takes()).cloned().collect();
        let bar = Counting::start(chosen.len() as u64, "tars", self.printer);
        self.tally.tars = chosen.len() as u64;
        let (client, output, depth) = (self.client.clone(), self.output.clone(), self.depth);
        let job = self.job.job_id.clone();
        let all = chosen.len() == tars.len();
        let checks = futures::stream::iter(chosen)
            .map(move |tar| {
                let (client, output, job) = (client.clone(), output.clone(), job.clone());
                async move { tars::check(&output, client, depth, &job, tar).await }
            })
            .buffered(self.args.parallel.into());
        self.take(checks, &bar).await?;
        if all {
            self.unnamed().await?;
        }
        Ok(())
    }

    /// Pictures of tars without a name: on their way while the job runs, lost when it has succeeded.
    async fn unnamed(&mut self) -> Result<(), Error> {
        let unnamed = self.job.done.saturating_sub(self.tally.checked);
        if unnamed > 0 && matches!(self.job.state(), JobState::Succeeded | JobState::Failed) {
            let detail = format!("{unnamed} pictures of the job are in no tar");
            return self.wrong(&Problem::about("train-*.tar", What::Missing, detail)).await;
        }
        self.tally.waiting = unnamed;
        Ok(())
    }

    async fn take(
        &mut self,
        checks: impl Stream<Item = Result<Checked, Error>>,
        bar: &Counting,
    ) -> Result<(), Error> {
        let mut checks = pin!(checks);
        while let Some(checked) = checks.next().await {
            let checked = checked?;
            self.tally.checked += checked.pictures;
            self.tally.bytes += checked.bytes;
            for problem in &checked.problems {
                self.wrong(problem).await?;
            }
            bar.one_more();
        }
        Ok(())
    }

    async fn wrong(&mut self, problem: &Problem) -> Result<(), Error> {
        self.tally.wrong(problem.what);
        self.mendable.pictures |= problem.lost.is_some();
        match self.args.json {
            true => self.printer.data(problem.json())?,
            false => self.printer.data(problem.line())?,
        }
        match &mut self.requeuer {
            Some(requeuer) => requeuer.note(problem).await,
            None => Ok(()),
        }
    }

    /// Sums up: how it ends, and whether the job goes on.
    async fn end(mut self) -> Result<(Exit, bool), Error> {
        let mut writes_tables = false;
        if let Some(mut requeuer) = self.requeuer.take() {
            self.tally.requeued = requeuer.finish().await?;
            if self.mendable.tables && self.tally.requeued == 0 {
                requeuer.write_tables().await?;
                writes_tables = true;
                self.printer.note("the tables are written anew");
            }
        }
        match self.args.json {
            true => self.printer.data(self.tally.json(self.job))?,
            false => self.printer.note(self.tally.text(self.job)),
        }
        match self.tally.requeued {
            0 => {}
            1 => self.printer.note("1 image is to be rendered again"),
            many => self.printer.note(format!("{} images are to be rendered again", count(many))),
        }
        let wrong = self.tally.problems() > 0;
        let Mendable { pictures, tables } = self.mendable;
        if (pictures || tables) && !self.args.requeue && !self.args.json && requeue::check(self.job).is_ok() {
            let what = if pictures { "lost pictures rendered again" } else { "the tables written anew" };
            let Self { job, place, .. } = &self;
            self.printer.note(format!("`sanafarm verify {} --requeue{place}` has {what}", job.job_id));
        }
        Ok((if wrong { Exit::Failure } else { Exit::Success }, writes_tables || self.tally.requeued > 0))
    }
}

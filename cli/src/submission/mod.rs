//! From a command line to a submitted job: read the list once, settle the spec, send the rows.

mod duplicates;
mod estimate;
mod model;
mod selection;
mod send;
mod spec;
mod spool;
mod survey;
mod taken;

use std::path::PathBuf;

use sanafarm_net::Channel;
use sanafarm_proto::v1::job_service_client::JobServiceClient;
use sanafarm_proto::v1::{Job, JobSpec};

use crate::args::{OnDuplicate, SubmissionArgs};
use crate::data_folder::DataFolder;
use crate::error::Error;
use crate::printer::Printer;
use crate::progress::Reading;
use crate::prompts::{Numbering, PromptList};

use selection::Selection;
use spool::Spool;
use survey::Survey;

pub use estimate::{Estimate, GroupEstimate};
pub use model::{Model, local_model, submitted_model};
pub use survey::Skipped;

/// A list that was read and found good.
#[derive(Debug)]
pub struct GoodList {
    numbering: Numbering,
    stem: String,
    survey: Survey,
    /// Where temporary files go.
    folder: PathBuf,
}

/// A good list with the job that it becomes.
#[derive(Debug)]
pub struct Submission {
    numbering: Numbering,
    spool: Spool,
    /// What the job renders with.
    pub spec: JobSpec,
    /// The lines that were left out.
    pub skipped: Skipped,
}

impl GoodList {
    /// Reads the list that the user named to its end, so that nothing is started when any line of it is wrong.
    pub async fn read(args: &SubmissionArgs, data: &DataFolder, printer: &Printer) -> Result<Self, Error> {
        Self::read_with(args, data, args.skip_invalid, printer).await
    }

    /// Reads the list and leaves bad lines out; they are in the submission's `skipped`.
    pub async fn read_good_lines(
        args: &SubmissionArgs,
        data: &DataFolder,
        printer: &Printer,
    ) -> Result<Self, Error> {
        Self::read_with(args, data, true, printer).await
    }

    async fn read_with(
        args: &SubmissionArgs,
        data: &DataFolder,
        skip: bool,
        printer: &Printer,
    ) -> Result<Self, Error> {
        let progress = Reading::start(&args.prompts.to_string_lossy(), printer);
        let rows = progress.clone();
        let (path, format, chosen) = (args.prompts.clone(), args.list_format, args.chosen_columns());
        let (folder, args) = (data.path().to_owned(), args.clone());
        let read = blocking(move || {
            let list = PromptList::open(&path, format, chosen).map_err(|error| survey::list_error(&error))?;
            let (numbering, stem) = (list.numbering().clone(), list.stem().to_owned());
            let selection = Selection::new(&args, numbering.clone());
            let survey = Survey::take(list, selection, skip, &folder, |more| rows.rows(more))?;
            Ok(Self { numbering, stem, survey, folder })
        });
        let read = read.await;
        progress.finish();
        read?
    }
}

impl Submission {
    /// Settles what the job renders with; warns of what the model ignores and of sizes it was not trained for.
    /// Images that are there twice are treated as the user wants it.
    pub async fn new(
        args: &SubmissionArgs,
        list: GoodList,
        model: &Model,
        printer: &Printer,
    ) -> Result<Self, Error> {
        let settings = spec::settings(args, model)?;
        let GoodList { numbering, stem, survey, folder } = list;
        let sizes = spec::size_warnings(&survey.sizes, &settings, model);
        for warning in spec::vain_warnings(args, model).into_iter().chain(sizes) {
            printer.warn(warning);
        }
        let mut spec = spec::spec(args, &stem, settings, model)?;
        let spool = match args.on_duplicate {
            OnDuplicate::Allow => survey.spool,
            OnDuplicate::Refuse => {
                let (mut spool, job, numbering) = (survey.spool, spec.clone(), numbering.clone());
                blocking(move || duplicates::refuse(&mut spool, &job, &numbering).map(|()| spool)).await??
            }
            OnDuplicate::Merge => {
                let (spool, job) = (survey.spool, spec.clone());
                let merged = blocking(move || duplicates::merge(spool, &job, &folder)).await??;
                tell_merged(&merged.1, printer);
                merged.0
            }
        };
        spec::sign(&mut spec, args, &spool.content_sha256, model);
        Ok(Self { numbering, spool, spec, skipped: survey.skipped })
    }

    /// Sends the job: how it stands, whether it was there before, and the lines that were left out.
    pub async fn send(self, client: &mut JobServiceClient<Channel>) -> Result<(Job, bool, Skipped), Error> {
        let answer = send::send(client, self.spool, self.spec).await?;
        let missing = || Error::failure("submit the job").because("the coordinator answered without a job");
        Ok((answer.job.ok_or_else(missing)?, answer.existed, self.skipped))
    }

    /// What would become of the job; `history` is a coordinator that may know how long images take.
    pub async fn estimate(self, history: Option<JobServiceClient<Channel>>) -> Result<Estimate, Error> {
        estimate::estimate(self, history).await
    }
}

fn tell_merged(merged: &duplicates::Merged, printer: &Printer) {
    if merged.rows > 0 {
        printer
            .note(format!("dropped {} rows ({} images) that are there already", merged.rows, merged.images));
    }
    if merged.left > 0 {
        printer.warn(format!(
            "{} images are there twice all the same: other copies of their row are not",
            merged.left
        ));
    }
}

/// Lists the lines that were skipped.
pub fn report_skipped(skipped: &Skipped, printer: &Printer) {
    if skipped.count == 0 {
        return;
    }
    printer.warn(format!("skipped {} bad lines:", skipped.count));
    for line in &skipped.first {
        printer.note(format!("  {line}"));
    }
    let more = skipped.rows - skipped.first.len() as u64;
    if more > 0 {
        printer.note(format!("  and {more} more"));
    }
}

/// Runs work that blocks away from the async threads.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::failure("run a background task").caused_by(&error))
}

#[cfg(test)]
mod tests;

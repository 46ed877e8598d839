//! From a command line to a submitted job: look through the list, settle the spec, send the rows.

mod model;
mod selection;
mod send;
mod spec;
mod survey;

use sanafarm_proto::v1::job_service_client::JobServiceClient;
use sanafarm_proto::v1::{Job, JobSpec};
use tonic::transport::Channel;

use crate::args::SubmissionArgs;
use crate::data_folder::DataFolder;
use crate::error::Error;
use crate::printer::Printer;
use crate::prompts::PromptList;

use selection::Selection;

pub use model::{Model, local_model};
pub use survey::{Skipped, Survey, hex};

/// A list that was read once and found good.
#[derive(Debug)]
pub struct GoodList {
    list: PromptList,
    selection: Selection,
    survey: Survey,
}

/// A good list with the job that it becomes.
#[derive(Debug)]
pub struct Submission {
    list: GoodList,
    /// What the job renders with.
    pub spec: JobSpec,
}

impl GoodList {
    /// Opens the list that the user named and reads it once, so that nothing is started when any line of
    /// it is wrong.
    pub async fn read(args: &SubmissionArgs, data: &DataFolder) -> Result<Self, Error> {
        let (path, format, chosen) = (args.prompts.clone(), args.format, args.chosen_columns());
        let (spool_folder, selection) = (data.path().to_owned(), Selection::new(args));
        blocking(move || {
            let list = PromptList::open(&path, format, chosen, &spool_folder)
                .map_err(|error| survey::list_error(&error))?;
            let survey = Survey::take(&list, &selection)?;
            Ok(Self { list, selection, survey })
        })
        .await?
    }
}

impl Submission {
    /// Settles what the job renders with; warns of what the model ignores and of sizes it was not trained for.
    pub fn new(
        args: &SubmissionArgs,
        list: GoodList,
        model: &Model,
        printer: &Printer,
    ) -> Result<Self, Error> {
        let settings = spec::settings(args, model)?;
        let sizes = spec::size_warnings(&list.survey.sizes, &settings, model);
        for warning in spec::vain_warnings(args, model).into_iter().chain(sizes) {
            printer.warn(warning);
        }
        let spec = spec::spec(args, list.list.stem(), settings, model, &list.survey)?;
        Ok(Self { list, spec })
    }

    /// Sends the job: how it stands, whether it was there before, and the lines that were left out.
    pub async fn send(self, client: &mut JobServiceClient<Channel>) -> Result<(Job, bool, Skipped), Error> {
        let GoodList { list, selection, survey } = self.list;
        let (answer, skipped) = send::send(client, list, selection, survey, self.spec).await?;
        let missing = || Error::failure("submit the job").because("the coordinator answered without a job");
        Ok((answer.job.ok_or_else(missing)?, answer.existed, skipped))
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

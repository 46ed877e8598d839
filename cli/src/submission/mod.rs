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

/// A list that was read once and found good, with the job that it becomes.
#[derive(Debug)]
pub struct Submission {
    list: PromptList,
    selection: Selection,
    /// What was found in the list.
    pub survey: Survey,
    /// What the job renders with.
    pub spec: JobSpec,
}

impl Submission {
    /// Reads the whole list once, so that nothing is started when any line of it is wrong. `list` was
    /// opened before the model was inspected: a wrong path is told at once.
    pub async fn prepare(
        args: &SubmissionArgs,
        list: PromptList,
        model: &Model,
        printer: &Printer,
    ) -> Result<Self, Error> {
        let settings = spec::settings(args, model)?;
        let selection = Selection::new(args, &settings);
        let (list, selection, survey) =
            blocking(move || Survey::take(&list, &selection).map(|survey| (list, selection, survey)))
                .await??;
        for warning in spec::size_warnings(&survey.sizes, &settings, model) {
            printer.warn(warning);
        }
        let spec = spec::spec(args, list.stem(), settings, model, &survey)?;
        Ok(Self { list, selection, survey, spec })
    }

    /// Sends the job: how it stands, whether it was there before, and the lines that were left out.
    pub async fn send(self, client: &mut JobServiceClient<Channel>) -> Result<(Job, bool, Skipped), Error> {
        let answer = send::send(client, self.list, self.selection, &self.survey, self.spec).await?;
        let missing = || Error::failure("submit the job").because("the coordinator answered without a job");
        Ok((answer.job.ok_or_else(missing)?, answer.existed, self.survey.skipped))
    }
}

/// Opens the list that the user named.
pub async fn open_list(args: &SubmissionArgs, data: &DataFolder) -> Result<PromptList, Error> {
    let (path, format, chosen) = (args.prompts.clone(), args.format, args.chosen_columns());
    let spool_folder = data.path().to_owned();
    let opened = blocking(move || PromptList::open(&path, format, chosen, &spool_folder)).await?;
    opened.map_err(|error| {
        let hint = "name a file that can be read, or - for standard input";
        survey::list_error(&error).hint(hint)
    })
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
    let more = skipped.count - skipped.first.len() as u64;
    if more > 0 {
        printer.note(format!("  and {more} more"));
    }
}

/// Runs work that blocks away from the async threads.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::failure("run a background task").caused_by(&error))
}

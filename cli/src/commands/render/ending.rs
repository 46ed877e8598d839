//! What the user is told at the end of a run.

use std::collections::BTreeMap;
use std::path::Path;

use sanafarm_coordinator::domain::form::Layout;
use sanafarm_net::Channel;
use sanafarm_proto::v1::job_service_client::JobServiceClient;
use sanafarm_proto::v1::{self, Form, ImageState, Job, JobState, ListImagesRequest};
use sanafarm_storage::Output;
use serde_json::{Value, json};

use super::{Counts, Run, Stop};
use crate::data_folder::DataFolder;
use crate::error::{Error, Exit};
use crate::job_view::{error_class, has_ended, job_state};
use crate::printer::amounts::{count, counted, duration};
use crate::printer::{Printer, quoted};
use crate::submission::report_skipped;

/// The end of a run.
pub struct Ending<'a> {
    pub run: Run,
    /// From the start of the program.
    pub seconds: f64,
    pub data: &'a DataFolder,
    pub json: bool,
    pub printer: &'a Printer,
}

impl Ending<'_> {
    /// Tells how it ended: talk on standard error, where the pictures are on standard output.
    pub fn tell(self) -> Result<Exit, Error> {
        let job = &self.run.job;
        report_skipped(&self.run.skipped, self.printer);
        if has_ended(job) {
            self.printer.note(self.summary());
        }
        match (self.json, has_ended(job)) {
            (true, _) => self.printer.data(self.object())?,
            (false, true) => self.printer.data(short_path(&job.output))?,
            (false, false) => {}
        }
        match self.run.stop {
            None => {
                self.printer.note(format!("\nask the history, for example:\n  {}", self.question()));
                Ok(Exit::Success)
            }
            Some(Stop::Interrupted) => {
                self.printer.note(format!(
                    "stopped with {} of {} images done; run the same command again to go on",
                    job.done, job.images
                ));
                Ok(Exit::Interrupted)
            }
            Some(Stop::Error(error)) => Err(error),
        }
    }

    fn summary(&self) -> String {
        let job = &self.run.job;
        let new = Counts::of(job).since(self.run.there);
        if new.all() == 0 {
            return format!("nothing to render: this job was finished before ({})", job_state(job.state()));
        }
        let failed = if new.failed == 0 { String::new() } else { format!(", {} failed,", count(new.failed)) };
        let speed = match new.done {
            0 => String::new(),
            done => format!(", {:.2} images/s", done as f64 / self.seconds.max(0.001)),
        };
        let before = match self.run.there.all() {
            0 => String::new(),
            before => format!(", {} before", count(before)),
        };
        // The folder itself is data and follows on standard output.
        let place = match job.done {
            _ if self.json => "",
            0 => "",
            1 => "; it is in:",
            _ => "; they are in:",
        };
        format!(
            "rendered {}{failed} in {}{speed}{before}{place}",
            counted(new.done, "image"),
            duration(self.seconds)
        )
    }

    fn object(&self) -> Value {
        let job = &self.run.job;
        let database = self.data.database();
        let database = std::path::absolute(&database).unwrap_or(database);
        let mut object = json!({
            "job_id": job.job_id,
            "state": job_state(job.state()),
            "images": job.images,
            "done": job.done,
            "failed": job.failed,
            "seconds": (self.seconds * 1000.0).round() / 1000.0,
            "output": job.output,
            "database": database.to_string_lossy(),
        });
        if self.run.skipped.count > 0 {
            object["skipped"] = json!(self.run.skipped.first);
            object["skipped_lines"] = json!(self.run.skipped.count);
        }
        object
    }

    /// A command that works as it is printed, from the same folder.
    fn question(&self) -> String {
        let program = std::env::args().next().unwrap_or_else(|| "sanafarm".to_owned());
        let command = format!("{} sql{}", quoted(&program), self.data.option());
        let job_id = &self.run.job.job_id;
        format!(
            "{command} \"select object, seed, render_seconds, prompt from audit_images where job_id = '{job_id}' \
             order by render_seconds desc limit 5\""
        )
    }
}

/// Why a job that has ended did not succeed: its errors by class, each with one example.
pub async fn shortfall(
    client: &mut JobServiceClient<Channel>,
    job: &Job,
    data: &DataFolder,
) -> Result<Option<Error>, Error> {
    match job.state() {
        JobState::Failed => {}
        JobState::Cancelled => {
            let hint = "what was done stays; to render the list as another job, give it another --name";
            return Ok(Some(Error::failure(format!("job {} was cancelled", job.job_id)).hint(hint)));
        }
        JobState::Unspecified
        | JobState::Pending
        | JobState::Running
        | JobState::Paused
        | JobState::Succeeded => return Ok(None),
    }
    let request = ListImagesRequest {
        job_id: job.job_id.clone(),
        states: vec![ImageState::Failed.into()],
        limit: 0,
        ..Default::default()
    };
    let failed = |status| Error::call("list the failed images", &status);
    let mut images = client.list_images(request).await.map_err(failed)?.into_inner();
    let mut classes: BTreeMap<&'static str, (u64, String)> = BTreeMap::new();
    while let Some(image) = images.message().await.map_err(failed)? {
        let example = || (0, format!("image {}: {}", image.index, image.error));
        classes.entry(error_class(image.error_class())).or_insert_with(example).0 += 1;
    }
    let error = Error::failure(format!("{} of {} images failed", job.failed, job.images));
    let error = classes.into_iter().fold(error, |error, (class, (count, example))| {
        error.because(format!("{class}: {count} of them, such as {example}"))
    });
    let (id, option) = (&job.job_id, data.option());
    let hint = format!(
        "list them with `sanafarm images {id} --failed{option}`; when the cause is gone, \
         `sanafarm retry {id} --failed{option}` and then the same command again"
    );
    Ok(Some(error.hint(hint)))
}

/// A job that somebody holds back.
pub fn paused(job: &Job, data: &DataFolder) -> Error {
    let resume = format!("`sanafarm resume {}{}`", job.job_id, data.option());
    Error::mistake(format!("job {} is paused", job.job_id))
        .hint(format!("{resume} lets it go on, with the same command again"))
}

/// A job has ended, but somebody may have moved its pictures away.
pub async fn missing_output(output: &Output, job: &Job, data: &DataFolder) -> Result<Option<Error>, Error> {
    let layout = match job.form.as_ref().map(Form::layout) {
        Some(v1::Layout::Webdataset) => Layout::Webdataset,
        Some(v1::Layout::Files | v1::Layout::Unspecified) | None => Layout::Files,
    };
    for name in layout.indices() {
        let size = output.size(name).await.map_err(|error| {
            Error::failure(format!("look for the output of job {}", job.job_id))
                .caused_by(&error)
                .hint(error.hint())
        })?;
        if size.is_none() {
            let what = format!("job {} is finished, but {name} is no longer in {}", job.job_id, job.output);
            let hint = format!(
                "bring its output back; or have lost pictures rendered again with `sanafarm verify {} --requeue{}` and then \
                 the same command again",
                job.job_id,
                data.option()
            );
            return Ok(Some(Error::failure(what).hint(hint)));
        }
    }
    Ok(None)
}

/// Below the working folder, relative to it.
fn short_path(output: &str) -> String {
    let below = std::env::current_dir().ok().and_then(|folder| {
        Path::new(output).strip_prefix(folder).map(|path| path.to_string_lossy().into_owned()).ok()
    });
    below.filter(|path| !path.is_empty()).unwrap_or_else(|| output.to_owned())
}

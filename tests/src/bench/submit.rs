//! The job: sent as the command line sends a prompt list (cli/src/submission/send.rs), and followed to its end.

use std::path::Path;
use std::time::{Duration, Instant};

use prost::Message;
use sanafarm_proto::v1::job_service_client::JobServiceClient;
use sanafarm_proto::v1::submit_job_request::Part;
use sanafarm_proto::v1::{
    BinMode, DecodeMode, Job, JobSpec, JobState, ListJobsRequest, PromptBatch, PromptRow, Seal, Settings,
    SubmitJobRequest, WatchJobRequest,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use uuid::Uuid;

use crate::error::Error;
use crate::farm::connect;

/// What is not to be seen, as people write it.
const NEGATIVE: &str = "blurry, low resolution, jpeg artefacts, text, signature, watermark, frame, cropped, \
    oversaturated, deformed hands";
const BATCH_ROWS: usize = 1000;
const BATCH_BYTES: usize = 1 << 20;
/// Batches under way.
const BATCHES: usize = 4;
/// How often somebody looks whether all processes still run.
const LOOK: Duration = Duration::from_secs(1);
/// A job without a change for this long is stuck.
const STUCK: Duration = Duration::from_secs(180);

/// Speaks with one coordinator about jobs.
#[derive(Clone, Debug)]
pub struct Client {
    jobs: JobServiceClient<Channel>,
}

impl Client {
    /// Connects to a coordinator.
    pub async fn connect(address: &str) -> Result<Self, Error> {
        Ok(Self { jobs: JobServiceClient::new(connect(address).await?) })
    }

    /// Insists that no job is open: simulated workers would take its shards and store no pictures.
    pub async fn insist_on_no_open_job(&mut self) -> Result<(), Error> {
        let open = [JobState::Pending, JobState::Running, JobState::Paused];
        let request = ListJobsRequest { states: open.map(i32::from).to_vec(), limit: 1 };
        let jobs = self.jobs.list_jobs(request).await.map_err(Error::call("list jobs"))?.into_inner().jobs;
        match jobs.first() {
            None => Ok(()),
            Some(job) => Err(Error::Farm(format!(
                "job {} is open in this database and would be spoilt; name a database for the benchmark alone",
                job.job_id
            ))),
        }
    }

    /// Submits a job with this many prompts. The answer, and how long it took from the first message to it.
    pub async fn submit(&mut self, spec: JobSpec, images: u64) -> Result<(Job, Duration), Error> {
        let (sender, receiver) = mpsc::channel(BATCHES);
        let start = Instant::now();
        let feed = tokio::task::spawn_blocking(move || feed(spec, images, &sender));
        let answer = self.jobs.submit_job(ReceiverStream::new(receiver)).await;
        let took = start.elapsed();
        feed.await?;
        let answer = answer.map_err(Error::call("submit the job"))?.into_inner();
        let job = answer.job.filter(|job| job.images == images && !answer.existed);
        let other = || Error::Farm("the coordinator answered with another job".to_owned());
        Ok((job.ok_or_else(other)?, took))
    }

    /// Follows a job until it has ended, and insists on its success. `observe` is called with each state of it, and with
    /// none every second in which it has no new one.
    pub async fn follow(
        &mut self,
        job: &str,
        mut observe: impl FnMut(Option<&Job>) -> Result<(), Error>,
    ) -> Result<Job, Error> {
        let request = WatchJobRequest { job_id: job.to_owned() };
        let watched = self.jobs.watch_job(request).await;
        let mut watched = watched.map_err(Error::call("watch the job"))?.into_inner();
        let mut last: Option<Job> = None;
        let mut changed = Instant::now();
        loop {
            match timeout(LOOK, watched.message()).await {
                Ok(message) => match message.map_err(Error::call("watch the job"))? {
                    Some(job) => {
                        observe(Some(&job))?;
                        last = Some(job);
                        changed = Instant::now();
                    }
                    None => break,
                },
                Err(_) => observe(None)?,
            }
            if changed.elapsed() > STUCK {
                return Err(Error::Farm(format!("nothing happened for {} s: {last:?}", STUCK.as_secs())));
            }
        }
        match last {
            Some(job) if job.state() == JobState::Succeeded && job.done == job.images => Ok(job),
            other => Err(Error::Farm(format!("the job did not succeed: {other:?}"))),
        }
    }
}

/// Sends spec, batches and seal; ends early when the coordinator takes no more, which its answer explains.
fn feed(spec: JobSpec, images: u64, sender: &mpsc::Sender<SubmitJobRequest>) {
    let send = |part| sender.blocking_send(SubmitJobRequest { part: Some(part) }).is_ok();
    if !send(Part::Spec(spec)) {
        return;
    }
    let (mut rows, mut bytes) = (Vec::with_capacity(BATCH_ROWS), 0);
    for index in 0..images {
        let row = PromptRow { prompt: prompt(index), line: index + 1, ..PromptRow::default() };
        bytes += row.encoded_len();
        rows.push(row);
        if (rows.len() >= BATCH_ROWS || bytes >= BATCH_BYTES) && !send(batch(&mut rows, &mut bytes)) {
            return;
        }
    }
    if rows.is_empty() || send(batch(&mut rows, &mut bytes)) {
        send(Part::Seal(Seal { rows: images }));
    }
}

fn batch(rows: &mut Vec<PromptRow>, bytes: &mut usize) -> Part {
    *bytes = 0;
    Part::Batch(PromptBatch { rows: std::mem::replace(rows, Vec::with_capacity(BATCH_ROWS)) })
}

/// A prompt of about eighty bytes that no other index has.
pub fn prompt(index: u64) -> String {
    const LIGHTS: [&str; 4] = ["morning light", "a winter dusk", "neon at night", "the noon sun"];
    const THINGS: [&str; 5] = ["lighthouse", "greenhouse", "tram depot", "harbour crane", "book market"];
    let light = LIGHTS[(index % LIGHTS.len() as u64) as usize];
    let thing = THINGS[(index % THINGS.len() as u64) as usize];
    format!("a wide photograph of {thing} number {index:08} in {light}, sharp, highly detailed")
}

/// A model of its own for each measurement, so that nothing is known of its speed.
pub fn model() -> String {
    format!("synthetic-{}", Uuid::new_v4().simple())
}

/// A job like any other, into a folder.
pub fn spec(model: &str, output: &Path, token: String) -> JobSpec {
    JobSpec {
        client_token: token,
        name: "farm-bench".to_owned(),
        owner: "farm-bench".to_owned(),
        model: model.to_owned(),
        output: output.display().to_string(),
        settings: Some(Settings {
            width: 1024,
            height: 1024,
            steps: 20,
            guidance: 4.5,
            bin: BinMode::Auto.into(),
            decode: DecodeMode::Exact.into(),
        }),
        negative_prompt: NEGATIVE.to_owned(),
        seed: 1,
        images_per_prompt: 1,
        ..JobSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn prompts_are_distinct_and_about_eighty_bytes_long() {
        let prompts: HashSet<String> = (0..1000).map(prompt).collect();
        assert_eq!(prompts.len(), 1000);
        assert!(prompts.iter().all(|prompt| (75..=95).contains(&prompt.len())), "{}", prompt(0));
    }
}

//! A coordinator on a folder of its own, with the few calls that most tests share.

use std::path::PathBuf;
use std::time::Duration;

use sanafarm_coordinator::{Coordinator, Options};
use sanafarm_proto::v1;
use sanafarm_proto::v1::history_service_client::HistoryServiceClient;
use sanafarm_proto::v1::job_service_client::JobServiceClient;
use sanafarm_proto::v1::submit_job_request::Part;
use sanafarm_proto::v1::worker_service_client::WorkerServiceClient;
use tempfile::TempDir;
use tonic::transport::Channel;

pub struct Farm {
    pub coordinator: Coordinator,
    pub folder: TempDir,
    pub jobs: JobServiceClient<Channel>,
    pub workers: WorkerServiceClient<Channel>,
    pub history: HistoryServiceClient<Channel>,
}

pub fn options(folder: &TempDir) -> Options {
    let mut options = Options::file(folder.path().join("farm.db"));
    options.sweep_interval = Duration::from_millis(50);
    options
}

pub async fn farm() -> Farm {
    reopened(tempfile::tempdir().unwrap()).await
}

pub async fn reopened(folder: TempDir) -> Farm {
    let coordinator = Coordinator::open(options(&folder)).await.unwrap();
    let channel = coordinator.local_channel().await.unwrap();
    Farm {
        jobs: JobServiceClient::new(channel.clone()),
        workers: WorkerServiceClient::new(channel.clone()),
        history: HistoryServiceClient::new(channel),
        coordinator,
        folder,
    }
}

pub fn part(part: Part) -> v1::SubmitJobRequest {
    v1::SubmitJobRequest { part: Some(part) }
}

pub fn row(line: u64) -> v1::PromptRow {
    v1::PromptRow { prompt: format!("prompt {line}"), line, ..v1::PromptRow::default() }
}

impl Farm {
    pub fn output(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    pub fn spec(&self, token: &str) -> v1::JobSpec {
        v1::JobSpec {
            client_token: token.to_owned(),
            name: token.to_owned(),
            owner: "ann".to_owned(),
            model: "sana-tiny".to_owned(),
            output: self.output().display().to_string(),
            settings: Some(v1::Settings {
                width: 64,
                height: 64,
                steps: 4,
                guidance: 4.5,
                bin: v1::BinMode::Auto.into(),
                decode: v1::DecodeMode::Exact.into(),
            }),
            seed: 100,
            images_per_prompt: 1,
            ..v1::JobSpec::default()
        }
    }

    pub async fn submit(&mut self, token: &str, rows: Vec<v1::PromptRow>) -> v1::Job {
        self.submit_to(token, self.output(), rows).await
    }

    pub async fn submit_to(&mut self, token: &str, output: PathBuf, rows: Vec<v1::PromptRow>) -> v1::Job {
        self.submit_with(token, rows, |spec| spec.output = output.display().to_string()).await
    }

    pub async fn submit_with(
        &mut self,
        token: &str,
        rows: Vec<v1::PromptRow>,
        change: impl FnOnce(&mut v1::JobSpec),
    ) -> v1::Job {
        let seal = v1::Seal { rows: rows.len() as u64 };
        let mut spec = self.spec(token);
        change(&mut spec);
        let messages =
            vec![part(Part::Spec(spec)), part(Part::Batch(v1::PromptBatch { rows })), part(Part::Seal(seal))];
        let answer = self.jobs.submit_job(futures::stream::iter(messages)).await.unwrap().into_inner();
        assert!(!answer.existed);
        answer.job.unwrap()
    }

    pub async fn session(&mut self) -> String {
        let request = v1::OpenSessionRequest {
            worker: "w1".to_owned(),
            version: "1".to_owned(),
            ..v1::OpenSessionRequest::default()
        };
        self.workers.open_session(request).await.unwrap().into_inner().session_id
    }

    pub async fn lease(&mut self, session: &str, wait: Duration) -> Option<v1::Lease> {
        let request = v1::LeaseShardRequest {
            session_id: session.to_owned(),
            wait: Some(wait.try_into().unwrap()),
            job_id: String::new(),
        };
        self.workers.lease_shard(request).await.unwrap().into_inner().lease
    }

    /// Reports all images of a lease: done, or failed where `fails` says so.
    pub async fn report(
        &mut self,
        session: &str,
        lease: &v1::Lease,
        fails: impl Fn(u64) -> bool,
    ) -> v1::ReportResultsResponse {
        self.try_report(session, lease, fails).await.unwrap()
    }

    pub async fn try_report(
        &mut self,
        session: &str,
        lease: &v1::Lease,
        fails: impl Fn(u64) -> bool,
    ) -> Result<v1::ReportResultsResponse, tonic::Status> {
        let results = lease.images.iter().map(|image| v1::ImageResult {
            index: image.index,
            outcome: Some(if fails(image.index) { failed() } else { done(image) }),
            device_id: "cpu".to_owned(),
            render_seconds: 1.5,
            decode_seconds: 0.5,
            log: String::new(),
        });
        let request = v1::ReportResultsRequest {
            session_id: session.to_owned(),
            lease: lease.r#ref.clone(),
            results: results.collect(),
            archive: None,
            job_id: String::new(),
        };
        Ok(self.workers.report_results(request).await?.into_inner())
    }

    /// Renders everything that is ready.
    pub async fn render_all(&mut self, fails: impl Fn(u64) -> bool) {
        let session = self.session().await;
        while let Some(lease) = self.lease(&session, Duration::ZERO).await {
            self.report(&session, &lease, &fails).await;
        }
    }

    /// Follows the job to its end; all states that were seen.
    pub async fn watch(&mut self, job: &str) -> Vec<v1::Job> {
        let request = v1::WatchJobRequest { job_id: job.to_owned() };
        let mut stream = self.jobs.watch_job(request).await.unwrap().into_inner();
        let mut seen = Vec::new();
        while let Some(job) = stream.message().await.unwrap() {
            seen.push(job);
        }
        seen
    }

    pub async fn sql(&mut self, sql: &str) -> Result<(Vec<String>, Vec<v1::Row>), tonic::Status> {
        let request = v1::QueryRequest { sql: sql.to_owned() };
        let mut stream = self.history.query(request).await?.into_inner();
        let (mut names, mut rows) = (Vec::new(), Vec::new());
        while let Some(answer) = stream.message().await? {
            match answer.part.unwrap() {
                v1::query_response::Part::Columns(columns) => names = columns.names,
                v1::query_response::Part::Rows(more) => rows.extend(more.rows),
            }
        }
        Ok((names, rows))
    }
}

pub fn done(image: &v1::LeasedImage) -> v1::image_result::Outcome {
    v1::image_result::Outcome::Done(v1::ImageDone {
        object: image.object.clone(),
        bytes: 1000 + image.index,
        sha256: format!("{:064x}", image.index),
        recipe: r#"{"weights_sha256":"abc","dtype":"f32"}"#.to_owned(),
        quality: Some(v1::Quality { entropy: 7.5, clipped: 0.25 }),
    })
}

fn failed() -> v1::image_result::Outcome {
    v1::image_result::Outcome::Failed(v1::ImageFailed {
        error_class: v1::ErrorClass::Prompt.into(),
        message: "cannot be drawn".to_owned(),
    })
}

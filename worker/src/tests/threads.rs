//! Engines without the rest of a worker.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use sana::Recipe;
use sanafarm_telemetry::image_log::ImageLog;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::keep_logs;
use crate::engine::{self, Claim, Command, Engine, Outcome, Paces, Rendered, Reply, Threads};
use crate::leases::{LeaseKey, Leases};
use crate::models::{self, Models};
use crate::picture;
use crate::stats::Stats;

/// Engines, and what they share.
pub(super) struct Bench {
    pub(super) folder: tempfile::TempDir,
    pub(super) threads: Threads,
    pub(super) stats: Arc<Stats>,
    pub(super) stop: CancellationToken,
    /// When all work must be done.
    pub(super) end: watch::Sender<Option<Instant>>,
    pub(super) paces: Arc<Paces>,
    pub(super) model: PathBuf,
    pub(super) logs: Mutex<BTreeMap<u64, ImageLog>>,
}

impl Bench {
    pub(super) fn start(engines: Vec<Box<dyn Engine>>) -> Self {
        keep_logs();
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model");
        std::fs::create_dir(&model).unwrap();
        std::fs::write(model.join("model_index.json"), "{}").unwrap();
        let (stats, stop) = (Arc::new(Stats::default()), CancellationToken::new());
        let (end, paces) = (watch::Sender::new(None), Arc::new(Paces::default()));
        let context = engine::Context {
            models: Models::new(models::Options::new(folder.path().join("cache"))),
            activity: watch::channel(Vec::new()).0,
            leases: Arc::new(Leases::default()),
            ends: end.subscribe(),
            paces: paces.clone(),
            stats: stats.clone(),
            stop: stop.clone(),
        };
        let named = engines.into_iter().enumerate().map(|(place, engine)| (format!("cuda:{place}"), engine));
        let threads = engine::start(named.collect(), &context).unwrap();
        Self { folder, threads, stats, stop, end, paces, model, logs: Mutex::default() }
    }

    pub(super) fn send(
        &self,
        prompts: &[&str],
        size: (u32, u32),
        halt: &CancellationToken,
    ) -> Vec<oneshot::Receiver<Rendered>> {
        let sent = prompts.iter().zip(0..).map(|(prompt, index)| {
            let (reply, rendered) = Reply::new();
            self.threads.commands.send(Command {
                lease: LeaseKey { shard_id: "s".into(), attempt: 1 },
                job: "job".into(),
                index,
                model: self.model.to_str().unwrap().into(),
                recipe: Recipe {
                    prompt: (*prompt).into(),
                    negative_prompt: String::new(),
                    seed: 100 + index,
                    width: size.0,
                    height: size.1,
                    steps: 2,
                    guidance: 4.5,
                    bin: sana::BinMode::Auto,
                    decode: sana::DecodeMode::Exact,
                },
                encoding: picture::Encoding::new(None).unwrap(),
                claim: Claim::new(CancellationToken::new()),
                halt: halt.clone(),
                log: self.log(index),
                reply,
            });
            rendered
        });
        sent.collect()
    }

    /// The log of the image that was sent at this place of its list.
    fn log(&self, index: u64) -> ImageLog {
        let mut logs = self.logs.lock().unwrap();
        logs.entry(index).or_insert_with(|| ImageLog::new("job", index)).clone()
    }

    /// What is told about it of too little memory.
    pub(super) fn told(&self, index: u64) -> Vec<String> {
        let text = self.log(index).text();
        text.lines().filter(|line| line.contains("out of memory")).map(str::to_owned).collect()
    }

    pub(super) fn steps_down(&self) -> u32 {
        self.stats.snapshot().devices[0].steps_down
    }
}

pub(super) async fn rendered(answers: Vec<oneshot::Receiver<Rendered>>) -> Vec<Rendered> {
    let mut all = Vec::new();
    for answer in answers {
        all.push(answer.await.expect("it is answered"));
    }
    all
}

pub(super) fn pictures(rendered: &[Rendered]) -> Vec<Vec<u8>> {
    let picture = |rendered: &Rendered| match &rendered.outcome {
        Outcome::Picture(picture) => picture.bytes.to_vec(),
        other => panic!("{other:?}"),
    };
    rendered.iter().map(picture).collect()
}

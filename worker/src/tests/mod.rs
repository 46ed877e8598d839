//! The worker against a scripted coordinator: `work` on good days, `faults` on bad ones.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sanafarm_proto::v1::*;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::{Error, Options, Shutdown, Summary, shift};

mod coordinator;
mod engine;
mod faults;
mod leaving;
mod tail;
mod work;

use coordinator::{Served, TestCoordinator};
use engine::{TestEngine, Watch};

/// A worker at work on some shards.
struct Farm {
    served: Served,
    folder: TempDir,
    watch: Arc<Watch>,
    shutdown: Shutdown,
    worker: JoinHandle<Result<Summary, Error>>,
}

impl Farm {
    /// Starts a worker on the shards that `shards` makes for an output folder and a model folder.
    async fn start(shards: impl FnOnce(&Path, &Path) -> Vec<Lease>) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), shards, |_| {}).await
    }

    async fn start_in(
        folder: TempDir,
        shards: impl FnOnce(&Path, &Path) -> Vec<Lease>,
        script: impl FnOnce(&mut coordinator::State),
    ) -> Self {
        let model = folder.path().join("model");
        std::fs::create_dir_all(&model).unwrap();
        if !model.join("model_index.json").exists() {
            std::fs::write(model.join("model_index.json"), "{}").unwrap();
        }
        let served = TestCoordinator::serve(shards(&folder.path().join("out"), &model)).await;
        served.coordinator.change(script);
        let watch = Arc::new(Watch::default());
        let shutdown = Shutdown::default();
        let options = Options {
            name: "worker-1".into(),
            cache: folder.path().join("cache"),
            job: None,
            device: None,
            labels: Default::default(),
            activity: None,
        };
        let engine = Box::new(TestEngine(watch.clone()));
        let device = crate::device::cpu();
        let worker =
            tokio::spawn(shift::run(served.channel.clone(), options, shutdown.clone(), engine, device));
        Self { served, folder, watch, shutdown, worker }
    }

    fn coordinator(&self) -> &TestCoordinator {
        &self.served.coordinator
    }

    /// What the worker ends with.
    async fn end(&mut self) -> Result<Summary, Error> {
        let ended = tokio::time::timeout(Duration::from_secs(60), &mut self.worker).await;
        ended.expect("the worker ends").expect("the worker does not panic")
    }

    /// Waits for results of that many images, then for the worker to leave.
    async fn finish(&mut self, images: usize) -> Summary {
        self.coordinator().until("all results", |state| state.results.len() == images).await;
        self.shutdown.soft.cancel();
        self.end().await.unwrap()
    }

    fn file(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.folder.path().join("out").join(name)).unwrap()
    }
}

/// A shard of small pictures, one for each prompt, with indices from `first`.
fn shard(id: &str, first: u64, prompts: &[&str], output: &Path, model: &Path) -> Lease {
    let images = prompts.iter().zip(first..).map(|(prompt, index)| LeasedImage {
        index,
        prompt: (*prompt).into(),
        negative_prompt: String::new(),
        seed: 100 + index,
        object: format!("{index:04}.png"),
    });
    Lease {
        r#ref: Some(LeaseRef { shard_id: id.into(), attempt: 1 }),
        job_id: "job".into(),
        job_name: "job".into(),
        model: model.to_str().unwrap().into(),
        output: output.to_str().unwrap().into(),
        settings: Some(Settings {
            width: 40,
            height: 24,
            steps: 3,
            guidance: 4.5,
            bin: BinMode::Auto.into(),
            decode: DecodeMode::Exact.into(),
        }),
        images: images.collect(),
    }
}

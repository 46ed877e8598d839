//! The worker against a scripted coordinator: `work` on good days, `faults` on bad ones.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sanafarm_proto::v1::*;
use sanafarm_telemetry::image_log;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::engine::Engine;
use crate::{Error, Options, Patience, Shutdown, Summary, shift};

mod archive;
mod aside;
mod bench;
mod coordinator;
mod devices;
mod engine;
mod faults;
mod in_time;
mod leaving;
mod notice;
mod outbox;
mod presigned;
mod room;
mod tail;
mod threads;
mod work;

use coordinator::{Served, TestCoordinator};
use engine::{TestEngine, Watch};

/// Beyond what any machine takes: what ends by itself is waited for.
const HOUR: Duration = Duration::from_secs(3600);

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

    /// The same on devices of the caller's choice.
    async fn on(
        shards: impl FnOnce(&Path, &Path) -> Vec<Lease>,
        engines: impl FnOnce(&Arc<Watch>) -> Vec<(Device, Box<dyn Engine>)>,
    ) -> Self {
        Self::start_on(tempfile::tempdir().unwrap(), shards, |_| {}, |_| {}, engines).await
    }

    async fn start_in(
        folder: TempDir,
        shards: impl FnOnce(&Path, &Path) -> Vec<Lease>,
        script: impl FnOnce(&mut coordinator::State),
    ) -> Self {
        Self::start_with(folder, shards, script, |_| {}).await
    }

    async fn start_with(
        folder: TempDir,
        shards: impl FnOnce(&Path, &Path) -> Vec<Lease>,
        script: impl FnOnce(&mut coordinator::State),
        set: impl FnOnce(&mut Options),
    ) -> Self {
        Self::start_on(folder, shards, script, set, one_cpu).await
    }

    async fn start_on(
        folder: TempDir,
        shards: impl FnOnce(&Path, &Path) -> Vec<Lease>,
        script: impl FnOnce(&mut coordinator::State),
        set: impl FnOnce(&mut Options),
        engines: impl FnOnce(&Arc<Watch>) -> Vec<(Device, Box<dyn Engine>)>,
    ) -> Self {
        keep_logs();
        let model = folder.path().join("model");
        std::fs::create_dir_all(&model).unwrap();
        if !model.join("model_index.json").exists() {
            std::fs::write(model.join("model_index.json"), "{}").unwrap();
        }
        let served = TestCoordinator::serve(shards(&folder.path().join("out"), &model)).await;
        served.coordinator.change(script);
        let watch = Arc::new(Watch::default());
        let shutdown = Shutdown::default();
        let mut options = Options::new("worker-1", folder.path().join("cache"));
        // A machine that is slow cuts nothing short.
        options.drain_timeout = HOUR;
        options.patience = Patience { answer: HOUR, stop: HOUR };
        set(&mut options);
        let worker =
            tokio::spawn(shift::run(served.channel.clone(), options, shutdown.clone(), engines(&watch)));
        Self { served, folder, watch, shutdown, worker }
    }

    fn coordinator(&self) -> &TestCoordinator {
        &self.served.coordinator
    }

    /// Waits until the engine has begun this image: a worker that leaves after what is in hand finishes it.
    async fn begun(&self, index: u64) {
        let begun = |held: &HeldLease| held.rendering.contains(&index);
        self.coordinator().until("begun", |state| state.renewals.iter().flatten().any(begun)).await;
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

    /// Ends the worker as if it were killed, and gives its folder: nothing of it runs any more.
    async fn kill(self) -> TempDir {
        self.worker.abort();
        let ended = self.worker.await;
        assert!(ended.is_err_and(|error| error.is_cancelled()), "it was at work");
        let outbox = std::fs::File::open(self.folder.path().join("cache/outbox/worker-1")).unwrap();
        let gone = async {
            while Arc::strong_count(&self.watch) > 1 || outbox.try_lock().is_err() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), gone).await.expect("its threads end");
        self.folder
    }

    fn file(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.folder.path().join("out").join(name)).unwrap()
    }
}

/// Has images keep what is logged about them, as the program does.
fn keep_logs() {
    // Other tests of this process may have done so.
    let _ = tracing_subscriber::registry().with(image_log::layer()).try_init();
}

/// A worker's only device.
fn one_cpu(watch: &Arc<Watch>) -> Vec<(Device, Box<dyn Engine>)> {
    vec![(crate::device::cpu(), Box::new(TestEngine::new(watch.clone())))]
}

/// A shard of small pictures, one for each prompt, with indices from `first`.
fn shard(id: &str, first: u64, prompts: &[&str], output: &Path, model: &Path) -> Lease {
    let images = prompts.iter().zip(first..).map(|(prompt, index)| LeasedImage {
        index,
        prompt: (*prompt).into(),
        negative_prompt: String::new(),
        seed: 100 + index,
        object: format!("{index:04}.png"),
        ..Default::default()
    });
    Lease {
        r#ref: Some(LeaseRef { shard_id: id.into(), attempt: 1 }),
        job_id: "job".into(),
        job_name: "job".into(),
        model: model.to_str().unwrap().into(),
        output: output.to_str().unwrap().into(),
        form: Some(Form {
            format: ImageFormat::Png.into(),
            layout: Layout::Files.into(),
            ..Default::default()
        }),
        archive: String::new(),
        presigned: false,
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

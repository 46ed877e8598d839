//! Several devices, little memory, and devices that break.

use std::path::Path;
use std::sync::Arc;

use sana::plan::Fit;
use sana::{Memory, ModelInfo, Placement, Recipe, Sink};
use sanafarm_proto::v1::{Device, ErrorClass, ReleaseReason, WorkerStats};
use tokio_util::sync::CancellationToken;

use super::engine::{TestEngine, Watch, cost, row};
use super::threads::{Bench, pictures, rendered};
use super::{Farm, shard};
use crate::engine::{Engine, Outcome, Rendered, SanaEngine};
use crate::{Error, picture};

fn device(id: &str) -> Device {
    Device { id: id.into(), ..crate::device::cpu() }
}

/// Two devices of which the first is as given.
fn two(watch: &Arc<Watch>, first: TestEngine) -> Vec<(Device, Box<dyn Engine>)> {
    vec![(device("cuda:0"), Box::new(first)), (device("cuda:1"), Box::new(TestEngine::new(watch.clone())))]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_is_busy_holds_no_work_back() {
    let prompts = ["wait", "a", "b", "c", "d", "e", "f", "g", "h", "i"];
    let mut farm = Farm::on(
        |out, model| vec![shard("s", 0, &prompts, out, model)],
        |watch| two(watch, TestEngine::new(watch.clone())),
    )
    .await;
    // The gate is closed: only the other device can have rendered them.
    farm.coordinator().until("all others", |state| state.results.len() == 9).await;
    farm.watch.open();
    assert_eq!(farm.finish(10).await.done, 10);
    let state = farm.coordinator().state();
    let devices: Vec<_> = state.opened[0].devices.iter().map(|device| device.id.as_str()).collect();
    assert_eq!(devices, ["cuda:0", "cuda:1"]);
    let held_up = &state.results[&0].device_id;
    for index in 1..10 {
        assert_ne!(&state.results[&index].device_id, held_up, "{index}");
    }
    assert_eq!((state.accepted, state.known), (10, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_device_is_given_up_and_no_image_is_blamed() {
    // The other device stands at its first one until the gate opens: it leaves some to the broken one.
    let mut farm = Farm::on(
        |out, model| vec![shard("s", 0, &["wait"; 12], out, model)],
        |watch| two(watch, TestEngine { broken: true, ..TestEngine::new(watch.clone()) }),
    )
    .await;
    farm.coordinator()
        .until("the broken device is told of", |state| {
            let broken = |stats: &WorkerStats| stats.devices.iter().any(|device| !device.broken.is_empty());
            broken(&state.stats)
        })
        .await;
    farm.watch.open();
    let summary = farm.finish(12).await;
    assert_eq!((summary.done, summary.failed), (12, 0));
    let state = farm.coordinator().state();
    assert!(state.results.values().all(|result| result.device_id == "cuda:1"));
    let stats = &state.stats;
    let broken: Vec<_> = stats.devices.iter().filter(|device| !device.broken.is_empty()).collect();
    assert_eq!((broken.len(), broken[0].device_id.as_str()), (1, "cuda:0"));
    assert!(broken[0].broken.contains("fell off the bus") && broken[0].broken.contains("does not answer"));
    assert_eq!(state.releases, []);
}

#[tokio::test]
async fn a_worker_whose_last_device_breaks_ends_and_hands_everything_back() {
    let mut farm = Farm::on(
        |out, model| vec![shard("s", 0, &["x", "y", "z"], out, model)],
        |watch| {
            let broken = || TestEngine { broken: true, ..TestEngine::new(watch.clone()) };
            vec![(device("cuda:0"), Box::new(broken())), (device("cuda:1"), Box::new(broken()))]
        },
    )
    .await;
    let error = farm.end().await.unwrap_err();
    assert!(matches!(&error, Error::NoDevice(_)), "{error}");
    let text = error.to_string();
    assert!(text.contains("cuda:0: ") && text.contains("cuda:1: ") && text.contains("off the bus"), "{text}");
    let state = farm.coordinator().state();
    assert!(state.results.is_empty() && state.errors.is_empty(), "no image is blamed");
    assert_eq!((state.releases.len(), state.releases[0].1), (1, ReleaseReason::Drain));
    assert_eq!(state.closed, 1);
}

#[tokio::test]
async fn a_well_device_goes_on_after_an_image_that_it_fails_at() {
    let mut farm =
        Farm::start(|out, model| vec![shard("a", 0, &["x", "fault", "y", "panic", "z"], out, model)]).await;
    let summary = farm.finish(5).await;
    assert_eq!((summary.done, summary.failed), (3, 2));
    let state = farm.coordinator().state();
    for index in [1, 3] {
        let failed = state.failed(index);
        assert_eq!(failed.error_class(), ErrorClass::Internal);
        assert!(failed.message.contains("as the prompt says"), "{failed:?}");
    }
    assert_eq!(*farm.watch.loads.lock().unwrap(), 3, "its state is not trusted after that");
}

fn pixels(file: &[u8]) -> Vec<u8> {
    picture::read(file).expect("it is whole");
    let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    pixels
}

/// Prompts of each batch, and what it would take.
fn tried(watch: &Watch) -> Vec<(usize, usize)> {
    watch.batches().iter().map(|(prompts, fit)| (prompts.len(), cost(fit))).collect()
}

#[tokio::test]
async fn waiting_images_of_one_kind_are_rendered_together() {
    let watch = Arc::new(Watch::default());
    let engine = TestEngine { batch: 3, slow: true, ..TestEngine::new(watch.clone()) };
    let bench = Bench::start(vec![Box::new(engine)]);
    let go_on = CancellationToken::new();
    let mut answers = bench.send(&["a", "b", "flat", "d"], (32, 32), &go_on);
    answers.extend(bench.send(&["e"], (64, 32), &go_on));
    answers.extend(bench.send(&["f", "g"], (32, 32), &go_on));
    watch.open();
    let all = rendered(answers).await;
    let batches: Vec<_> = watch.batches().into_iter().map(|(prompts, _)| prompts.join(" ")).collect();
    assert_eq!(batches, ["a b flat", "d", "e", "f g"]);
    for (index, (rendered, seed)) in all.iter().zip([100, 101, 102, 103, 100, 100, 101]).enumerate() {
        assert_eq!(rendered.effort.device_id, "cuda:0");
        match &rendered.outcome {
            Outcome::Picture(picture) => {
                let width = if index == 4 { 64 } else { 32 };
                let expected: Vec<u8> = (0..32).flat_map(|y| row(seed, width, y)).collect();
                assert!(pixels(&picture.bytes) == expected, "{index}");
            }
            Outcome::Failed(failure) => assert_eq!((index, failure.class), (2, ErrorClass::BadImage)),
            Outcome::Skipped => panic!("{index}"),
        }
    }
    let stats = bench.stats.snapshot();
    assert_eq!((stats.devices[0].batch, stats.devices[0].resident), (3, true));
}

#[tokio::test]
async fn a_stopped_image_leaves_its_batch_and_the_others_go_on() {
    let watch = Arc::new(Watch::default());
    let engine = TestEngine { batch: 4, slow: true, ..TestEngine::new(watch.clone()) };
    let bench = Bench::start(vec![Box::new(engine)]);
    let (ended, other) = (CancellationToken::new(), CancellationToken::new());
    let stopped = bench.send(&["a", "b"], (32, 32), &ended);
    let others = bench.send(&["c", "d"], (32, 32), &other);
    ended.cancel();
    watch.open();
    assert_eq!(pictures(&rendered(others).await).len(), 2);
    for rendered in rendered(stopped).await {
        assert!(matches!(rendered.outcome, Outcome::Skipped), "{rendered:?}");
    }
    assert_eq!(watch.batches().len(), 1, "they were one batch");
}

#[tokio::test]
async fn too_little_memory_steps_down_and_loses_nothing() {
    let watch = Arc::new(Watch::default());
    // 115 is enough for the whole model with one picture in tiles.
    let engine = TestEngine { batch: 4, slow: true, memory: 115, ..TestEngine::new(watch.clone()) };
    let bench = Bench::start(vec![Box::new(engine)]);
    let go_on = CancellationToken::new();
    let answers = bench.send(&["a", "b", "c", "d"], (32, 32), &go_on);
    watch.open();
    let all = rendered(answers).await;
    assert_eq!(pictures(&all).len(), 4);
    assert_eq!(tried(&watch), [(4, 160), (2, 140), (1, 130), (1, 115), (1, 115), (1, 115), (1, 115)]);
    assert_eq!(bench.steps_down(), 3);
    let told = bench.told(0);
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told[2].contains("tiles of 512 pixels"), "{told:?}");
    assert_eq!(bench.told(3).len(), 1, "it was tried once");
    // It is remembered for this size, and another one begins anew.
    rendered(bench.send(&["e"], (32, 32), &go_on)).await;
    rendered(bench.send(&["f"], (64, 32), &go_on)).await;
    assert_eq!(tried(&watch)[7..], [(1, 115), (1, 160), (1, 140), (1, 130), (1, 115)]);
}

#[tokio::test]
async fn a_model_that_does_not_fit_whole_is_used_in_parts() {
    let watch = Arc::new(Watch::default());
    let engine = TestEngine { batch: 2, memory: 90, ..TestEngine::new(watch.clone()) };
    let bench = Bench::start(vec![Box::new(engine)]);
    let all = rendered(bench.send(&["a"], (32, 32), &CancellationToken::new())).await;
    assert_eq!(pictures(&all).len(), 1);
    assert_eq!(tried(&watch), [(1, 65)]);
    assert!(bench.told(0)[0].contains("one part of the model"), "{:?}", bench.told(0));
    assert!(!bench.stats.snapshot().devices[0].resident);
}

#[tokio::test]
async fn an_image_that_never_fits_fails_by_itself() {
    let watch = Arc::new(Watch::default());
    let engine = TestEngine { batch: 3, slow: true, ..TestEngine::new(watch.clone()) };
    let bench = Bench::start(vec![Box::new(engine)]);
    let answers = bench.send(&["a", "greedy", "c"], (32, 32), &CancellationToken::new());
    watch.open();
    let all = rendered(answers).await;
    assert!(matches!(all[0].outcome, Outcome::Picture(_)) && matches!(all[2].outcome, Outcome::Picture(_)));
    let Outcome::Failed(failure) = &all[1].outcome else { panic!("{:?}", all[1]) };
    assert_eq!(failure.class, ErrorClass::OutOfMemory);
    assert!(!bench.told(1).is_empty());
}

#[tokio::test]
async fn an_engine_that_panics_in_a_batch_finds_the_image_that_it_was() {
    let watch = Arc::new(Watch::default());
    let engine = TestEngine { batch: 3, slow: true, ..TestEngine::new(watch.clone()) };
    let bench = Bench::start(vec![Box::new(engine)]);
    let answers = bench.send(&["a", "panic", "c"], (32, 32), &CancellationToken::new());
    watch.open();
    let all = rendered(answers).await;
    assert!(matches!(all[0].outcome, Outcome::Picture(_)) && matches!(all[2].outcome, Outcome::Picture(_)));
    let Outcome::Failed(failure) = &all[1].outcome else { panic!("{:?}", all[1]) };
    assert_eq!(failure.class, ErrorClass::Internal);
    assert!(failure.message.contains("as the prompt says"), "{failure:?}");
}

#[tokio::test]
async fn the_stop_ends_a_batch_without_answers_that_blame() {
    let watch = Arc::new(Watch::default());
    let bench = Bench::start(vec![Box::new(TestEngine { batch: 2, ..TestEngine::new(watch.clone()) })]);
    let answers = bench.send(&["wait", "b"], (32, 32), &CancellationToken::new());
    bench.stop.cancel();
    for answer in answers {
        assert!(!matches!(
            answer.await,
            Ok(Rendered { outcome: Outcome::Failed(_) | Outcome::Picture(_), .. })
        ));
    }
    let Bench { threads, folder: _folder, .. } = bench;
    drop(threads.commands);
    assert!(matches!(threads.ended.await, Ok(Ok(()))));
}

/// The real pipeline as on a device that takes batches of four, of which it can denoise two.
struct Tight(SanaEngine);

impl Engine for Tight {
    fn fit(&mut self, folder: &Path, recipe: &Recipe) -> Result<Fit, sana::Error> {
        Ok(Fit { batch: 4, ..self.0.fit(folder, recipe)? })
    }

    fn load(&mut self, folder: &Path, memory: Memory) -> Result<ModelInfo, sana::Error> {
        self.0.load(folder, memory)
    }

    fn compute_size(&self, recipe: &Recipe) -> Result<(u32, u32), sana::Error> {
        self.0.compute_size(recipe)
    }

    fn dtype(&self) -> &'static str {
        self.0.dtype()
    }

    fn render(&mut self, recipes: &[Recipe], fit: &Fit, sink: &mut dyn Sink) -> Result<(), sana::Error> {
        if fit.batch > 2 {
            return Err(sana::Error::OutOfMemory(format!("{} are too many", fit.batch)));
        }
        self.0.render(recipes, fit, sink)
    }

    fn probe(&mut self) -> Result<(), sana::Error> {
        self.0.probe()
    }
}

#[tokio::test]
async fn the_real_model_gives_the_same_files_however_little_memory_there_is() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/sana-tiny");
    let plain = || SanaEngine::new(Placement::cpu());
    // All of it at once takes more than 6 MB, each part less.
    let engines: [Box<dyn Engine>; 3] =
        [Box::new(plain()), Box::new(Tight(plain())), Box::new(plain().within(6 << 20))];
    let mut files = Vec::new();
    for engine in engines {
        let bench = Bench { model: model.clone(), ..Bench::start(vec![engine]) };
        let prompts = ["a red circle", "two blue stripes", "", "a moon", "a red circle"];
        let all = rendered(bench.send(&prompts, (96, 64), &CancellationToken::new())).await;
        files.push((pictures(&all), bench.stats.snapshot().devices[0].clone()));
    }
    assert!(files.iter().all(|(pictures, _)| *pictures == files[0].0));
    let of = |place: usize| (files[place].1.batch, files[place].1.resident, files[place].1.steps_down);
    assert_eq!([of(0), of(1), of(2)], [(1, true, 0), (2, true, 1), (1, false, 0)]);
}

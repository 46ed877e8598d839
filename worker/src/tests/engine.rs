//! A small deterministic engine for tests: its pictures follow from the recipe, its moods from the prompt.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use sana::autoencoder::Tiling;
use sana::plan::Fit;
use sana::{Error, Memory, ModelInfo, Progress, Recipe, Sink};
use tokio::sync::watch;

use crate::engine::Engine;

/// What tests see of the engines and hold them with.
#[derive(Default)]
pub(super) struct Watch {
    /// Prompts in the order in which they were started.
    started: watch::Sender<Vec<String>>,
    /// What was rendered at once, and how.
    pub(super) batches: Mutex<Vec<(Vec<String>, Fit)>>,
    pub(super) loads: Mutex<u32>,
    open: Mutex<bool>,
    opened: Condvar,
}

impl Watch {
    /// Lets images with the prompt `wait`, and slow models, go on.
    pub(super) fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }

    pub(super) fn started(&self) -> Vec<String> {
        self.started.borrow().clone()
    }

    /// Waits until so many images have come to be denoised: what stops an engine then finds it at work.
    pub(super) async fn until_started(&self, images: usize) {
        let mut started = self.started.subscribe();
        let waiting = started.wait_for(|started| started.len() >= images);
        let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
        waited.unwrap_or_else(|_| panic!("never: {images} images started")).unwrap();
    }

    pub(super) fn batches(&self) -> Vec<(Vec<String>, Fit)> {
        self.batches.lock().unwrap().clone()
    }

    /// Waits for as long as `go_on` says.
    fn wait_for_none(&self, mut go_on: impl FnMut() -> bool) -> Result<(), Error> {
        while go_on() {
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(Error::Cancelled)
    }

    /// Waits until it is open, or for as long as `go_on` says.
    fn wait(&self, mut go_on: impl FnMut() -> bool) -> bool {
        let mut open = self.open.lock().unwrap();
        while !*open {
            open = self.opened.wait_timeout(open, Duration::from_millis(5)).unwrap().0;
            if !go_on() {
                return false;
            }
        }
        true
    }
}

pub(super) struct TestEngine {
    pub(super) watch: Arc<Watch>,
    /// Pictures that it wants to denoise at once.
    pub(super) batch: usize,
    /// What it has, in the units of [`cost`].
    pub(super) memory: usize,
    /// Fails at every picture and is found broken then.
    pub(super) broken: bool,
    /// Loads its model when the watch is open.
    pub(super) slow: bool,
}

impl TestEngine {
    pub(super) fn new(watch: Arc<Watch>) -> Self {
        Self { watch, batch: 1, memory: usize::MAX, broken: false, slow: false }
    }
}

/// What a fit takes.
pub(super) fn cost(fit: &Fit) -> usize {
    let parts = if fit.memory == Memory::Resident { 100 } else { 50 };
    let decode = if fit.tiling == Tiling::Bands(None) { 20 } else { 5 };
    parts + 10 * fit.batch + decode
}

impl Engine for TestEngine {
    fn fit(&mut self, _: &Path, _: &Recipe) -> Result<Fit, Error> {
        Ok(Fit { batch: self.batch, smaller: vec![Tiling::Tiles(512)], ..Fit::default() })
    }

    fn load(&mut self, folder: &Path, memory: Memory) -> Result<ModelInfo, Error> {
        *self.watch.loads.lock().unwrap() += 1;
        if self.slow {
            self.watch.wait(|| true);
        }
        if memory == Memory::Resident && self.memory < 100 {
            return Err(Error::OutOfMemory("the model takes 100".into()));
        }
        let index = std::fs::read_to_string(folder.join("model_index.json")).unwrap();
        if index.contains("broken") {
            return Err(Error::Model("vae/config.json is broken".into()));
        }
        Ok(ModelInfo {
            name: "test-model".into(),
            weights_sha256: "0123456789abcdef".repeat(4),
            native_size: 64,
            weights_bytes: 1,
            scheduler: "flow-dpm-solver++",
            family: sana::Family::Sana,
        })
    }

    fn compute_size(&self, recipe: &Recipe) -> Result<(u32, u32), Error> {
        Ok((recipe.width.next_multiple_of(32), recipe.height.next_multiple_of(32)))
    }

    fn dtype(&self) -> &'static str {
        "f32"
    }

    fn render(&mut self, recipes: &[Recipe], fit: &Fit, sink: &mut dyn Sink) -> Result<(), Error> {
        let prompts: Vec<String> = recipes.iter().map(|recipe| recipe.prompt.clone()).collect();
        self.watch.batches.lock().unwrap().push((prompts.clone(), fit.clone()));
        if self.broken {
            return Err(Error::Device("it fell off the bus".into()));
        }
        if cost(fit) > self.memory {
            return Err(Error::OutOfMemory(format!("{} of {} units", cost(fit), self.memory)));
        }
        self.watch.started.send_modify(|started| started.extend(prompts));
        let mut latents = Vec::new();
        for (picture, recipe) in recipes.iter().enumerate() {
            match self.denoise(picture, recipe, sink) {
                Ok(()) => latents.push((picture, recipe)),
                Err(error) => sink.ended(picture, Err(&error)),
            }
        }
        for (picture, recipe) in latents {
            let decoded = decode(picture, recipe, sink);
            sink.ended(picture, decoded.as_ref().copied());
        }
        Ok(())
    }

    fn probe(&mut self) -> Result<(), Error> {
        if self.broken { Err(Error::Device("it does not answer".into())) } else { Ok(()) }
    }
}

impl TestEngine {
    fn denoise(&self, picture: usize, recipe: &Recipe, sink: &mut dyn Sink) -> Result<(), Error> {
        let steps = recipe.steps;
        let denoising = (0..=steps).map(|step| Progress::Denoising { step, steps });
        for progress in [Progress::Encoding].into_iter().chain(denoising) {
            sink.progress(picture, progress);
            if !sink.wants(picture) {
                return Err(Error::Cancelled);
            }
        }
        match recipe.prompt.as_str() {
            "wait" => self.watch.wait(|| sink.wants(picture)).then_some(()).ok_or(Error::Cancelled),
            "never" => self.watch.wait_for_none(|| sink.wants(picture)),
            "flat" => Err(Error::Numeric("the picture has one colour".into())),
            "greedy" => Err(Error::OutOfMemory("it is never enough".into())),
            "fault" => Err(Error::Device("as the prompt says".into())),
            "panic" => panic!("as the prompt says"),
            _ => Ok(()),
        }
    }
}

fn decode(picture: usize, recipe: &Recipe, sink: &mut dyn Sink) -> Result<(), Error> {
    let height = recipe.height;
    sink.progress(picture, Progress::Decoding { rows: 0, height });
    for y in 0..height {
        if !sink.wants(picture) {
            return Err(Error::Cancelled);
        }
        let row = row(recipe.seed, recipe.width, y);
        let row = if recipe.prompt == "white" { vec![255; row.len()] } else { row };
        sink.rows(picture, &row).map_err(Error::Sink)?;
    }
    Ok(())
}

/// One row of the picture with that seed.
pub(super) fn row(seed: u64, width: u32, y: u32) -> Vec<u8> {
    (0..width).flat_map(|x| [(x * 3 + y) as u8, (y * 5) as u8, (seed as u32 * 7 + x / 8) as u8]).collect()
}

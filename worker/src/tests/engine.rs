//! A small deterministic engine for tests: its pictures follow from the recipe, its moods from the prompt.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use sana::{ModelInfo, Recipe};

use crate::engine::{Engine, Stage};

/// What tests see of the engine and hold it with.
#[derive(Default)]
pub(super) struct Watch {
    /// Prompts in the order in which they were started.
    pub(super) started: Mutex<Vec<String>>,
    pub(super) loads: Mutex<u32>,
    open: Mutex<bool>,
    opened: Condvar,
}

impl Watch {
    /// Lets images with the prompt `wait` go on.
    pub(super) fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }

    pub(super) fn started(&self) -> Vec<String> {
        self.started.lock().unwrap().clone()
    }
}

pub(super) struct TestEngine(pub(super) Arc<Watch>);

impl Engine for TestEngine {
    fn load(&mut self, folder: &Path) -> Result<ModelInfo, sana::Error> {
        *self.0.loads.lock().unwrap() += 1;
        let index = std::fs::read_to_string(folder.join("model_index.json")).unwrap();
        if index.contains("broken") {
            return Err(sana::Error::Model("vae/config.json is broken".into()));
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

    fn compute_size(&self, recipe: &Recipe) -> Result<(u32, u32), sana::Error> {
        Ok((recipe.width.next_multiple_of(32), recipe.height.next_multiple_of(32)))
    }

    fn render(
        &mut self,
        recipe: &Recipe,
        on_stage: &mut (dyn FnMut(Stage) -> ControlFlow<()> + Send),
        rows: &mut (dyn FnMut(&[u8]) -> std::io::Result<()> + Send),
    ) -> Result<(), sana::Error> {
        self.0.started.lock().unwrap().push(recipe.prompt.clone());
        for stage in
            [Stage::Text, Stage::Denoise(0)].into_iter().chain((1..=recipe.steps).map(Stage::Denoise))
        {
            if on_stage(stage).is_break() {
                return Err(sana::Error::Cancelled);
            }
        }
        match recipe.prompt.as_str() {
            "wait" => {
                let mut open = self.0.open.lock().unwrap();
                while !*open {
                    open = self.0.opened.wait_timeout(open, Duration::from_millis(5)).unwrap().0;
                    if on_stage(Stage::Denoise(recipe.steps)).is_break() {
                        return Err(sana::Error::Cancelled);
                    }
                }
            }
            "flat" => return Err(sana::Error::Numeric("the picture has one colour".into())),
            "panic" => panic!("as the prompt says"),
            _ => {}
        }
        if on_stage(Stage::Decode).is_break() {
            return Err(sana::Error::Cancelled);
        }
        for y in 0..recipe.height {
            rows(&row(recipe.seed, recipe.width, y)).map_err(sana::Error::Sink)?;
        }
        Ok(())
    }
}

/// One row of the picture with that seed.
pub(super) fn row(seed: u64, width: u32, y: u32) -> Vec<u8> {
    (0..width).flat_map(|x| [(x * 3 + y) as u8, (y * 5) as u8, (seed as u32 * 7 + x / 8) as u8]).collect()
}

//! The engine thread of a device: it owns the model and waits for nothing but commands and a full encoder.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use sana::plan::Fit;
use sana::{Memory, ModelInfo, Recipe};
use sanafarm_proto::v1::ErrorClass;
use sanafarm_telemetry::image_log;
use sanafarm_telemetry::worker::OUT_OF_MEMORY;

use super::Engine;
use super::batch::{Batch, Face, Trouble, fail, internal};
use super::command::Command;
use super::devices::Context;
use super::encoder::Encoder;
use super::fits::{Fits, Kind, together};
use super::queue::Queue;
use crate::leases::LeaseKey;
use crate::models::{self, Cancel, Held};
use crate::recipe::{Failure, Provenance};
use crate::stats::DeviceMeter;

/// The last model asked for.
enum Model {
    None,
    Loaded(Loaded),
    /// Not tried again for other images of the same lease.
    Failed {
        reference: String,
        lease: LeaseKey,
        failure: Failure,
    },
}

#[derive(Clone)]
struct Loaded {
    reference: String,
    /// Nobody removes its files meanwhile.
    held: Arc<Held>,
    memory: Memory,
    info: ModelInfo,
}

/// Why a model is not ready.
enum Unready {
    /// Nobody can render this image here.
    Failure(Failure),
    Trouble(Trouble),
    /// The image was stopped while its model was on the way.
    Stopped,
}

impl From<sana::Error> for Unready {
    fn from(error: sana::Error) -> Self {
        match error {
            sana::Error::OutOfMemory(text) => Self::Trouble(Trouble::Memory(text)),
            sana::Error::Device(text) => Self::Trouble(Trouble::Device(text)),
            error => Self::Failure(Failure::from(&error)),
        }
    }
}

pub(super) struct EngineThread {
    engine: Box<dyn Engine>,
    queue: Arc<Queue>,
    encoder: Encoder,
    face: Face,
    model: Model,
    fits: Fits,
}

impl EngineThread {
    pub(super) fn new(
        engine: Box<dyn Engine>,
        place: usize,
        device_id: String,
        context: Context,
        queue: Arc<Queue>,
        encoder: Encoder,
        meter: Arc<DeviceMeter>,
    ) -> Self {
        let face = Face { device_id, place, meter, busy: None, context };
        Self { engine, queue, encoder, face, model: Model::None, fits: Fits::default() }
    }

    /// Works until there is nothing more to do; the error is why the device is given up.
    pub(super) fn work(mut self) -> Result<(), String> {
        let worked = self.serve_all();
        let encoded = self.encoder.finish();
        encoded.map_err(|panic| format!("the encoder broke down: {}", text(&*panic))).and(worked)
    }

    fn serve_all(&mut self) -> Result<(), String> {
        while let Some(command) = self.queue.take() {
            // Without an answer the image counts as skipped.
            if self.starts(&command) {
                let served = self.serve(command);
                self.face.show("", None);
                served?;
            }
        }
        Ok(())
    }

    /// Whether the image is to be rendered; it counts as started then.
    fn starts(&self, command: &Command) -> bool {
        let starts = !self.face.context.stop.is_cancelled() && command.claim.start();
        if starts {
            self.face.context.leases.started(&command.lease, command.index);
        }
        starts
    }

    /// Renders an image, and others that wait and are like it, until each of them is answered. The error is why the device
    /// is given up: its images are others' to render then.
    fn serve(&mut self, first: Command) -> Result<(), String> {
        let kind = Kind::of(&first.model, &first.recipe);
        let mut hand = vec![first];
        let (mut gathered, mut alone) = (false, false);
        while let Some(first) = hand.first() {
            if self.face.context.stop.is_cancelled() {
                return Ok(());
            }
            let mut loading = false;
            self.face.show("load", Some((first, 0)));
            let about = image_log::together(hand.iter().map(|image| &image.log));
            let prepared = about.in_scope(|| catch_unwind(AssertUnwindSafe(|| self.prepare(&kind, first))));
            let (mut tried, rest, trouble) = match prepared.unwrap_or_else(|panic| Err(broken_down(&*panic)))
            {
                Ok((info, fit)) => {
                    if !gathered {
                        gathered = true;
                        self.gather(&mut hand, together(&fit));
                    }
                    let count = if alone { 1 } else { together(&fit).min(hand.len()) };
                    let rest = hand.split_off(count);
                    let about = image_log::together(hand.iter().map(|image| &image.log));
                    let (tried, trouble) = about.in_scope(|| self.render(hand, &info, &fit));
                    (tried, rest, trouble)
                }
                Err(Unready::Failure(failure)) => {
                    hand.into_iter().for_each(|image| fail(image, &self.face.device_id, failure.clone()));
                    return Ok(());
                }
                // Without an answer it counts as skipped.
                Err(Unready::Stopped) => return Ok(()),
                Err(Unready::Trouble(trouble)) => {
                    loading = true;
                    (hand, Vec::new(), Some(trouble))
                }
            };
            let about = image_log::together(tried.iter().map(|image| &image.log)).entered();
            match trouble {
                None => {}
                Some(Trouble::Memory(text)) => tried = self.step_down(&kind, loading, tried, &text),
                Some(Trouble::Device(text)) => {
                    if let Err(reason) = self.probe(&text) {
                        tried.extend(rest);
                        self.queue.put_back(tried);
                        return Err(reason);
                    }
                    // The device is well, so it is one of the images: which one shows when each is alone.
                    match <[Command; 1]>::try_from(tried) {
                        Ok([image]) => {
                            fail(image, &self.face.device_id, internal(text));
                            tried = Vec::new();
                        }
                        Err(several) => {
                            alone = true;
                            tried = several;
                        }
                    }
                }
                Some(Trouble::Encoder) => {
                    tried.extend(rest);
                    self.queue.put_back(tried);
                    return Err("the encoder has ended".into());
                }
            }
            drop(about);
            tried.extend(rest);
            hand = tried;
        }
        Ok(())
    }

    /// Takes more images of the kind in hand, without waiting for any.
    fn gather(&self, hand: &mut Vec<Command>, most: usize) {
        let Some(first) = hand.first() else { return };
        let more = self.queue.take_like(first, most.saturating_sub(hand.len()));
        hand.extend(more.into_iter().filter(|command| self.starts(command)));
    }

    /// Renders images together. Those that are left without an answer, and why.
    fn render(&mut self, hand: Vec<Command>, info: &ModelInfo, fit: &Fit) -> (Vec<Command>, Option<Trouble>) {
        let (mut recipes, mut images): (Vec<Recipe>, Vec<_>) = (Vec::new(), Vec::new());
        for image in hand {
            let recipe = &image.recipe;
            match self.engine.compute_size(recipe) {
                Ok(compute) => {
                    recipes.push(recipe.clone());
                    let provenance = Provenance::new(recipe, info, compute, self.engine.dtype());
                    images.push((image, provenance));
                }
                Err(error) => fail(image, &self.face.device_id, Failure::from(&error)),
            }
        }
        let mut batch = Batch::new(images, &self.encoder, &mut self.face);
        let engine = &mut self.engine;
        let rendered = catch_unwind(AssertUnwindSafe(|| engine.render(&recipes, fit, &mut batch)));
        let (left, trouble) = batch.finish();
        let failed = match rendered {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(Unready::from(error)),
            Err(panic) => Some(broken_down(&*panic)),
        };
        let failure = match (failed, trouble) {
            (Some(Unready::Trouble(trouble)), _) | (None, Some(trouble)) => return (left, Some(trouble)),
            (Some(Unready::Failure(failure)), _) => failure,
            (Some(Unready::Stopped), _) => return (Vec::new(), None),
            (None, None) => internal("the engine did not say what became of the picture".into()),
        };
        left.into_iter().for_each(|image| fail(image, &self.face.device_id, failure.clone()));
        (Vec::new(), None)
    }

    /// Goes on with less memory. Images that cannot do with less fail; the others are given back.
    fn step_down(&mut self, kind: &Kind, loading: bool, tried: Vec<Command>, text: &str) -> Vec<Command> {
        metrics::counter!(OUT_OF_MEMORY, "device" => self.face.device_id.clone()).increment(1);
        let Some(next) = self.fits.step_down(kind, loading) else {
            tracing::error!(device = %self.face.device_id, error = text, "out of memory, with nothing left to try");
            for image in tried {
                fail(image, &self.face.device_id, Failure::new(ErrorClass::OutOfMemory, text));
            }
            return Vec::new();
        };
        self.face.meter.stepped_down();
        tracing::warn!(device = %self.face.device_id, error = text, "out of memory: goes on with {next}");
        tried
    }

    /// Asks the device whether it is well after `text`. What it held is lost; the error is why it is given up.
    fn probe(&mut self, text: &str) -> Result<(), String> {
        tracing::error!(device = %self.face.device_id, error = text, "device or engine failed: probing it");
        self.model = Model::None;
        let engine = &mut self.engine;
        match catch_unwind(AssertUnwindSafe(|| engine.probe())) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("{text}; and then: {error}")),
            Err(panic) => Err(format!("{text}; and then: {}", self::text(&*panic))),
        }
    }

    /// The model that the command names, loaded now if it is not yet, and how it is used for such images.
    fn prepare(&mut self, kind: &Kind, command: &Command) -> Result<(ModelInfo, Fit), Unready> {
        let wanted = &command.model;
        if let Model::Failed { reference, lease, failure } = &self.model
            && reference == wanted
            && *lease == command.lease
        {
            return Err(Unready::Failure(failure.clone()));
        }
        let prepared = self.load(kind, command);
        if let Err(Unready::Failure(failure)) = &prepared
            && failure.class == ErrorClass::Model
        {
            tracing::error!(model = %wanted, error = %failure.message, "model cannot be loaded");
            self.model = Model::Failed {
                reference: wanted.clone(),
                lease: command.lease.clone(),
                failure: failure.clone(),
            };
        }
        prepared
    }

    /// The files of the model that the command names, downloaded now if they are not here. That ends at once when the
    /// worker leaves, or nobody wants the image any more.
    fn find(&self, command: &Command) -> Result<Held, Unready> {
        let tokens = [&self.face.context.stop, &command.halt, command.claim.skip()];
        let found =
            self.face.context.models.resolve(&command.model, &Cancel::when_any(tokens.map(Clone::clone)));
        found.map_err(|error| match error {
            models::Error::Cancelled => Unready::Stopped,
            error => Unready::Failure(Failure::new(ErrorClass::Model, error.in_full())),
        })
    }

    fn load(&mut self, kind: &Kind, command: &Command) -> Result<(ModelInfo, Fit), Unready> {
        let wanted = &command.model;
        let loaded = match &self.model {
            Model::Loaded(loaded) if loaded.reference == *wanted => Some(loaded.clone()),
            Model::None | Model::Loaded(_) | Model::Failed { .. } => None,
        };
        let held = match &loaded {
            Some(loaded) => Arc::clone(&loaded.held),
            None => Arc::new(self.find(command)?),
        };
        let engine = &mut self.engine;
        let fit = self.fits.get(kind.clone(), || engine.fit(held.folder(), &command.recipe))?;
        // More may come while the model is loaded.
        self.queue.set_share(self.face.place, together(&fit));
        self.face.meter.set_batch(u32::try_from(fit.batch).unwrap_or(u32::MAX));
        self.face.meter.set_resident(fit.memory == Memory::Resident);
        if let Some(loaded) = loaded
            && loaded.memory == fit.memory
        {
            return Ok((loaded.info, fit));
        }
        let started = Instant::now();
        self.model = Model::None;
        let info = self.engine.load(held.folder(), fit.memory)?;
        tracing::info!(
            device = %self.face.device_id, model = %wanted, bytes = info.weights_bytes,
            elapsed = ?started.elapsed(), "loaded model"
        );
        let reference = wanted.clone();
        self.model = Model::Loaded(Loaded { reference, held, memory: fit.memory, info: info.clone() });
        Ok((info, fit))
    }
}

/// A panic leaves the engine in an unknown state.
fn broken_down(panic: &(dyn Any + Send)) -> Unready {
    Unready::Trouble(Trouble::Device(format!("the engine broke down: {}", text(panic))))
}

/// What a panic says.
pub(super) fn text(panic: &(dyn Any + Send)) -> &str {
    if let Some(text) = panic.downcast_ref::<&str>() {
        text
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text
    } else {
        "panic without a message"
    }
}

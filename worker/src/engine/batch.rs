//! Images in hand: what is known of each while the engine renders them together, and how it is told.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use sana::{Error, Progress, Sink};
use sanafarm_proto::v1::ErrorClass;

use super::command::{Command, Effort, Rendered};
use super::devices::Context;
use super::encoder::{Canvas, Encoder};
use super::pace::Pace;
use crate::Activity;
use crate::recipe::{Failure, Provenance};
use crate::stats::{Busy, DeviceMeter};
use crate::told::Period;

/// Nobody can render this image here.
pub(super) fn fail(command: Command, device_id: &str, failure: Failure) {
    let effort = Effort { device_id: device_id.to_owned(), ..Effort::default() };
    command.reply.answer(Rendered { effort, ..Rendered::failed(failure) });
}

/// Why the images of a batch could not be rendered, other than by their own fault.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Too little memory.
    Memory(String),
    /// The device or the engine fails, and may be broken.
    Device(String),
    /// The encoder's thread is dead.
    Encoder,
}

/// What this device shows of itself.
pub(super) struct Face {
    pub(super) device_id: String,
    /// Its place among the devices.
    pub(super) place: usize,
    pub(super) meter: Arc<DeviceMeter>,
    pub(super) busy: Option<(&'static str, Busy)>,
    pub(super) context: Context,
}

impl Face {
    /// The device works on this image, or on none.
    pub(super) fn show(&mut self, stage: &'static str, at: Option<(&Command, u32)>) {
        if self.busy.as_ref().map(|(stage, _)| *stage) != at.map(|_| stage) {
            // One ends before the next begins.
            self.busy = None;
            self.busy = at.map(|_| (stage, self.meter.busy(stage)));
        }
        let device = self.device_id.clone();
        let now = match at {
            Some((command, step)) => Activity {
                device,
                job: command.job.clone(),
                index: command.index,
                stage,
                step,
                steps: command.recipe.steps,
            },
            None => Activity { device, ..Activity::default() },
        };
        let place = self.place;
        self.context.activity.send_if_modified(|all| match all.get_mut(place) {
            Some(shown) if *shown != now => {
                *shown = now;
                true
            }
            Some(_) | None => false,
        });
    }

    /// Runs what the device may have to wait for. Waiting is being idle.
    fn aside<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let stage = self.busy.take().map(|(stage, _)| stage);
        let done = work();
        self.busy = stage.map(|stage| (stage, self.meter.busy(stage)));
        done
    }
}

/// Takes what the engine makes of a batch.
pub(super) struct Batch<'a> {
    images: Vec<Slot>,
    stages: Stages,
    encoder: &'a Encoder,
    face: &'a mut Face,
    started: Instant,
    /// What pictures like these took here.
    pace: Option<Pace>,
    /// Seconds that the images took together.
    shared: Option<f64>,
    trouble: Option<Trouble>,
}

struct Slot {
    image: Command,
    provenance: Provenance,
    canvas: Option<Canvas>,
    decode_started: Option<(Instant, SystemTime)>,
    ended: bool,
}

/// When the images of a batch went through the stages that they go through together.
struct Stages {
    text: SystemTime,
    denoise: Option<SystemTime>,
    decode: Option<SystemTime>,
}

impl Stages {
    fn see(&mut self, progress: Progress) {
        match progress {
            Progress::Encoding => {}
            Progress::Denoising { .. } => drop(self.denoise.get_or_insert_with(SystemTime::now)),
            Progress::Decoding { .. } => drop(self.decode.get_or_insert_with(SystemTime::now)),
        }
    }

    /// Up to now.
    fn told(&self) -> Vec<(&'static str, Period)> {
        let now = SystemTime::now();
        let text = Period { start: self.text, end: self.denoise.unwrap_or(now) };
        let denoise = self.denoise.map(|start| Period { start, end: self.decode.unwrap_or(now) });
        [Some(("text", text)), denoise.map(|denoise| ("denoise", denoise))].into_iter().flatten().collect()
    }
}

impl<'a> Batch<'a> {
    pub(super) fn new(images: Vec<(Command, Provenance)>, encoder: &'a Encoder, face: &'a mut Face) -> Self {
        let slot = |(image, provenance)| Slot {
            image,
            provenance,
            canvas: None,
            decode_started: None,
            ended: false,
        };
        let images: Vec<_> = images.into_iter().map(slot).collect();
        let stages = Stages { text: SystemTime::now(), denoise: None, decode: None };
        let pace = images
            .first()
            .and_then(|slot| face.context.paces.get(&face.device_id, &slot.image.model, &slot.image.recipe));
        Self { images, stages, encoder, face, started: Instant::now(), pace, shared: None, trouble: None }
    }

    /// What is left without an answer, and why.
    pub(super) fn finish(self) -> (Vec<Command>, Option<Trouble>) {
        let left = self.images.into_iter().filter(|slot| !slot.ended).map(|slot| slot.image).collect();
        (left, self.trouble)
    }

    /// Time that one image has taken so far.
    fn effort(&self, picture: usize) -> Effort {
        let slot = &self.images[picture];
        let together = self.shared.unwrap_or_else(|| self.started.elapsed().as_secs_f64());
        let decode_seconds = slot.decode_started.map_or(0.0, |(started, _)| started.elapsed().as_secs_f64());
        let decode = slot.decode_started.map(|(_, started)| ("decode", Period::since(started)));
        Effort {
            device_id: self.face.device_id.clone(),
            render_seconds: together / self.images.len() as f64 + decode_seconds,
            decode_seconds,
            stages: self.stages.told().into_iter().chain(decode).collect(),
        }
    }

    /// Whether a picture is finished before the machine is gone, as far as is known.
    fn has_time(&self, picture: usize) -> bool {
        let end = *self.face.context.ends.borrow();
        match (end, self.pace) {
            (Some(end), Some(pace)) => {
                self.started + pace.needed(self.images.len(), picture) <= end.into_std()
            }
            (None, _) | (_, None) => true,
        }
    }

    /// Remembers what a picture took.
    fn learn(&self, picture: usize, effort: &Effort) {
        let alone = Duration::from_secs_f64(effort.decode_seconds);
        let together = Duration::from_secs_f64(effort.render_seconds).saturating_sub(alone);
        let Command { model, recipe, .. } = &self.images[picture].image;
        self.face.context.paces.set(&self.face.device_id, model, recipe, Pace { together, alone });
    }

    fn answer(&mut self, picture: usize, rendered: Rendered) {
        let slot = &mut self.images[picture];
        slot.ended = true;
        // Without an end the encoder forgets what it has of the picture.
        slot.canvas = None;
        slot.image.reply.answer(rendered);
    }
}

impl Sink for Batch<'_> {
    fn rows(&mut self, picture: usize, rows: &[u8]) -> io::Result<()> {
        let Some(canvas) = &self.images[picture].canvas else {
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the encoder has ended"));
        };
        let taken = canvas.try_rows(rows)?;
        if taken < rows.len() { self.face.aside(|| canvas.rows(&rows[taken..])) } else { Ok(()) }
    }

    fn progress(&mut self, picture: usize, progress: Progress) {
        let (stage, step) = match progress {
            Progress::Encoding => ("text", 0),
            Progress::Denoising { step, .. } => ("denoise", step),
            Progress::Decoding { .. } => ("decode", self.images[picture].image.recipe.steps),
        };
        self.stages.see(progress);
        self.face.show(stage, Some((&self.images[picture].image, step)));
        if let Progress::Decoding { rows: 0, .. } = progress {
            let started = self.started;
            self.shared.get_or_insert_with(|| started.elapsed().as_secs_f64());
            let slot = &mut self.images[picture];
            let Command { encoding, log, reply, .. } = &slot.image;
            let (provenance, encoding) = (slot.provenance.clone(), *encoding);
            let (log, reply) = (log.clone(), reply.clone());
            let encoder = self.encoder;
            // The encoder may still be at the pictures before.
            slot.canvas = self.face.aside(|| encoder.begin(provenance, encoding, log, reply));
            slot.decode_started = Some((Instant::now(), SystemTime::now()));
            if slot.canvas.is_none() {
                self.trouble = Some(Trouble::Encoder);
            }
        }
    }

    fn wants(&mut self, picture: usize) -> bool {
        let halt = &self.images[picture].image.halt;
        !halt.is_cancelled() && !self.face.context.stop.is_cancelled() && self.has_time(picture)
    }

    fn ended(&mut self, picture: usize, outcome: Result<(), &Error>) {
        let effort = self.effort(picture);
        match outcome {
            Ok(()) => {
                self.learn(picture, &effort);
                let slot = &mut self.images[picture];
                if let Some(canvas) = slot.canvas.take() {
                    slot.ended = true;
                    slot.image.claim.draw();
                    self.face.aside(|| canvas.whole(effort));
                }
            }
            Err(_) if matches!(self.trouble, Some(Trouble::Encoder)) => {}
            // Stopped from outside, whatever the engine calls it.
            Err(_) if !self.wants(picture) => {
                if !self.has_time(picture) {
                    let index = self.images[picture].image.index;
                    tracing::info!(index, device = %self.face.device_id, "the image takes too long: stopped");
                }
                self.answer(picture, Rendered::skipped());
            }
            Err(Error::OutOfMemory(text)) => {
                self.images[picture].canvas = None;
                self.trouble.get_or_insert(Trouble::Memory(text.clone()));
            }
            Err(Error::Device(text)) => {
                self.images[picture].canvas = None;
                self.trouble = Some(Trouble::Device(text.clone()));
            }
            Err(error) => {
                self.answer(picture, Rendered { effort, ..Rendered::failed(error.into()) });
            }
        }
    }
}

/// The engine or its device did not do what it should.
pub(super) fn internal(message: String) -> Failure {
    Failure::new(ErrorClass::Internal, message)
}

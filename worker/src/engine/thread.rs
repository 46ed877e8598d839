//! The engine thread: it owns the model and waits for nothing but commands and a full encoder.

use std::any::Any;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use sana::{ModelInfo, Recipe};
use sanafarm_proto::v1::ErrorClass;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::encoder::{Encoder, Picture};
use super::{Engine, Stage};
use crate::Activity;
use crate::leases::{LeaseKey, Leases};
use crate::models;
use crate::recipe::{Failure, Provenance};

/// Render this image.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) lease: LeaseKey,
    pub(crate) job: String,
    pub(crate) index: u64,
    /// As the job names it.
    pub(crate) model: String,
    pub(crate) recipe: Recipe,
    pub(crate) claim: Claim,
    /// Stops this image at its next step: its job has ended.
    pub(crate) halt: CancellationToken,
    pub(crate) reply: oneshot::Sender<Rendered>,
}

/// Who decides about an image that waits at the engine: the engine by starting it or its waiter by giving it
/// up, whoever comes first.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    decided: Arc<OnceLock<Decision>>,
    skip: CancellationToken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Started,
    GivenUp,
}

impl Claim {
    /// `skip` is cancelled when the image is not to be started any more.
    pub(crate) fn new(skip: CancellationToken) -> Self {
        Self { decided: Arc::default(), skip }
    }

    /// Whether the image is the engine's to render.
    pub(crate) fn start(&self) -> bool {
        !self.skip.is_cancelled() && self.decide(Decision::Started)
    }

    /// Waits until the image is not to be started any more; `false` when it was started before.
    pub(crate) async fn given_up(&self) -> bool {
        self.skip.cancelled().await;
        self.decide(Decision::GivenUp)
    }

    /// It is not to be started any more.
    pub(crate) fn cancel(&self) {
        self.skip.cancel();
    }

    /// The engine has it.
    pub(crate) fn is_started(&self) -> bool {
        self.decided.get() == Some(&Decision::Started)
    }

    /// Whether this is the first decision, which is the one that counts.
    fn decide(&self, decision: Decision) -> bool {
        self.decided.set(decision).is_ok()
    }
}

/// What became of an image.
#[derive(Debug)]
pub(crate) struct Rendered {
    pub(crate) outcome: Outcome,
    /// Time on the device.
    pub(crate) render_seconds: f64,
    /// The decode part of it.
    pub(crate) decode_seconds: f64,
}

#[derive(Debug)]
pub(crate) enum Outcome {
    Picture(Box<Picture>),
    Failed(Failure),
    /// Not started, or stopped in the middle because the worker leaves.
    Skipped,
}

impl Rendered {
    pub(crate) fn failed(failure: Failure) -> Self {
        Self { outcome: Outcome::Failed(failure), render_seconds: 0.0, decode_seconds: 0.0 }
    }

    pub(crate) fn skipped() -> Self {
        Self { outcome: Outcome::Skipped, render_seconds: 0.0, decode_seconds: 0.0 }
    }
}

/// What the engine thread shares with the async side.
pub(crate) struct Context {
    pub(crate) cache: PathBuf,
    pub(crate) activity: watch::Sender<Activity>,
    pub(crate) leases: Arc<Leases>,
    /// Stops the picture in hand at its next step.
    pub(crate) stop: CancellationToken,
}

/// The async side's handle on the engine and encoder threads.
pub(crate) struct Threads {
    /// One image waits here while one is rendered. The threads end when this is dropped.
    pub(crate) commands: mpsc::Sender<Command>,
    /// Why the threads ended, when they have.
    pub(crate) ended: oneshot::Receiver<Result<(), String>>,
}

/// Starts both threads.
pub(crate) fn start(engine: Box<dyn Engine>, context: Context) -> std::io::Result<Threads> {
    let (commands, queue) = mpsc::channel(1);
    let (end, ended) = oneshot::channel();
    let encoder = Encoder::start()?;
    std::thread::Builder::new().name("engine".into()).spawn(move || {
        let worked = EngineThread { engine, context, model: Model::None }.work(queue, &encoder);
        let encoded = encoder.finish().map_err(|panic| format!("the encoder broke down: {}", text(&*panic)));
        // Nobody listens when the worker was dropped.
        let _ = end.send(encoded.and(worked));
    })?;
    Ok(Threads { commands, ended })
}

/// The last model asked for.
enum Model {
    None,
    Loaded {
        reference: String,
        info: ModelInfo,
    },
    /// Not tried again for other images of the same lease.
    Failed {
        reference: String,
        lease: LeaseKey,
        failure: Failure,
    },
}

struct EngineThread {
    engine: Box<dyn Engine>,
    context: Context,
    model: Model,
}

impl EngineThread {
    fn work(mut self, mut queue: mpsc::Receiver<Command>, encoder: &Encoder) -> Result<(), String> {
        while let Some(command) = queue.blocking_recv() {
            // Without an answer the image counts as skipped.
            if self.context.stop.is_cancelled() || !command.claim.start() {
                continue;
            }
            self.context.leases.started(&command.lease, command.index);
            let rendered = self.render(command, encoder);
            self.context.activity.send_replace(Activity::default());
            rendered?;
        }
        Ok(())
    }

    /// Answers the command by itself or through the encoder; the error ends the thread.
    fn render(&mut self, command: Command, encoder: &Encoder) -> Result<(), String> {
        let loading = Activity {
            job: command.job.clone(),
            index: command.index,
            stage: "load",
            step: 0,
            steps: command.recipe.steps,
        };
        self.context.activity.send_replace(loading);
        let (failure, end) = match catch_unwind(AssertUnwindSafe(|| self.prepare(&command))) {
            Ok(Ok(provenance)) => return self.draw(command, provenance, encoder),
            Ok(Err(failure)) => (failure, Ok(())),
            Err(panic) => broken_down(&*panic),
        };
        // Nobody listens when the worker was dropped.
        let _ = command.reply.send(Rendered::failed(failure));
        end
    }

    fn prepare(&mut self, command: &Command) -> Result<Provenance, Failure> {
        let model = self.load(command)?;
        let compute = self.engine.compute_size(&command.recipe)?;
        Ok(Provenance::new(&command.recipe, &model, compute))
    }

    fn draw(&mut self, command: Command, provenance: Provenance, encoder: &Encoder) -> Result<(), String> {
        let Command { job, index, recipe, halt, reply, .. } = command;
        let Some(canvas) = encoder.begin(provenance, reply) else {
            return Err("the encoder has ended".into());
        };
        let stop = self.context.stop.clone();
        let is_stopped = || stop.is_cancelled() || halt.is_cancelled();
        let activity = self.context.activity.clone();
        let started = Instant::now();
        let mut decode_started = started;
        let mut on_stage = |stage| {
            let (name, step) = match stage {
                Stage::Text => ("text", 0),
                Stage::Denoise(step) => ("denoise", step),
                Stage::Decode => {
                    decode_started = Instant::now();
                    ("decode", recipe.steps)
                }
            };
            activity.send_replace(Activity {
                job: job.clone(),
                index,
                stage: name,
                step,
                steps: recipe.steps,
            });
            if is_stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let mut rows = |rows: &[u8]| {
            if is_stopped() {
                return Err(std::io::Error::new(std::io::ErrorKind::Interrupted, "stopped from outside"));
            }
            canvas.rows(rows)
        };
        let engine = &mut self.engine;
        let rendered = catch_unwind(AssertUnwindSafe(|| engine.render(&recipe, &mut on_stage, &mut rows)));
        let render_seconds = started.elapsed().as_secs_f64();
        match rendered {
            Ok(Ok(())) => {
                canvas.whole(render_seconds, decode_started.elapsed().as_secs_f64());
                Ok(())
            }
            // Stopped from outside, whatever the engine calls it.
            Ok(Err(_)) if is_stopped() => {
                canvas.ended(Rendered::skipped());
                Ok(())
            }
            Ok(Err(error)) => {
                canvas.ended(Rendered { render_seconds, ..Rendered::failed(error.into()) });
                Ok(())
            }
            Err(panic) => {
                let (failure, broken) = broken_down(&*panic);
                canvas.ended(Rendered { render_seconds, ..Rendered::failed(failure) });
                broken
            }
        }
    }

    /// The model that the command names, loaded now if it is not yet.
    fn load(&mut self, command: &Command) -> Result<ModelInfo, Failure> {
        let wanted = &command.model;
        match &self.model {
            Model::Loaded { reference, info } if reference == wanted => return Ok(info.clone()),
            Model::Failed { reference, lease, failure } if reference == wanted && *lease == command.lease => {
                return Err(failure.clone());
            }
            Model::None | Model::Loaded { .. } | Model::Failed { .. } => {}
        }
        let started = Instant::now();
        self.model = Model::None;
        let loaded = models::resolve(wanted, &self.context.cache)
            .map_err(|error| Failure::new(ErrorClass::Model, error.to_string()))
            .and_then(|folder| self.engine.load(&folder).map_err(Failure::from));
        match loaded {
            Ok(info) => {
                tracing::info!(model = %wanted, bytes = info.weights_bytes, elapsed = ?started.elapsed(), "loaded model");
                self.model = Model::Loaded { reference: wanted.clone(), info: info.clone() };
                Ok(info)
            }
            Err(failure) => {
                tracing::error!(model = %wanted, error = %failure.message, "model cannot be loaded");
                self.model = Model::Failed {
                    reference: wanted.clone(),
                    lease: command.lease.clone(),
                    failure: failure.clone(),
                };
                Err(failure)
            }
        }
    }
}

/// A panic leaves the model in an unknown state: the image fails and the thread ends.
fn broken_down(panic: &(dyn Any + Send)) -> (Failure, Result<(), String>) {
    let message = format!("the engine broke down: {}", text(panic));
    (Failure::new(ErrorClass::Internal, message.clone()), Err(message))
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

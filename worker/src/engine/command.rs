//! What the async side asks of the engines, and what it hears of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use sana::Recipe;
use sanafarm_telemetry::image_log::ImageLog;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::encoder::Picture;
use crate::leases::LeaseKey;
use crate::picture::Encoding;
use crate::recipe::Failure;
use crate::told::Period;

/// Render this image.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) lease: LeaseKey,
    pub(crate) job: String,
    pub(crate) index: u64,
    /// As the job names it.
    pub(crate) model: String,
    pub(crate) recipe: Recipe,
    pub(crate) encoding: Encoding,
    pub(crate) claim: Claim,
    /// Stops this image at its next step: its job has ended.
    pub(crate) halt: CancellationToken,
    /// Takes what is said about it.
    pub(crate) log: ImageLog,
    pub(crate) reply: Reply,
}

impl Command {
    /// Whether both can be denoised together: by one model, in one size, with the same settings.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let settings = |recipe: &Recipe| {
            (recipe.width, recipe.height, recipe.bin, recipe.steps, recipe.guidance, recipe.decode)
        };
        self.model == other.model && settings(&self.recipe) == settings(&other.recipe)
    }
}

/// Takes the answer for an image: the first one counts, of the engine or of its encoder. Without any the image counts as
/// skipped.
#[derive(Clone, Debug)]
pub(crate) struct Reply(Arc<Mutex<Option<oneshot::Sender<Rendered>>>>);

impl Reply {
    pub(crate) fn new() -> (Self, oneshot::Receiver<Rendered>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Arc::new(Mutex::new(Some(sender)))), receiver)
    }

    pub(crate) fn answer(&self, rendered: Rendered) {
        // Nothing panics while it is held.
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(sender) = sender {
            // Nobody listens when the worker was dropped in the middle.
            let _ = sender.send(rendered);
        }
    }
}

/// Who decides about an image that waits at the engines: an engine by starting it or its waiter by giving it
/// up, whoever comes first.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    decided: Arc<OnceLock<Decision>>,
    drawn: Arc<AtomicBool>,
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
        Self { decided: Arc::default(), drawn: Arc::default(), skip }
    }

    /// Whether the image is an engine's to render. One that a broken device has started goes on.
    pub(crate) fn start(&self) -> bool {
        self.is_started() || (!self.skip.is_cancelled() && self.decide(Decision::Started))
    }

    /// Waits until the image is not to be started any more; `false` when it was started before.
    pub(crate) async fn given_up(&self) -> bool {
        self.skip.cancelled().await;
        self.decide(Decision::GivenUp)
    }

    /// Cancelled when the image is not to be started any more.
    pub(super) fn skip(&self) -> &CancellationToken {
        &self.skip
    }

    /// It is not to be started any more.
    pub(crate) fn cancel(&self) {
        self.skip.cancel();
    }

    /// An engine has it.
    pub(crate) fn is_started(&self) -> bool {
        self.decided.get() == Some(&Decision::Started)
    }

    /// The engine is done with it: what is left is to encode it.
    pub(super) fn draw(&self) {
        self.drawn.store(true, Ordering::Release);
    }

    /// Whether its picture is on the way, and costs nothing more on a device.
    pub(crate) fn is_drawn(&self) -> bool {
        self.drawn.load(Ordering::Acquire)
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
    pub(crate) effort: Effort,
}

/// What an image took.
#[derive(Clone, Debug, Default)]
pub(crate) struct Effort {
    /// The device that rendered it; empty when none did.
    pub(crate) device_id: String,
    /// Time on the device: its share of what was done for several images together.
    pub(crate) render_seconds: f64,
    /// The decode part of it.
    pub(crate) decode_seconds: f64,
    /// When it was in each stage so far.
    pub(crate) stages: Vec<(&'static str, Period)>,
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
        Self { outcome: Outcome::Failed(failure), effort: Effort::default() }
    }

    pub(crate) fn skipped() -> Self {
        Self { outcome: Outcome::Skipped, effort: Effort::default() }
    }
}

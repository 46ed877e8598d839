//! One image on its way to the engine and from there to its report.

use sanafarm_proto::v1::image_result::Outcome as Told;
use sanafarm_proto::v1::{ImageFailed, ImageResult};
use sanafarm_storage::Output;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinError;

use super::Shift;
use crate::engine::{Claim, Command, Outcome, Rendered};
use crate::leases::LeaseKey;
use crate::publish::{Published, publish};
use crate::recipe::Failure;
use crate::report::Report;
use crate::{Error, recipe};

/// What became of an image.
pub(super) enum Settled {
    /// Stored, and its result is on the way.
    Done,
    /// Its error is on the way.
    Failed,
    /// Not started, or stopped because the worker leaves.
    Skipped,
    /// The output cannot take it.
    Stuck(sanafarm_storage::Error),
}

pub(super) struct Image {
    pub(super) lease: LeaseKey,
    pub(super) index: u64,
    pub(super) device_id: String,
    pub(super) settled: Settled,
}

/// Waits for the engine's answer.
pub(super) struct Waiter {
    pub(super) rendered: oneshot::Receiver<Rendered>,
    pub(super) claim: Claim,
}

impl Waiter {
    /// An image that the engine has not started is given up at once: others may render it meanwhile.
    async fn rendered(mut self) -> Rendered {
        let answer = tokio::select! {
            biased;
            answer = &mut self.rendered => answer,
            given_up = self.claim.given_up() => {
                if given_up {
                    return Rendered::skipped();
                }
                self.rendered.await
            }
        };
        // The engine does not answer for what it has not started.
        answer.unwrap_or_else(|_| Rendered::skipped())
    }
}

impl Shift {
    /// Sends the next image to the engine.
    pub(super) fn start_image(&mut self, permit: mpsc::Permit<'_, Command>) {
        let Some(reports) = self.reports.clone() else { return };
        let Some(shard) = self.shards.iter_mut().find(|shard| !shard.waiting.is_empty()) else { return };
        let Some(leased) = shard.waiting.pop_front() else { return };
        shard.untouched = false;
        shard.in_hand += 1;
        let (reply, rendered) = oneshot::channel();
        let claim = Claim::new(shard.skip.child_token());
        shard.sent.insert(leased.index, claim.clone());
        let image = Image {
            lease: shard.key.clone(),
            index: leased.index,
            device_id: self.device_id.clone(),
            settled: Settled::Skipped,
        };
        match recipe::recipe(&shard.settings, &leased) {
            Ok(recipe) => permit.send(Command {
                lease: shard.key.clone(),
                job: shard.job.clone(),
                index: leased.index,
                model: shard.model.clone(),
                recipe,
                claim: claim.clone(),
                halt: shard.halt.clone(),
                reply,
            }),
            Err(failure) => {
                let answered = reply.send(Rendered::failed(failure));
                debug_assert!(answered.is_ok(), "the receiver is still here");
            }
        }
        let waiter = Waiter { rendered, claim };
        self.images.spawn(image.see_through(waiter, shard.output.clone(), leased.object, reports));
    }

    pub(super) fn settle_image(&mut self, image: Result<Image, JoinError>) {
        let image = match image {
            Ok(image) => image,
            // By the hard shutdown.
            Err(error) if error.is_cancelled() => return,
            Err(error) => {
                self.fail(Error::Engine(format!("publish a picture: {error}")));
                return self.abandon_shards();
            }
        };
        self.leases.ended(&image.lease, image.index);
        let mut shard = self.shards.iter_mut().find(|shard| shard.key == image.lease);
        if let Some(shard) = &mut shard {
            shard.sent.remove(&image.index);
        }
        match image.settled {
            Settled::Done => {
                self.summary.done += 1;
            }
            Settled::Failed => self.summary.failed += 1,
            Settled::Skipped | Settled::Stuck(_) => {
                if let Some(shard) = shard {
                    shard.in_hand = shard.in_hand.saturating_sub(1);
                    shard.cut_short |= image.index <= shard.last_index;
                }
            }
        }
        if let Settled::Stuck(error) = image.settled {
            // No picture can be stored there: rendering on would be in vain.
            self.stop.cancel();
            self.fail(Error::Storage(error));
        }
    }
}

impl Image {
    /// Waits for the picture, publishes it and passes its result to the reporter.
    pub(super) async fn see_through(
        mut self,
        waiter: Waiter,
        output: Output,
        object: String,
        reports: mpsc::Sender<Report>,
    ) -> Self {
        let rendered = waiter.rendered().await;
        let published = match rendered.outcome {
            Outcome::Skipped => return self,
            Outcome::Failed(failure) => Ok(Published::Failed(failure)),
            Outcome::Picture(picture) => publish(&output, &object, *picture).await,
        };
        let told = match published {
            Ok(Published::Done(done)) => {
                self.settled = Settled::Done;
                Told::Done(done)
            }
            Ok(Published::Failed(Failure { class, message })) => {
                tracing::warn!(index = self.index, ?class, message, "image failed");
                self.settled = Settled::Failed;
                Told::Failed(ImageFailed { error_class: class.into(), message })
            }
            Err(error) => {
                self.settled = Settled::Stuck(error);
                return self;
            }
        };
        let result = ImageResult {
            index: self.index,
            outcome: Some(told),
            device_id: self.device_id.clone(),
            render_seconds: rendered.render_seconds,
            decode_seconds: rendered.decode_seconds,
        };
        if reports.send(Report { lease: self.lease.clone(), result }).await.is_err() {
            // It ended with an error, which ends the worker. The picture stays and is adopted by the next attempt.
            tracing::debug!(index = self.index, "result not reported: the reporter has ended");
        }
        self
    }
}

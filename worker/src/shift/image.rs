//! One image on its way from the engine to its report.

use sanafarm_proto::v1::image_result::Outcome as Told;
use sanafarm_proto::v1::{ImageFailed, ImageResult};
use sanafarm_storage::Output;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::device;
use crate::engine::{Claim, Outcome, Rendered};
use crate::leases::LeaseKey;
use crate::publish::{Published, publish};
use crate::recipe::Failure;
use crate::report::Report;

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
    pub(super) model: String,
    pub(super) settled: Settled,
}

/// Waits for the engine's answer.
pub(super) struct Waiter {
    pub(super) rendered: oneshot::Receiver<Rendered>,
    pub(super) claim: Claim,
    /// Cancelled when the image is not to be started any more.
    pub(super) skip: CancellationToken,
}

impl Waiter {
    /// An image that the engine has not started is given up at once: others may render it meanwhile.
    async fn rendered(mut self) -> Rendered {
        let answer = tokio::select! {
            biased;
            answer = &mut self.rendered => answer,
            () = self.skip.cancelled() => {
                if self.claim.take() {
                    return Rendered::skipped();
                }
                self.rendered.await
            }
        };
        // The engine does not answer for what it has not started.
        answer.unwrap_or_else(|_| Rendered::skipped())
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
            device_id: device::CPU.into(),
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

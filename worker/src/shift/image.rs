//! One image on its way from the engine to its report.

use sanafarm_proto::v1::image_result::Outcome as Told;
use sanafarm_proto::v1::{ImageFailed, ImageResult};
use sanafarm_storage::Output;
use tokio::sync::{mpsc, oneshot};

use crate::device;
use crate::engine::{Outcome, Rendered};
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

impl Image {
    /// Waits for the picture, publishes it and passes its result to the reporter.
    pub(super) async fn see_through(
        mut self,
        rendered: oneshot::Receiver<Rendered>,
        output: Output,
        object: String,
        reports: mpsc::Sender<Report>,
    ) -> Self {
        // An engine that broke down drops what waited for it.
        let rendered = rendered.await.unwrap_or_else(|_| Rendered::skipped());
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

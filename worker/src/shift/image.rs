//! One image on its way to the engine and from there to the outbox.

use std::future::pending;
use std::sync::Arc;

use sanafarm_proto::v1::{ImageResult, LeasedImage, Settings};
use sanafarm_telemetry::image_log::ImageLog;
use tokio::sync::oneshot;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::Shift;
use crate::engine::{Claim, Command, Commands, Effort, Outcome, Picture, Rendered, Reply};
use crate::leases::LeaseKey;
use crate::outbox::Outbox;
use crate::outbox::record::{File, Record, Sample, Thumbnail};
use crate::report::Report;
use crate::told::{Origin, Which};
use crate::{Error, recipe};

/// What became of an image.
pub(super) enum Settled {
    /// It is in the outbox.
    Kept,
    /// Its error is on the way.
    Failed,
    /// Not started, or stopped because the worker leaves.
    Skipped,
    /// The outbox cannot take it.
    Lost(String),
}

pub(super) struct Image {
    pub(super) lease: LeaseKey,
    pub(super) job: String,
    pub(super) index: u64,
    /// Bytes that its file may have.
    pub(super) room: u64,
    pub(super) log: ImageLog,
    /// None of one that has no recipe.
    pub(super) origin: Option<Arc<Origin>>,
    pub(super) settled: Settled,
}

/// What the record of an image holds beside its picture.
pub(super) struct Draft {
    output: String,
    object: String,
    /// Empty for none.
    thumbnail: String,
    presigned: bool,
    sample: Option<Sample>,
}

/// Waits for the engine's answer.
pub(super) struct Waiter {
    pub(super) rendered: oneshot::Receiver<Rendered>,
    pub(super) claim: Claim,
    /// Cancelled when the engines stop what is in hand.
    pub(super) stop: CancellationToken,
}

impl Waiter {
    /// An image that the engine has not started is given up at once, and one that it has when it is to stop: others may render
    /// them meanwhile. A picture that is rendered is waited for.
    async fn rendered(self) -> Rendered {
        let Self { mut rendered, claim, stop } = self;
        let given_up = async {
            if claim.given_up().await {
                return;
            }
            stop.cancelled().await;
            if claim.is_drawn() {
                pending().await
            }
        };
        tokio::select! {
            biased;
            // The engine does not answer for what it has not started.
            answer = &mut rendered => answer.unwrap_or_else(|_| Rendered::skipped()),
            () = given_up => Rendered::skipped(),
        }
    }
}

/// Bytes that a picture may have: none is much larger than its pixels.
pub(super) fn room_for(settings: &Settings) -> u64 {
    u64::from(settings.width) * u64::from(settings.height) * 3
}

impl Shift {
    /// Bytes that the picture of the next image may have; `None` without one.
    pub(super) fn next_room(&self) -> Option<u64> {
        let shard = self.shards.iter().find(|shard| !shard.waiting.is_empty())?;
        Some(room_for(&shard.settings))
    }

    /// Sends the next image to the engines.
    pub(super) fn start_image(&mut self, commands: &Commands) {
        let Some(room) = self.next_room() else { return };
        let Some(shard) = self.shards.iter_mut().find(|shard| !shard.waiting.is_empty()) else { return };
        let Some(leased) = shard.waiting.pop_front() else { return };
        shard.untouched = false;
        shard.in_hand.insert(leased.index);
        let (reply, rendered) = Reply::new();
        let claim = Claim::new(shard.skip.child_token());
        shard.sent.insert(leased.index, claim.clone());
        let log = ImageLog::new(&shard.job, leased.index);
        let mut image = Image {
            lease: shard.key.clone(),
            job: shard.job.clone(),
            index: leased.index,
            room,
            log: log.clone(),
            origin: None,
            settled: Settled::Skipped,
        };
        let encoding = shard.encoding.clone();
        let wanted = encoding.and_then(|encoding| Ok((recipe::recipe(&shard.settings, &leased)?, encoding)));
        match wanted {
            Ok((recipe, encoding)) => {
                image.origin = Some(Arc::new(Origin::now(&shard.model, &recipe)));
                commands.send(Command {
                    lease: shard.key.clone(),
                    job: shard.job.clone(),
                    index: leased.index,
                    model: shard.model.clone(),
                    recipe,
                    encoding,
                    claim: claim.clone(),
                    halt: shard.halt.clone(),
                    log: log.clone(),
                    reply,
                })
            }
            Err(failure) => reply.answer(Rendered::failed(failure)),
        }
        let LeasedImage { object, id, extra, thumbnail, .. } = leased;
        let sample = shard.archive.clone().map(|archive| Sample { archive, id, extra });
        let (output, presigned) = (shard.output.clone(), shard.presigned);
        let draft = Draft { output, object, thumbnail, presigned, sample };
        let waiter = Waiter { rendered, claim, stop: self.stop.clone() };
        self.room_in_hand += room;
        let seen_through = image.see_through(waiter, draft, self.outbox.clone());
        self.images.spawn(seen_through.instrument(log.span().clone()));
    }

    pub(super) fn settle_image(&mut self, image: Result<Image, JoinError>) {
        let image = match image {
            Ok(image) => image,
            // It was not kept in time.
            Err(error) if error.is_cancelled() => return,
            Err(error) => return self.fail(Error::Engine(format!("keep a picture: {error}"))),
        };
        self.room_in_hand = self.room_in_hand.saturating_sub(image.room);
        self.leases.ended(&image.lease, image.index);
        for shard in self.shards.iter_mut().filter(|shard| shard.job == image.job) {
            if shard.key == image.lease {
                shard.sent.remove(&image.index);
            }
            // Also a later lease of its shard, which waits for it.
            if matches!(image.settled, Settled::Skipped | Settled::Lost(_))
                && shard.in_hand.remove(&image.index)
            {
                shard.cut_short |= image.index <= shard.last_index;
            }
        }
        if let Settled::Lost(why) = image.settled {
            // No other picture can be kept there: rendering on would be in vain.
            self.stop.cancel();
            self.fail(Error::Outbox(why));
        }
    }
}

impl Image {
    /// Waits for the picture and keeps it in the outbox, or passes its error to the reporter.
    pub(super) async fn see_through(mut self, waiter: Waiter, draft: Draft, outbox: Arc<Outbox>) -> Self {
        let rendered = waiter.rendered().await;
        let Effort { device_id, render_seconds, decode_seconds, stages } = rendered.effort;
        let which = Which { lease: &self.lease, job: &self.job, index: self.index };
        stages.into_iter().for_each(|(stage, period)| which.was_in(stage, period));
        let picture = match rendered.outcome {
            Outcome::Skipped => return self,
            Outcome::Failed(failure) => {
                let (lease, job) = (self.lease.clone(), self.job.clone());
                let mut report = Report::failed(lease, job, self.index, device_id, failure);
                report.origin = self.origin.clone();
                let log = self.log.text();
                report.result = ImageResult { render_seconds, decode_seconds, log, ..report.result };
                outbox.report(report);
                self.settled = Settled::Failed;
                return self;
            }
            Outcome::Picture(picture) => picture,
        };
        let Draft { output, object, thumbnail, presigned, sample } = draft;
        let Picture { bytes, sha256, provenance, encoding, quality, thumbnail: small } = *picture;
        let small = small.filter(|_| !thumbnail.is_empty());
        let record = Record {
            lease: self.lease.clone(),
            job: self.job.clone(),
            index: self.index,
            output,
            object,
            presigned,
            picture: File { bytes: bytes.len() as u64, sha256 },
            recipe: provenance.to_json(),
            encoding,
            quality,
            thumbnail: small.as_ref().map(|small| Thumbnail { object: thumbnail, file: File::of(small) }),
            device: device_id,
            render_seconds,
            decode_seconds,
            log: self.log.text(),
            sample,
            stored: None,
        };
        let (log, origin) = (self.log.clone(), self.origin.clone());
        self.settled = match outbox.add(record, bytes, small, log, origin).await {
            Ok(()) => Settled::Kept,
            Err(why) => Settled::Lost(why),
        };
        self
    }
}

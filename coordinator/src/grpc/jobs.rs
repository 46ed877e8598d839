//! `JobService`.

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, TryStreamExt, stream};
use sanafarm_proto::v1;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::status::{status, stopping};
use super::{MessageStream, convert, explain, objects, own, submit, watch};
use crate::auth::{Principal, Revocation};
use crate::domain::form::ImageFormat;
use crate::domain::id::JobId;
use crate::domain::speed::{self, Speed};
use crate::domain::state::{ImageState, JobState};
use crate::domain::submission::MAX_GROUPS;
use crate::farm::Farm;
use crate::store::Error;
use crate::store::records::Presence;

/// Jobs of a list when the caller does not say.
const LIST_DEFAULT: u32 = 50;
const LIST_MOST: u32 = 1000;
/// Images read from the store at a time.
const IMAGES_PAGE: u32 = 500;

/// Jobs for clients.
#[derive(Clone, Debug)]
pub(super) struct Jobs {
    pub farm: Arc<Farm>,
    /// Ends calls that wait.
    pub stop: CancellationToken,
}

#[tonic::async_trait]
impl v1::job_service_server::JobService for Jobs {
    async fn submit_job(
        &self,
        request: Request<Streaming<v1::SubmitJobRequest>>,
    ) -> Result<Response<v1::SubmitJobResponse>, Status> {
        let who = Principal::of(&request)?;
        let (farm, stop) = (Arc::clone(&self.farm), self.stop.clone());
        let revoked = Revocation::of(&request);
        let messages = request.into_inner().take_until(revoked).boxed();
        // A task of its own: a client that goes away ends its stream, and what came in is then given up in order.
        let task = self.farm.tasks.spawn(async move { submit::submit(&farm, &stop, &who, messages).await });
        let (job, existed) = match task.await {
            Ok(submitted) => submitted?,
            Err(error) => return Err(Status::internal(format!("submission ended early: {error}"))),
        };
        if !existed {
            self.farm.live.shards_ready();
            self.farm.live.job_changed();
        }
        Ok(Response::new(v1::SubmitJobResponse { job: Some(convert::job_message(job)), existed }))
    }

    async fn get_job(&self, request: Request<v1::GetJobRequest>) -> Result<Response<v1::Job>, Status> {
        let who = Principal::of(&request)?;
        let job = own::job(&self.farm, &who, &request.into_inner().job_id).await?;
        Ok(Response::new(convert::job_message(job)))
    }

    async fn list_jobs(
        &self,
        request: Request<v1::ListJobsRequest>,
    ) -> Result<Response<v1::ListJobsResponse>, Status> {
        let who = Principal::of(&request)?;
        let request = request.into_inner();
        let states = convert::job_states(&request.states)?;
        let limit = match request.limit {
            0 => LIST_DEFAULT,
            limit => limit.min(LIST_MOST),
        };
        let jobs = self.farm.store.jobs(who.only_owner(), &states, limit).await.map_err(status)?;
        let jobs = jobs.into_iter().map(convert::job_message).collect();
        Ok(Response::new(v1::ListJobsResponse { jobs }))
    }

    type WatchJobStream = MessageStream<v1::Job>;

    async fn watch_job(
        &self,
        request: Request<v1::WatchJobRequest>,
    ) -> Result<Response<Self::WatchJobStream>, Status> {
        let who = Principal::of(&request)?;
        let jobs = watch::watch(&self.farm, &self.stop, &who, &request.into_inner().job_id).await?;
        Ok(Response::new(jobs))
    }

    type ListImagesStream = MessageStream<v1::Image>;

    async fn list_images(
        &self,
        request: Request<v1::ListImagesRequest>,
    ) -> Result<Response<Self::ListImagesStream>, Status> {
        let who = Principal::of(&request)?;
        let request = request.into_inner();
        let job = own::job(&self.farm, &who, &request.job_id).await?;
        let states = convert::image_states(&request.states)?;
        let left = if request.limit == 0 { u64::MAX } else { request.limit };
        let (from, with_recipe) = (request.from, request.with_recipe);
        let pages = Pages { farm: Arc::clone(&self.farm), job: job.id, states, from, left, with_recipe };
        let images = stream::try_unfold(pages, Pages::step)
            .map_ok(|page| stream::iter(page.into_iter().map(Ok)))
            .try_flatten();
        Ok(Response::new(images.boxed()))
    }

    type ListObjectsStream = MessageStream<v1::ListObjectsResponse>;

    async fn list_objects(
        &self,
        request: Request<v1::ListObjectsRequest>,
    ) -> Result<Response<Self::ListObjectsStream>, Status> {
        let who = Principal::of(&request)?;
        let listed = objects::list(&self.farm, &who, &request.into_inner().output).await?;
        Ok(Response::new(cut(listed, &self.stop)))
    }

    type ExportJobStream = MessageStream<v1::ExportJobResponse>;

    async fn export_job(
        &self,
        request: Request<v1::ExportJobRequest>,
    ) -> Result<Response<Self::ExportJobStream>, Status> {
        let who = Principal::of(&request)?;
        let pieces = objects::export_job(&self.farm, &who, request.into_inner()).await?;
        Ok(Response::new(cut(pieces, &self.stop)))
    }

    async fn explain_job(
        &self,
        request: Request<v1::ExplainJobRequest>,
    ) -> Result<Response<v1::ExplainJobResponse>, Status> {
        let who = Principal::of(&request)?;
        let job = own::job(&self.farm, &who, &request.into_inner().job_id).await?;
        let explained = explain::explain(&self.farm, &who, job).await.map_err(status)?;
        Ok(Response::new(explained))
    }

    async fn list_workers(
        &self,
        request: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersResponse>, Status> {
        let who = Principal::of(&request)?;
        let mut sessions = self.farm.store.sessions().await.map_err(status)?;
        own::leases(&self.farm, &who, &mut sessions).await?;
        let (now, late) = (self.farm.store.clock(), self.farm.options.lease_duration / 2);
        let worker = |presence: Presence| {
            let silent = Duration::try_from(now.duration_since(presence.seen_at)).unwrap_or_default();
            // It renews three times in the time of a lease.
            let silent_for = (silent > late).then(|| prost_types::Duration::try_from(silent).ok()).flatten();
            v1::PresentWorker { silent_for, ..convert::presence_message(presence) }
        };
        Ok(Response::new(v1::ListWorkersResponse { workers: sessions.into_iter().map(worker).collect() }))
    }

    async fn change_job(
        &self,
        request: Request<v1::ChangeJobRequest>,
    ) -> Result<Response<v1::ChangeJobResponse>, Status> {
        let who = Principal::of(&request)?;
        let request = request.into_inner();
        let change = convert::change(request.change)?;
        let by = who.by(convert::by(request.by));
        let job = own::job(&self.farm, &who, &request.job_id).await?;
        let changed = self
            .farm
            .store
            .change_job(&job.id, &change, &by, self.farm.store.clock())
            .await
            .map_err(status)?;
        tracing::info!(job = %job.id, change = change.name(), retried = changed.retried, state = %changed.job.state, actor = by.actor, reason = by.reason, "job changed");
        if changed.job.state == JobState::Cancelled {
            self.farm.live.job_ended(job.id.as_str());
            self.farm.live.job_settled();
        }
        self.farm.live.job_changed();
        self.farm.live.shards_ready();
        Ok(Response::new(v1::ChangeJobResponse {
            job: Some(convert::job_message(changed.job)),
            retried: changed.retried,
        }))
    }

    async fn drain_worker(
        &self,
        request: Request<v1::DrainWorkerRequest>,
    ) -> Result<Response<v1::DrainWorkerResponse>, Status> {
        let who = Principal::of(&request)?;
        let request = request.into_inner();
        let (drain, by) = (convert::drain(request.drain()), who.by(convert::by(request.by)));
        let store = &self.farm.store;
        let found = store.worker(&request.worker).await.map_err(status)?;
        let unknown = || Error::NotFound { what: "worker or session", id: request.worker.clone() };
        let found = found.ok_or_else(|| status(unknown()))?;
        let asked = store.drain(&found, drain, &by, store.clock()).await.map_err(status)?;
        if asked.is_empty() {
            let what = if found.session.is_some() { "session" } else { "worker" };
            let text = format!("{what} {} is not connected", request.worker);
            return Err(Status::failed_precondition(text));
        }
        for session in &asked {
            tracing::info!(%session, worker = found.worker, %drain, actor = by.actor, reason = by.reason, "worker drained");
            self.farm.live.drained(session.as_str(), drain);
        }
        let mut present = store.sessions().await.map_err(status)?;
        present.retain(|present| asked.contains(&present.id));
        let workers = present.into_iter().map(convert::presence_message).collect();
        Ok(Response::new(v1::DrainWorkerResponse { workers }))
    }

    async fn change_owner(
        &self,
        request: Request<v1::ChangeOwnerRequest>,
    ) -> Result<Response<v1::ChangeOwnerResponse>, Status> {
        let who = Principal::of(&request)?;
        let request = request.into_inner();
        let by = who.by(convert::by(request.by));
        let store = &self.farm.store;
        if let Some(weight) = request.weight {
            store.weigh_owner(&request.owner, weight, &by, store.clock()).await.map_err(status)?;
        }
        if let Some(held) = request.held {
            store.hold_owner(&request.owner, held, &by, store.clock()).await.map_err(status)?;
        }
        tracing::info!(
            owner = request.owner,
            weight = request.weight,
            held = request.held,
            actor = by.actor,
            "owner changed"
        );
        self.farm.live.shards_ready();
        Ok(Response::new(v1::ChangeOwnerResponse {}))
    }

    async fn estimate(
        &self,
        request: Request<v1::EstimateRequest>,
    ) -> Result<Response<v1::EstimateResponse>, Status> {
        let request = request.into_inner();
        if request.settings.len() > MAX_GROUPS {
            return Err(Status::invalid_argument(format!(
                "{} different settings; a job has {MAX_GROUPS} at most",
                request.settings.len()
            )));
        }
        let speeds = self.farm.store.speeds(&request.model).await.map_err(status)?;
        let format = convert::form(request.form)?.format;
        let measured = request.settings.iter().map(|wanted| measured(&speeds, wanted, format)).collect();
        let target_shard_seconds = self.farm.options.target_shard_duration.as_secs_f64();
        let workers = self.farm.store.sessions().await.map_err(status)?.len() as u64;
        Ok(Response::new(v1::EstimateResponse { measured, target_shard_seconds, workers }))
    }
}

/// An answer that ends with an error when the coordinator stops: cut short it must not look whole.
fn cut<T: Send + 'static>(
    answers: impl Stream<Item = Result<T, Status>> + Send + 'static,
    stop: &CancellationToken,
) -> MessageStream<T> {
    let begun = Some((answers.boxed(), stop.clone()));
    let whole = stream::unfold(begun, |state| async move {
        let (mut answers, stop) = state?;
        tokio::select! {
            () = stop.cancelled() => Some((Err(stopping()), None)),
            answer = answers.next() => answer.map(|answer| (answer, Some((answers, stop)))),
        }
    });
    whole.boxed()
}

/// What is known of images like the wanted ones, or of the nearest ones.
fn measured(speeds: &[Speed], wanted: &v1::Settings, format: ImageFormat) -> v1::Measured {
    let pixels = u64::from(wanted.width) * u64::from(wanted.height);
    let Some(guess) = speed::guess(speeds, pixels, wanted.steps, format) else {
        return v1::Measured::default();
    };
    let (scaled_from_pixels, scaled_from_steps) = guess.scaled_from.unwrap_or_default();
    v1::Measured {
        seconds_per_image: Some(guess.seconds),
        bytes_per_image: guess.bytes,
        images: guess.images,
        scaled_from_pixels,
        scaled_from_steps,
    }
}

/// A client that lists images.
struct Pages {
    farm: Arc<Farm>,
    job: JobId,
    states: Vec<ImageState>,
    from: u64,
    left: u64,
    with_recipe: bool,
}

impl Pages {
    async fn step(mut pages: Self) -> Result<Option<(Vec<v1::Image>, Self)>, Status> {
        let limit = u32::try_from(pages.left).unwrap_or(u32::MAX).min(IMAGES_PAGE);
        if limit == 0 {
            return Ok(None);
        }
        let store = &pages.farm.store;
        let images = store.images(&pages.job, &pages.states, pages.from, limit).await.map_err(status)?;
        let Some(last) = images.last() else { return Ok(None) };
        pages.from = last.index + 1;
        pages.left -= images.len() as u64;
        let images = images.into_iter().map(|mut image| {
            let recipe = image.result.as_mut().and_then(|result| result.recipe.take());
            let recipe = recipe.filter(|_| pages.with_recipe).unwrap_or_default();
            v1::Image { recipe, ..convert::image_message(image) }
        });
        Ok(Some((images.collect(), pages)))
    }
}

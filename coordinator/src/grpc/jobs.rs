//! `JobService`.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, Stream};
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use sanafarm_proto::v1;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::status::{status, stopping};
use super::{convert, explain, submit};
use crate::domain::id::JobId;
use crate::domain::state::ImageState;
use crate::farm::Farm;
use crate::store::records::Job;

/// Shortest time between two looks of a watch at the database: any report of any job is a hint.
const WATCH_PAUSE: Duration = Duration::from_millis(100);
/// A watch looks at the database this often even without a hint: another process may have changed it.
const WATCH_LOOK: Duration = Duration::from_secs(1);
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

type MessageStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl v1::job_service_server::JobService for Jobs {
    async fn submit_job(
        &self,
        request: Request<Streaming<v1::SubmitJobRequest>>,
    ) -> Result<Response<v1::SubmitJobResponse>, Status> {
        let (farm, stop) = (Arc::clone(&self.farm), self.stop.clone());
        // A task of its own: a client that goes away ends its stream, and what came in is then given up in order.
        let task =
            self.farm.tasks.spawn(async move { submit::submit(&farm, &stop, request.into_inner()).await });
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
        let job = self.farm.store.job(&request.into_inner().job_id).await.map_err(status)?;
        Ok(Response::new(convert::job_message(job)))
    }

    async fn list_jobs(
        &self,
        request: Request<v1::ListJobsRequest>,
    ) -> Result<Response<v1::ListJobsResponse>, Status> {
        let request = request.into_inner();
        let states = convert::job_states(&request.states)?;
        let limit = match request.limit {
            0 => LIST_DEFAULT,
            limit => limit.min(LIST_MOST),
        };
        let jobs = self.farm.store.jobs(&states, limit).await.map_err(status)?;
        let jobs = jobs.into_iter().map(convert::job_message).collect();
        Ok(Response::new(v1::ListJobsResponse { jobs }))
    }

    type WatchJobStream = MessageStream<v1::Job>;

    async fn watch_job(
        &self,
        request: Request<v1::WatchJobRequest>,
    ) -> Result<Response<Self::WatchJobStream>, Status> {
        // Before the first look, so that nothing falls between the two.
        let changes = self.farm.live.watch_jobs();
        let job = self.farm.store.job(&request.into_inner().job_id).await.map_err(status)?;
        let watch = Watch {
            farm: Arc::clone(&self.farm),
            stop: self.stop.clone(),
            changes,
            sent: None,
            looked_at: Instant::now(),
            next: job,
        };
        let jobs = stream::try_unfold(Some(watch), Watch::step);
        Ok(Response::new(jobs.map_ok(convert::job_message).boxed()))
    }

    type ListImagesStream = MessageStream<v1::Image>;

    async fn list_images(
        &self,
        request: Request<v1::ListImagesRequest>,
    ) -> Result<Response<Self::ListImagesStream>, Status> {
        let request = request.into_inner();
        let job = self.farm.store.job(&request.job_id).await.map_err(status)?;
        let states = convert::image_states(&request.states)?;
        let left = if request.limit == 0 { u64::MAX } else { request.limit };
        let pages = Pages { farm: Arc::clone(&self.farm), job: job.id, states, from: 0, left };
        let images = stream::try_unfold(pages, Pages::step)
            .map_ok(|page| stream::iter(page.into_iter().map(Ok)))
            .try_flatten();
        Ok(Response::new(images.boxed()))
    }

    async fn explain_job(
        &self,
        request: Request<v1::ExplainJobRequest>,
    ) -> Result<Response<v1::ExplainJobResponse>, Status> {
        let explained = explain::explain(&self.farm, &request.into_inner().job_id).await.map_err(status)?;
        Ok(Response::new(explained))
    }

    async fn list_workers(
        &self,
        _request: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersResponse>, Status> {
        let sessions = self.farm.store.sessions().await.map_err(status)?;
        let workers = sessions.into_iter().map(convert::presence_message).collect();
        Ok(Response::new(v1::ListWorkersResponse { workers }))
    }

    async fn change_job(
        &self,
        request: Request<v1::ChangeJobRequest>,
    ) -> Result<Response<v1::ChangeJobResponse>, Status> {
        let request = request.into_inner();
        let change = convert::change(request.change)?;
        let by = convert::by(request.by);
        let job = self.farm.store.job(&request.job_id).await.map_err(status)?;
        let changed =
            self.farm.store.change_job(&job.id, &change, &by, Timestamp::now()).await.map_err(status)?;
        tracing::info!(job = %job.id, ?change, state = %changed.job.state, actor = by.actor, reason = by.reason, "job changed");
        self.farm.live.job_changed();
        self.farm.live.shards_ready();
        Ok(Response::new(v1::ChangeJobResponse {
            job: Some(convert::job_message(changed.job)),
            retried: changed.retried,
        }))
    }

    async fn change_owner(
        &self,
        request: Request<v1::ChangeOwnerRequest>,
    ) -> Result<Response<v1::ChangeOwnerResponse>, Status> {
        let request = request.into_inner();
        let by = convert::by(request.by);
        let store = &self.farm.store;
        if let Some(weight) = request.weight {
            store.weigh_owner(&request.owner, weight, &by, Timestamp::now()).await.map_err(status)?;
        }
        if let Some(held) = request.held {
            store.hold_owner(&request.owner, held, &by, Timestamp::now()).await.map_err(status)?;
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
}

/// A client that follows a job.
struct Watch {
    farm: Arc<Farm>,
    stop: CancellationToken,
    changes: watch::Receiver<()>,
    sent: Option<Job>,
    looked_at: Instant,
    next: Job,
}

impl Watch {
    /// The next message: the job as it is, then whenever it differs, until it has ended.
    async fn step(watch: Option<Self>) -> Result<Option<(Job, Option<Self>)>, Status> {
        let Some(mut watch) = watch else { return Ok(None) };
        while watch.sent.as_ref() == Some(&watch.next) {
            tokio::select! {
                () = watch.stop.cancelled() => return Err(stopping()),
                () = sleep(WATCH_LOOK) => {}
                // The sender lives as long as the farm.
                _ = watch.changes.changed() => sleep_until(watch.looked_at + WATCH_PAUSE).await,
            }
            watch.changes.mark_unchanged();
            watch.looked_at = Instant::now();
            watch.next = watch.farm.store.job(watch.next.id.as_str()).await.map_err(status)?;
        }
        let job = watch.next.clone();
        if job.state.has_ended() {
            return Ok(Some((job, None)));
        }
        watch.sent = Some(job.clone());
        Ok(Some((job, Some(watch))))
    }
}

/// A client that lists images.
struct Pages {
    farm: Arc<Farm>,
    job: JobId,
    states: Vec<ImageState>,
    from: u64,
    left: u64,
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
        Ok(Some((images.into_iter().map(convert::image_message).collect(), pages)))
    }
}

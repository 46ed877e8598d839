//! `WorkerService`.

use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, Stream, StreamExt, stream};
use sanafarm_proto::v1;
use sanafarm_telemetry::coordinator::LEASES_RELEASED;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::BroadcastStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::MessageStream;
use super::status::{status, stopping};
use super::told::Told;
use super::{convert, sessions, sign};
use crate::auth::{Principal, Revocation};
use crate::domain::id::JobId;
use crate::farm::Farm;
use crate::live::Doing;
use crate::store::Error;
use crate::store::records::{Renewal, Renewed, Report};

/// Longest wait for a shard in one call.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Shards for workers.
#[derive(Clone, Debug)]
pub(super) struct Workers {
    pub farm: Arc<Farm>,
    /// Ends calls that wait.
    pub stop: CancellationToken,
    /// They live in this process.
    pub embedded: bool,
}

fn duration_message(duration: Duration) -> prost_types::Duration {
    // Durations of the options are seconds or minutes, far below what the message takes.
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default(),
    }
}

/// Keeps what one session says about itself until it goes away, and tells which session it is.
async fn take_progress(
    farm: &Farm,
    who: &Principal,
    mut messages: impl Stream<Item = Result<v1::Progress, Status>> + Unpin,
    heard: &watch::Sender<String>,
) -> Result<(), Status> {
    let mut session = String::new();
    let taken = loop {
        let Some(Ok(progress)) = messages.next().await else { break Ok(()) };
        if progress.session_id != session {
            let said = sessions::own(farm, who, progress.session_id).await;
            match said {
                Ok(said) => {
                    farm.live.doing(&session, None);
                    session = said.into();
                }
                Err(refused) => break Err(refused),
            }
            heard.send_replace(session.clone());
        }
        let doing = (!progress.job_id.is_empty()).then_some(Doing {
            worker: who.worker.clone().unwrap_or(progress.worker),
            job: progress.job_id,
            index: progress.index,
            stage: progress.stage,
            step: progress.step,
            steps: progress.steps,
        });
        farm.live.doing(&session, doing);
    };
    farm.live.doing(&session, None);
    taken
}

#[tonic::async_trait]
impl v1::worker_service_server::WorkerService for Workers {
    async fn open_session(
        &self,
        request: Request<v1::OpenSessionRequest>,
    ) -> Result<Response<v1::OpenSessionResponse>, Status> {
        let who = Principal::of(&request)?;
        let session = convert::session(request.into_inner(), self.embedded)?;
        who.must_be_worker(&session.worker)?;
        let id = self.farm.store.open_session(&session, self.farm.store.clock()).await.map_err(status)?;
        tracing::info!(session = %id, worker = session.worker, version = session.version, "session opened");
        let lease_duration = self.farm.options.lease_duration;
        Ok(Response::new(v1::OpenSessionResponse {
            session_id: id.into(),
            lease_duration: Some(duration_message(lease_duration)),
            renew_interval: Some(duration_message(lease_duration / 3)),
        }))
    }

    async fn lease_shard(
        &self,
        request: Request<v1::LeaseShardRequest>,
    ) -> Result<Response<v1::LeaseShardResponse>, Status> {
        let who = Principal::of(&request)?;
        let request = request.into_inner();
        let session = sessions::own(&self.farm, &who, request.session_id).await?;
        let job = (!request.job_id.is_empty()).then(|| JobId::from(request.job_id));
        let wait = request.wait.and_then(|wait| Duration::try_from(wait).ok()).unwrap_or_default();
        let until = Instant::now() + wait.min(LONGEST_WAIT);
        let lease = tokio::select! {
            () = self.stop.cancelled() => return Err(stopping()),
            lease = self.farm.dispatcher.shard(session, job, until) => lease.map_err(status)?,
        };
        let Some(lease) = lease else { return Ok(Response::new(v1::LeaseShardResponse { lease: None })) };
        tracing::debug!(shard = %lease.lease.shard, attempt = lease.lease.attempt, "shard leased");
        if lease.started_job {
            self.farm.live.job_changed();
        }
        let presigned = self.farm.options.presign && sign::has_keys(&lease.output);
        let lease = v1::Lease { presigned, ..convert::lease_message(lease) };
        Ok(Response::new(v1::LeaseShardResponse { lease: Some(lease) }))
    }

    async fn renew_leases(
        &self,
        request: Request<v1::RenewLeasesRequest>,
    ) -> Result<Response<v1::RenewLeasesResponse>, Status> {
        let who = Principal::of(&request)?;
        let request = request.into_inner();
        let session = sessions::own(&self.farm, &who, request.session_id).await?;
        let held = request.held.into_iter().map(convert::held_lease).collect::<Result<Vec<_>, Status>>()?;
        let stats = request.stats.map(convert::stats);
        let leaving = (!request.leaving.is_empty()).then(|| convert::bounded(request.leaving));
        let renewal = Renewal { session, held, stats, leaving };
        let Renewed { kept, drain } = self.farm.renewals.call(renewal).await.map_err(status)?;
        let last_indices = kept.iter().map(|kept| kept.last_index).collect();
        let held = kept.into_iter().map(|kept| convert::lease_ref_message(kept.lease)).collect();
        let drain = convert::drain_message(drain).into();
        Ok(Response::new(v1::RenewLeasesResponse { held, last_indices, drain }))
    }

    async fn report_results(
        &self,
        request: Request<v1::ReportResultsRequest>,
    ) -> Result<Response<v1::ReportResultsResponse>, Status> {
        let who = Principal::of(&request)?;
        let request = request.into_inner();
        let session = sessions::own(&self.farm, &who, request.session_id).await?;
        let lease = convert::lease_ref(request.lease)?;
        let results = request.results.into_iter().map(convert::report).collect::<Result<Vec<_>, Status>>()?;
        let archive = request.archive.map(convert::archive);
        let packed = archive.is_some();
        let told = Told::new(request.job_id, lease.clone(), &results);
        let report = Report { session, lease, results, archive };
        let reported = self.farm.reports.call(report).await;
        told.tell(&reported);
        let reported = reported.map_err(|error| match error {
            // Not found would be the session: a worker opens another one then.
            Error::NotFound { what: "shard", .. } => Status::out_of_range(error.to_string()),
            error => status(error),
        })?;
        if reported.accepted > 0 {
            self.farm.live.job_changed();
            if packed {
                self.farm.live.archive_committed();
            }
        }
        if reported.job_complete {
            self.farm.live.job_complete();
        }
        Ok(Response::new(v1::ReportResultsResponse {
            accepted: reported.accepted,
            known: reported.known,
            held: reported.held,
            taken: reported.taken,
        }))
    }

    async fn sign_objects(
        &self,
        request: Request<v1::SignObjectsRequest>,
    ) -> Result<Response<v1::SignObjectsResponse>, Status> {
        Ok(Response::new(sign::sign(&self.farm, &Principal::of(&request)?, request.into_inner()).await?))
    }

    type FollowStream = MessageStream<v1::Notice>;

    async fn follow(
        &self,
        request: Request<Streaming<v1::Progress>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let notices = self.farm.live.notices();
        let (farm, stop) = (Arc::clone(&self.farm), self.stop.clone());
        let who = Principal::of(&request)?;
        let revoked = Revocation::of(&request);
        let messages = request.into_inner().take_until(revoked).boxed();
        let (heard, session) = watch::channel(String::new());
        let (refuse, refusal) = oneshot::channel();
        self.farm.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                taken = take_progress(&farm, &who, messages, &heard) => if let Err(refused) = taken {
                    // Whoever is gone hears nothing.
                    let _ = refuse.send(refused);
                }
            }
        });
        let refusal = refusal.into_stream().filter_map(|refused| std::future::ready(refused.ok().map(Err)));
        // Who is too slow to hear of something learns of it at the next renewal.
        let notices = BroadcastStream::new(notices).filter_map(move |notice| {
            let notice = notice.ok().and_then(|notice| convert::notice_for(&session.borrow(), notice));
            std::future::ready(notice.map(Ok))
        });
        let answer = stream::select(refusal, notices).take_until(self.stop.clone().cancelled_owned());
        Ok(Response::new(answer.boxed()))
    }

    async fn release_lease(
        &self,
        request: Request<v1::ReleaseLeaseRequest>,
    ) -> Result<Response<v1::ReleaseLeaseResponse>, Status> {
        let who = Principal::of(&request)?;
        let request = request.into_inner();
        let release = convert::release(request.reason(), request.message);
        let session = sessions::own(&self.farm, &who, request.session_id).await?;
        let lease = convert::lease_ref(request.lease)?;
        self.farm
            .store
            .release_lease(&session, &lease, &release, self.farm.store.clock())
            .await
            .map_err(status)?;
        tracing::debug!(shard = %lease.shard, attempt = lease.attempt, reason = release.reason.word(), "lease released");
        metrics::counter!(LEASES_RELEASED, "reason" => release.reason.word()).increment(1);
        self.farm.live.shards_ready();
        Ok(Response::new(v1::ReleaseLeaseResponse {}))
    }

    async fn close_session(
        &self,
        request: Request<v1::CloseSessionRequest>,
    ) -> Result<Response<v1::CloseSessionResponse>, Status> {
        let who = Principal::of(&request)?;
        let request = request.into_inner();
        let session = sessions::own(&self.farm, &who, request.session_id).await?;
        self.farm
            .store
            .close_session(&session, &request.reason, self.farm.store.clock())
            .await
            .map_err(status)?;
        tracing::info!(%session, reason = request.reason, "session closed");
        self.farm.live.shards_ready();
        Ok(Response::new(v1::CloseSessionResponse {}))
    }
}

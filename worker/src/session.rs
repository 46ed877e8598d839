//! The session with the coordinator: every call, its retries, and a new session when the old one is unknown.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sanafarm_net::Channel;
use sanafarm_proto::v1::worker_service_client::WorkerServiceClient;
use sanafarm_proto::v1::{
    Archive, CloseSessionRequest, HeldLease, ImageResult, Lease, LeaseShardRequest, Notice,
    OpenSessionRequest, OpenSessionResponse, Progress, ReleaseLeaseRequest, ReleaseLeaseResponse,
    ReleaseReason, RenewLeasesRequest, RenewLeasesResponse, ReportResultsRequest, ReportResultsResponse,
    SignObjectsRequest, SignedObject, WorkerStats,
};
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Response, Status, Streaming};

use crate::Error;
use crate::leases::LeaseKey;
use crate::retry::{Leaving, Tries, Verdict, verdict};
use crate::urls::Urls;

/// How long any other call may take.
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// Largest answer: a shard of 256 images with the longest prompts.
const LEASE_BYTES: usize = 64 << 20;
/// Used when the coordinator does not say how often to renew.
const RENEW_INTERVAL: Duration = Duration::from_secs(20);

type Client = WorkerServiceClient<Channel>;

/// Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    client: Client,
    registration: OpenSessionRequest,
    end: End,
    current: Mutex<Current>,
    /// Held by the one caller that opens a new session; the others wait and use it.
    reopening: tokio::sync::Mutex<()>,
    urls: Urls,
}

/// When to wait no more for a coordinator that is away.
#[derive(Clone, Debug)]
pub(crate) struct End {
    /// The worker leaves, for whatever reason.
    pub(crate) leaving: CancellationToken,
    /// The hard shutdown.
    pub(crate) now: CancellationToken,
    /// How long a call may still take after that.
    pub(crate) patience: Duration,
}

/// Why a call has no answer: the final one of its errors.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct CallError {
    text: String,
    code: Code,
    /// The worker leaves.
    leaving: bool,
}

impl CallError {
    /// The coordinator is away, and the worker leaves and waits no longer.
    pub(crate) fn is_away(&self) -> bool {
        self.leaving && matches!(verdict(self.code), Verdict::Wait | Verdict::Few)
    }

    /// The coordinator answered, and refuses what this one call asks.
    pub(crate) fn is_about_request(&self) -> bool {
        match self.code {
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::OutOfRange => true,
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::PermissionDenied
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
            | Code::Unauthenticated => false,
        }
    }

    /// It refuses for good, and not because the worker leaves.
    pub(crate) fn is_final(&self) -> bool {
        verdict(self.code) == Verdict::GiveUp
    }

    /// The coordinator cannot do this as things stand, such as sign for an output that it has no keys for.
    pub(crate) fn is_of_setting(&self) -> bool {
        self.code == Code::FailedPrecondition
    }

    /// The coordinator answered that nobody gave this lease to this worker. Of a token that has no rights, or a coordinator
    /// that signs nothing at the moment, this is not said.
    pub(crate) fn is_of_no_lease(&self) -> bool {
        self.code == Code::OutOfRange
    }
}

impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        Self::Coordinator(error.text)
    }
}

#[derive(Clone, Debug)]
struct Current {
    id: String,
    renew_interval: Duration,
}

impl From<OpenSessionResponse> for Current {
    fn from(opened: OpenSessionResponse) -> Self {
        let told = opened.renew_interval.and_then(|interval| Duration::try_from(interval).ok());
        let renew_interval = told.filter(|interval| !interval.is_zero()).unwrap_or(RENEW_INTERVAL);
        Self { id: opened.session_id, renew_interval }
    }
}

impl Session {
    /// Opens a session, waiting for a coordinator that is away. `None` when told to leave meanwhile.
    pub(crate) async fn open(
        channel: Channel,
        registration: OpenSessionRequest,
        end: End,
    ) -> Result<Option<Self>, Error> {
        let client = Client::new(channel).max_decoding_message_size(LEASE_BYTES);
        let opened = tokio::select! {
            opened = open(&client, &registration, &end) => opened?,
            () = end.leaving.cancelled() => return Ok(None),
            () = end.now.cancelled() => return Ok(None),
        };
        let current = Mutex::new(opened.into());
        let reopening = tokio::sync::Mutex::new(());
        let urls = Urls::default();
        Ok(Some(Self { shared: Arc::new(Shared { client, registration, end, current, reopening, urls }) }))
    }

    /// What was signed for this worker.
    pub(crate) fn urls(&self) -> &Urls {
        &self.shared.urls
    }

    pub(crate) fn renew_interval(&self) -> Duration {
        self.current().renew_interval
    }

    /// Of the connection life that is now.
    pub(crate) fn id(&self) -> String {
        self.current().id
    }

    /// Lasting name of this worker.
    pub(crate) fn worker(&self) -> &str {
        &self.shared.registration.worker
    }

    /// One try: both sides talk until one of them ends.
    pub(crate) async fn follow(
        &self,
        progress: ReceiverStream<Progress>,
    ) -> Result<Streaming<Notice>, Status> {
        Ok(self.shared.client.clone().follow(progress).await?.into_inner())
    }

    /// Waits so long for a shard of this job, or of any when it has no name.
    pub(crate) async fn lease(&self, job: &str, wait: Duration) -> Result<Option<Lease>, CallError> {
        let told =
            prost_types::Duration { seconds: wait.as_secs() as i64, nanos: wait.subsec_nanos() as i32 };
        let answer = self
            .call("lease a shard", wait + CALL_LIMIT, |mut client, session_id| {
                let request = LeaseShardRequest { session_id, wait: Some(told), job_id: job.to_owned() };
                async move { client.lease_shard(request).await }
            })
            .await?;
        answer.lease.iter().for_each(|lease| self.urls().expect_all(lease));
        Ok(answer.lease)
    }

    pub(crate) async fn renew(
        &self,
        held: Vec<HeldLease>,
        stats: WorkerStats,
        leaving: String,
    ) -> Result<RenewLeasesResponse, CallError> {
        self.call("renew leases", CALL_LIMIT, |mut client, session_id| {
            let request = RenewLeasesRequest {
                session_id,
                held: held.clone(),
                stats: Some(stats.clone()),
                leaving: leaving.clone(),
            };
            async move { client.renew_leases(request).await }
        })
        .await
    }

    /// Reports results; with an archive, those of all pictures in it.
    pub(crate) async fn report(
        &self,
        lease: &LeaseKey,
        job: &str,
        results: Vec<ImageResult>,
        archive: Option<Archive>,
    ) -> Result<ReportResultsResponse, CallError> {
        self.call("report results", CALL_LIMIT, |mut client, session_id| {
            let lease = Some(lease.clone().into());
            let request = ReportResultsRequest {
                session_id,
                lease,
                results: results.clone(),
                archive: archive.clone(),
                job_id: job.to_owned(),
            };
            async move { client.report_results(request).await }
        })
        .await
    }

    /// URLs for objects of a lease, also of one that is not held any more; in the order of the names.
    pub(crate) async fn sign(
        &self,
        lease: &LeaseKey,
        objects: Vec<String>,
    ) -> Result<Vec<SignedObject>, CallError> {
        let signed = self.call("sign objects", CALL_LIMIT, |mut client, session_id| {
            let lease = Some(lease.clone().into());
            let request = SignObjectsRequest { session_id, lease, objects: objects.clone() };
            async move { client.sign_objects(request).await }
        });
        Ok(signed.await?.objects)
    }

    pub(crate) async fn release(
        &self,
        lease: &LeaseKey,
        reason: ReleaseReason,
        message: String,
    ) -> Result<(), CallError> {
        self.call("release a lease", CALL_LIMIT, |mut client, session_id| {
            let request = ReleaseLeaseRequest {
                session_id,
                lease: Some(lease.clone().into()),
                reason: reason.into(),
                message: message.clone(),
            };
            async move {
                match client.release_lease(request).await {
                    // A lease that it does not know is nothing to hand back.
                    Err(status) if verdict(status.code()) == Verdict::Reopen => {
                        Ok(Response::new(ReleaseLeaseResponse {}))
                    }
                    answer => answer,
                }
            }
        })
        .await
        .map(drop)
    }

    /// One try: a session that is not closed ends by itself.
    pub(crate) async fn close(&self, reason: &str) {
        let request = CloseSessionRequest { session_id: self.current().id, reason: reason.into() };
        let mut client = self.shared.client.clone();
        match timeout(self.shared.end.patience, client.close_session(request)).await {
            Ok(Ok(_)) => tracing::debug!("closed the session"),
            Ok(Err(status)) => tracing::warn!(%status, "session not closed: it will expire"),
            Err(_) => tracing::warn!("session not closed in time: it will expire"),
        }
    }

    /// Calls until it is answered, by the code of each failure; the error is final.
    async fn call<T, F>(
        &self,
        name: &str,
        limit: Duration,
        send: impl Fn(Client, String) -> F,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut tries = Tries::new(name);
        let (mut reopened, mut shown_again) = (false, false);
        loop {
            let session = self.current().id;
            let sent = send(self.shared.client.clone(), session.clone());
            let status = match once(sent, limit, &self.shared.end).await {
                Ok(answer) => return Ok(answer),
                Err(status) => status,
            };
            match verdict(status.code()) {
                // The token ended while the call was on its way, and has a successor in its file.
                Verdict::GiveUp if status.code() == Code::Unauthenticated && !shown_again => {
                    tracing::warn!(call = name, %status, "showing the token again");
                    shown_again = true;
                }
                Verdict::Reopen if !reopened => {
                    tracing::warn!(call = name, %status, "coordinator does not know this session");
                    self.reopen(&session).await?;
                    reopened = true;
                }
                Verdict::Wait | Verdict::Few | Verdict::Reopen | Verdict::GiveUp => {
                    failed(&mut tries, status, &self.shared.end).await?;
                    // It answered anew: it may have forgotten the session again.
                    reopened = false;
                }
            }
        }
    }

    /// Opens a new session unless another call has done so since `unknown` was the current one.
    async fn reopen(&self, unknown: &str) -> Result<(), CallError> {
        let _one_at_a_time = self.shared.reopening.lock().await;
        if self.current().id != unknown {
            return Ok(());
        }
        let opened = open(&self.shared.client, &self.shared.registration, &self.shared.end).await?;
        *self.lock() = opened.into();
        Ok(())
    }

    fn current(&self) -> Current {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        // The value is replaced in one piece.
        self.shared.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn open(
    client: &Client,
    registration: &OpenSessionRequest,
    end: &End,
) -> Result<OpenSessionResponse, CallError> {
    let mut tries = Tries::new("open a session");
    loop {
        let mut client = client.clone();
        match once(client.open_session(registration.clone()), CALL_LIMIT, end).await {
            Ok(opened) => {
                tracing::info!(session = %opened.session_id, "opened a session");
                return Ok(opened);
            }
            Err(status) => failed(&mut tries, status, end).await?,
        }
    }
}

/// One try, which ends at its limit, or soon after the hard shutdown.
async fn once<T>(
    sent: impl Future<Output = Result<Response<T>, Status>>,
    limit: Duration,
    end: &End,
) -> Result<T, Status> {
    let cut = async {
        end.now.cancelled().await;
        sleep(end.patience).await;
    };
    tokio::select! {
        answer = timeout(limit, sent) => match answer {
            Ok(answer) => answer.map(Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded(format!("no answer in {} s", limit.as_secs()))),
        },
        () = cut => Err(Status::cancelled("the worker leaves")),
    }
}

/// Waits before the next try, or says that there is none.
async fn failed(tries: &mut Tries<'_>, status: Status, end: &End) -> Result<(), CallError> {
    let leaving = match (end.now.is_cancelled(), end.leaving.is_cancelled()) {
        (true, _) => Leaving::Now,
        (false, true) => Leaving::Soon,
        (false, false) => Leaving::No,
    };
    let refused = |text| CallError { text, code: status.code(), leaving: leaving != Leaving::No };
    let wait = tries.failed(&status, leaving, Instant::now()).map_err(refused)?;
    tokio::select! {
        () = sleep(wait) => Ok(()),
        () = end.now.cancelled() => Ok(()),
    }
}

//! A scripted coordinator for tests, over a real port: it keeps leases and results in memory and fails when told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use sanafarm_net::Channel;
use sanafarm_proto::v1::image_result::Outcome;
use sanafarm_proto::v1::worker_service_server::{WorkerService, WorkerServiceServer};
use sanafarm_proto::v1::*;
use sanafarm_storage::{Access, Output};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::transport::{Endpoint, Server};
use tonic::{Code, Request, Response, Status, Streaming};

/// How long a worker waits for a shard here, however long it would.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// How the next call of a name fails.
pub(super) enum Fault {
    /// Nothing is done.
    Refuse(Code),
    /// It is done and the answer is lost.
    LoseAnswer,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) ready: VecDeque<Lease>,
    /// By shard: the lease as granted, and its session.
    pub(super) leased: BTreeMap<String, (Lease, String)>,
    /// By index: done for ever.
    pub(super) results: BTreeMap<u64, ImageResult>,
    /// Errors reported that were not final.
    pub(super) errors: Vec<(u64, ImageFailed)>,
    pub(super) accepted: u64,
    pub(super) known: u64,
    pub(super) releases: Vec<(LeaseRef, ReleaseReason, String)>,
    pub(super) sessions: BTreeSet<String>,
    pub(super) opened: Vec<OpenSessionRequest>,
    pub(super) closed: u32,
    /// Why sessions were closed.
    pub(super) close_reasons: Vec<String>,
    pub(super) renewals: Vec<Vec<HeldLease>>,
    pub(super) faults: BTreeMap<&'static str, VecDeque<Fault>>,
    /// What workers said that they do.
    pub(super) progress: Vec<Progress>,
    /// To those who follow.
    pub(super) notices: Vec<mpsc::UnboundedSender<Result<Notice, Status>>>,
    /// A failed image counts as its result.
    pub(super) errors_are_final: bool,
    /// Committed tars, with the images in them.
    pub(super) archives: Vec<(LeaseRef, Archive, Vec<u64>)>,
    /// What was said of tars that were refused.
    pub(super) taken: Vec<Vec<u64>>,
    /// What workers told with their last renewal.
    pub(super) stats: WorkerStats,
    /// Why workers said that they leave.
    pub(super) leaving: Vec<String>,
    /// Told with every answer to a renewal.
    pub(super) drain: Drain,
    /// Has the keys that workers lack.
    pub(super) signer: Option<Output>,
    /// It knows of no lease of this attempt, and signs nothing for it.
    pub(super) unknown_attempt: Option<u32>,
    /// What it was asked to sign, call by call.
    pub(super) signed: Vec<Vec<String>>,
    /// Calls that fail until further notice.
    pub(super) away: BTreeMap<&'static str, Code>,
    /// Leases that were granted are on their way until further notice.
    pub(super) slow_leases: bool,
}

impl State {
    pub(super) fn done(&self, index: u64) -> ImageDone {
        match self.results[&index].outcome.clone().unwrap() {
            Outcome::Done(done) => done,
            Outcome::Failed(failed) => panic!("image {index} failed: {failed:?}"),
        }
    }

    pub(super) fn failed(&self, index: u64) -> ImageFailed {
        match self.results[&index].outcome.clone().unwrap() {
            Outcome::Failed(failed) => failed,
            Outcome::Done(done) => panic!("image {index} is done: {done:?}"),
        }
    }

    /// The rest of the shard, for the next attempt.
    fn again(&mut self, mut lease: Lease) {
        lease.images.retain(|image| !self.results.contains_key(&image.index));
        if let Some(key) = lease.r#ref.as_mut() {
            key.attempt += 1;
        }
        self.ready.push_back(lease);
    }
}

#[derive(Clone)]
pub(super) struct TestCoordinator {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<()>,
}

pub(super) struct Served {
    pub(super) coordinator: TestCoordinator,
    pub(super) channel: Channel,
    _server: JoinSet<()>,
}

impl TestCoordinator {
    pub(super) async fn serve(shards: Vec<Lease>) -> Served {
        let state = State { ready: shards.into(), errors_are_final: true, ..State::default() };
        let coordinator = Self { state: Arc::new(Mutex::new(state)), changed: watch::Sender::new(()) };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = JoinSet::new();
        let service = WorkerServiceServer::new(coordinator.clone());
        server.spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            Server::builder().add_service(service).serve_with_incoming(incoming).await.unwrap();
        });
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy().into();
        Served { coordinator, channel, _server: server }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Changes the state from outside and wakes who waits.
    pub(super) fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.send_replace(());
    }

    pub(super) async fn until(&self, what: &str, reached: impl Fn(&State) -> bool) {
        let mut changes = self.changed.subscribe();
        let waiting = async {
            while !reached(&self.state()) {
                changes.changed().await.unwrap();
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
        waited.unwrap_or_else(|_| panic!("never: {what}"));
    }

    /// Runs one call under the script.
    fn answer<T>(
        &self,
        call: &'static str,
        session: Option<&str>,
        work: impl FnOnce(&mut State) -> Result<T, Status>,
    ) -> Result<Response<T>, Status> {
        let mut state = self.state();
        let fault = state.faults.get_mut(call).and_then(VecDeque::pop_front);
        let fault = fault.or_else(|| state.away.get(call).copied().map(Fault::Refuse));
        if let Some(Fault::Refuse(code)) = fault {
            drop(state);
            self.changed.send_replace(());
            return Err(Status::new(code, "as the script says"));
        }
        if session.is_some_and(|session| !state.sessions.contains(session)) {
            return Err(Status::not_found("no such session"));
        }
        let worked = work(&mut state);
        drop(state);
        self.changed.send_replace(());
        match fault {
            Some(Fault::LoseAnswer) => Err(Status::unavailable("the answer is lost")),
            Some(Fault::Refuse(_)) | None => worked.map(Response::new),
        }
    }
}

#[tonic::async_trait]
impl WorkerService for TestCoordinator {
    async fn open_session(
        &self,
        request: Request<OpenSessionRequest>,
    ) -> Result<Response<OpenSessionResponse>, Status> {
        self.answer("open", None, |state| {
            state.opened.push(request.into_inner());
            let session_id = format!("session-{}", state.opened.len());
            state.sessions.insert(session_id.clone());
            let duration =
                |millis: i32| Some(prost_types::Duration { seconds: 0, nanos: millis * 1_000_000 });
            Ok(OpenSessionResponse {
                session_id,
                lease_duration: duration(900),
                renew_interval: duration(50),
            })
        })
    }

    async fn lease_shard(
        &self,
        request: Request<LeaseShardRequest>,
    ) -> Result<Response<LeaseShardResponse>, Status> {
        let request = request.into_inner();
        let mut changes = self.changed.subscribe();
        let wanted = |lease: &Lease| request.job_id.is_empty() || lease.job_id == request.job_id;
        let found = async {
            while !self.state().ready.iter().any(wanted)
                && self.state().sessions.contains(&request.session_id)
            {
                changes.changed().await.unwrap();
            }
        };
        let wait = request.wait.and_then(|wait| Duration::try_from(wait).ok()).unwrap_or_default();
        let _ = tokio::time::timeout(wait.min(LONGEST_WAIT), found).await;
        let answer = self.answer("lease", Some(&request.session_id), |state| {
            // What has a result by now is in no lease.
            let State { ready, results, .. } = state;
            let place = ready.iter().position(wanted);
            let lease = place.and_then(|place| ready.remove(place)).map(|mut lease| {
                lease.images.retain(|image| !results.contains_key(&image.index));
                lease
            });
            let lease = lease.filter(|lease| !lease.images.is_empty());
            if let Some(lease) = &lease {
                let shard = lease.r#ref.clone().unwrap_or_default().shard_id;
                state.leased.insert(shard, (lease.clone(), request.session_id.clone()));
            }
            Ok(LeaseShardResponse { lease })
        });
        // Another answer is no lease that could be late: it is asked for again.
        let is_granted = answer.as_ref().is_ok_and(|answer| answer.get_ref().lease.is_some());
        while is_granted && self.state().slow_leases {
            changes.changed().await.unwrap();
        }
        answer
    }

    async fn renew_leases(
        &self,
        request: Request<RenewLeasesRequest>,
    ) -> Result<Response<RenewLeasesResponse>, Status> {
        let request = request.into_inner();
        self.answer("renew", Some(&request.session_id), |state| {
            state.renewals.push(request.held.clone());
            state.stats = request.stats.unwrap_or_default();
            if !request.leaving.is_empty() {
                state.leaving.push(request.leaving.clone());
            }
            let last_index = |lease: &LeaseRef| {
                let (known, session) = state.leased.get(&lease.shard_id)?;
                let held = known.r#ref.as_ref() == Some(lease) && *session == request.session_id;
                held.then(|| known.images.last().map_or(0, |image| image.index))
            };
            let asked = request.held.iter().filter_map(|held| held.r#ref.clone());
            let (held, last_indices) =
                asked.filter_map(|lease| last_index(&lease).map(|last| (lease, last))).unzip();
            Ok(RenewLeasesResponse { held, last_indices, drain: state.drain.into() })
        })
    }

    async fn report_results(
        &self,
        request: Request<ReportResultsRequest>,
    ) -> Result<Response<ReportResultsResponse>, Status> {
        let request = request.into_inner();
        self.answer("report", Some(&request.session_id), |state| {
            let (mut accepted, mut known) = (0, 0);
            let indices: Vec<u64> = request.results.iter().map(|result| result.index).collect();
            let known_object =
                |archive: &Archive| state.archives.iter().any(|(_, known, _)| known.object == archive.object);
            if let Some(archive) = request.archive.filter(|archive| !known_object(archive)) {
                let taken: Vec<u64> =
                    indices.iter().copied().filter(|index| state.results.contains_key(index)).collect();
                if !taken.is_empty() {
                    state.taken.push(taken.clone());
                    return Ok(ReportResultsResponse { taken, held: true, ..Default::default() });
                }
                state.archives.push((request.lease.clone().unwrap(), archive, indices));
            }
            for result in request.results {
                let index = result.index;
                match result.outcome.clone().unwrap() {
                    _ if state.results.contains_key(&index) => known += 1,
                    Outcome::Failed(failed) if !state.errors_are_final => state.errors.push((index, failed)),
                    Outcome::Failed(_) | Outcome::Done(_) => {
                        state.results.insert(index, result);
                        accepted += 1;
                    }
                }
            }
            state.accepted += accepted;
            state.known += known;
            let lease = request.lease.unwrap();
            let left = state.leased.get(&lease.shard_id).is_some_and(|(known, _)| {
                let open = |image: &LeasedImage| !state.results.contains_key(&image.index);
                known.r#ref.as_ref() == Some(&lease) && known.images.iter().any(open)
            });
            if !left {
                state.leased.retain(|_, (known, _)| known.r#ref.as_ref() != Some(&lease));
            }
            Ok(ReportResultsResponse { accepted, known, held: left, taken: Vec::new() })
        })
    }

    async fn sign_objects(
        &self,
        request: Request<SignObjectsRequest>,
    ) -> Result<Response<SignObjectsResponse>, Status> {
        let request = request.into_inner();
        let signer = self.state().signer.clone();
        let signer = signer.ok_or_else(|| Status::failed_precondition("this coordinator signs no URLs"))?;
        let mut objects = Vec::new();
        let names = request.objects.clone();
        // Kept by a worker for half of it.
        let lifetime = Duration::from_secs(3600);
        let expires_at = Some(prost_types::Timestamp::from(SystemTime::now() + lifetime));
        for object in request.objects {
            let sign = async |access| signer.sign(&object, access, lifetime).await.unwrap();
            let (put_url, get_url) = (sign(Access::Put).await.into(), sign(Access::Get).await.into());
            objects.push(SignedObject { object, put_url, get_url, expires_at });
        }
        let attempt = request.lease.map(|lease| lease.attempt);
        self.answer("sign", Some(&request.session_id), |state| {
            if attempt.is_some() && attempt == state.unknown_attempt {
                return Err(Status::out_of_range("nobody gave this lease"));
            }
            state.signed.push(names);
            Ok(SignObjectsResponse { objects })
        })
    }

    async fn release_lease(
        &self,
        request: Request<ReleaseLeaseRequest>,
    ) -> Result<Response<ReleaseLeaseResponse>, Status> {
        let request = request.into_inner();
        self.answer("release", Some(&request.session_id), |state| {
            let reason = request.reason();
            let lease = request.lease.clone().unwrap();
            if let Some((known, _)) = state.leased.remove(&lease.shard_id) {
                state.again(known);
            }
            state.releases.push((lease, reason, request.message.clone()));
            Ok(ReleaseLeaseResponse {})
        })
    }

    type FollowStream = UnboundedReceiverStream<Result<Notice, Status>>;

    async fn follow(
        &self,
        request: Request<Streaming<Progress>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let (notices, stream) = mpsc::unbounded_channel();
        self.change(|state| state.notices.push(notices));
        let coordinator = self.clone();
        tokio::spawn(async move {
            let mut messages = request.into_inner();
            while let Ok(Some(progress)) = messages.message().await {
                coordinator.change(|state| state.progress.push(progress));
            }
        });
        Ok(Response::new(UnboundedReceiverStream::new(stream)))
    }

    async fn close_session(
        &self,
        request: Request<CloseSessionRequest>,
    ) -> Result<Response<CloseSessionResponse>, Status> {
        let request = request.into_inner();
        self.answer("close", Some(&request.session_id), |state| {
            state.closed += 1;
            state.close_reasons.push(request.reason.clone());
            state.sessions.remove(&request.session_id);
            let mine: Vec<String> = state
                .leased
                .iter()
                .filter(|(_, (_, session))| *session == request.session_id)
                .map(|(shard, _)| shard.clone())
                .collect();
            for shard in mine {
                let (lease, _) = state.leased.remove(&shard).unwrap();
                state.again(lease);
            }
            Ok(CloseSessionResponse {})
        })
    }
}

//! One session over a connection of its own: the calls of a worker, tried again as a worker does it.

use std::time::Duration;

use sanafarm_proto::v1::worker_service_client::WorkerServiceClient;
use sanafarm_proto::v1::{
    CloseSessionRequest, Device, HeldLease, ImageResult, Lease, LeaseRef, LeaseShardRequest,
    OpenSessionRequest, RenewLeasesRequest, RenewLeasesResponse, ReportResultsRequest, ReportResultsResponse,
};
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use super::{ENGINE, SharedTally, micros};
use crate::error::Error;
use crate::farm::connect;

/// As the worker: worker/src/session.rs.
const LEASE_WAIT: Duration = Duration::from_secs(20);
const CALL_LIMIT: Duration = Duration::from_secs(30);
const LEASE_BYTES: usize = 64 << 20;
/// As the worker: worker/src/retry.rs.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// As the worker: worker/src/shift/lease.rs.
const NO_WORK_PAUSE: Duration = Duration::from_secs(1);
/// Memory that the synthetic engine says it has.
const MEMORY: u64 = 24 << 30;

type Client = WorkerServiceClient<Channel>;

/// An open session.
#[derive(Debug)]
pub struct Session {
    client: Client,
    id: String,
    /// As the coordinator told.
    pub renew_interval: Duration,
    tally: SharedTally,
}

impl Session {
    /// Connects and opens a session for the worker with this number.
    pub async fn open(address: &str, number: u32, tally: SharedTally) -> Result<Self, Error> {
        let mut client = Client::new(connect(address).await?).max_decoding_message_size(LEASE_BYTES);
        let device = Device {
            // It needs nothing that only a GPU has.
            id: "cpu".to_owned(),
            name: ENGINE.to_owned(),
            memory_bytes: MEMORY,
            memory_free_bytes: MEMORY,
            compute_capability: String::new(),
            driver: String::new(),
        };
        let request = OpenSessionRequest {
            worker: format!("synthetic-{number:05}"),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            devices: vec![device],
            ..OpenSessionRequest::default()
        };
        let opened = client.open_session(request).await.map_err(Error::call("open a session"))?.into_inner();
        let told = opened.renew_interval.and_then(|interval| Duration::try_from(interval).ok());
        let missing = || Error::Farm("the coordinator does not say how often to renew".to_owned());
        let renew_interval = told.filter(|interval| !interval.is_zero()).ok_or_else(missing)?;
        Ok(Self { client, id: opened.session_id, renew_interval, tally })
    }

    /// What all sessions of this process did.
    pub fn tally(&self) -> &SharedTally {
        &self.tally
    }

    /// Asks until there is a shard.
    pub async fn lease(&self) -> Result<Lease, Error> {
        let wait = Some(prost_types::Duration { seconds: LEASE_WAIT.as_secs() as i64, nanos: 0 });
        loop {
            let asked = Instant::now();
            let answer = self.call("lease a shard", LEASE_WAIT + CALL_LIMIT, |mut client, session_id| {
                let request = LeaseShardRequest { session_id, wait, ..LeaseShardRequest::default() };
                async move { client.lease_shard(request).await }
            });
            if let Some(lease) = answer.await?.lease {
                let mut tally = self.tally.lock();
                // Attempts go on with those of the shard that was cut: only then is the first one not 1.
                match lease.r#ref.as_ref().is_some_and(|lease| lease.attempt > 1) {
                    true => tally.taken_over += 1,
                    false => tally.claims.push(micros(asked.elapsed())),
                }
                drop(tally);
                return Ok(lease);
            }
            sleep(NO_WORK_PAUSE.saturating_sub(asked.elapsed())).await;
        }
    }

    /// Commits results.
    pub async fn report(
        &self,
        lease: LeaseRef,
        results: Vec<ImageResult>,
    ) -> Result<ReportResultsResponse, Error> {
        self.call("report results", CALL_LIMIT, |mut client, session_id| {
            let (lease, results) = (Some(lease.clone()), results.clone());
            async move {
                client
                    .report_results(ReportResultsRequest { session_id, lease, results, ..Default::default() })
                    .await
            }
        })
        .await
    }

    /// Prolongs leases.
    pub async fn renew(&self, held: Vec<HeldLease>) -> Result<RenewLeasesResponse, Error> {
        self.call("renew leases", CALL_LIMIT, |mut client, session_id| {
            let held = held.clone();
            async move { client.renew_leases(RenewLeasesRequest { session_id, held, ..Default::default() }).await }
        })
        .await
    }

    /// Ends the session.
    pub async fn close(&self) -> Result<(), Error> {
        self.call("close a session", CALL_LIMIT, |mut client, session_id| async move {
            client.close_session(CloseSessionRequest { session_id, reason: "drain".to_owned() }).await
        })
        .await
        .map(drop)
    }

    /// Calls until it is answered; what a worker would not survive ends the measurement.
    async fn call<T, F>(
        &self,
        name: &'static str,
        limit: Duration,
        send: impl Fn(Client, String) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut pause = FIRST_PAUSE;
        loop {
            let status = match timeout(limit, send(self.client.clone(), self.id.clone())).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded(format!("no answer in {} s", limit.as_secs())),
            };
            if !passes(status.code()) {
                return Err(Error::call(name)(status));
            }
            self.tally.lock().retries += 1;
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Whether a worker waits for a coordinator that says this.
fn passes(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::DeadlineExceeded | Code::Aborted | Code::Cancelled)
}

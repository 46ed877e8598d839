//! A worker made by hand: it speaks the protocol, renders nothing and says what the test wants.

use std::sync::Arc;

use sanafarm_proto::v1::image_result::Outcome;
use sanafarm_proto::v1::worker_service_client::WorkerServiceClient;
use sanafarm_proto::v1::{
    CloseSessionRequest, ErrorClass, HeldLease, ImageDone, ImageFailed, ImageResult, Lease, LeaseRef,
    LeaseShardRequest, LeasedImage, OpenSessionRequest, ReleaseLeaseRequest, ReleaseReason,
    RenewLeasesRequest, ReportResultsRequest, ReportResultsResponse, SignObjectsRequest, SignedObject,
};
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

use super::wait_until;

/// How long a coordinator may look for a shard.
const WAIT: prost_types::Duration = prost_types::Duration { seconds: 20, nanos: 0 };

/// A session, and the coordinator that it is at.
#[derive(Clone)]
pub struct Hand {
    runtime: Arc<Runtime>,
    client: WorkerServiceClient<Channel>,
    session: String,
}

impl Hand {
    /// Opens a session.
    pub fn open(address: &str, worker: &str) -> Self {
        let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = Arc::new(threads.unwrap());
        let client = connect(&runtime, address);
        let request = OpenSessionRequest { worker: worker.to_owned(), ..OpenSessionRequest::default() };
        let opened = runtime.block_on(client.clone().open_session(request)).unwrap().into_inner();
        Self { runtime, client, session: opened.session_id }
    }

    /// The same session at another coordinator.
    pub fn at(&self, address: &str) -> Self {
        Self { client: connect(&self.runtime, address), ..self.clone() }
    }

    /// Somebody without a session.
    pub fn nobody(&self) -> Self {
        Self { session: "00000000-0000-7000-8000-000000000000".to_owned(), ..self.clone() }
    }

    fn call<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
        self.runtime.block_on(call).map(Response::into_inner)
    }

    /// Waits for a shard.
    #[track_caller]
    pub fn lease(&self) -> (LeaseRef, Lease) {
        let session_id = self.session.clone();
        let request = LeaseShardRequest { session_id, wait: Some(WAIT), job_id: String::new() };
        let mut lease = None;
        wait_until("a shard", || {
            lease = self.call(self.client.clone().lease_shard(request.clone())).unwrap().lease;
            lease.is_some()
        });
        let lease = lease.unwrap();
        (lease.r#ref.clone().unwrap(), lease)
    }

    /// Names it.
    pub fn session(&self) -> &str {
        &self.session
    }

    /// A shard, if there is one now.
    #[track_caller]
    pub fn lease_now(&self) -> Option<Lease> {
        let session_id = self.session.clone();
        let request = LeaseShardRequest { session_id, wait: None, job_id: String::new() };
        self.call(self.client.clone().lease_shard(request)).unwrap().lease
    }

    pub fn report(&self, lease: &LeaseRef, results: &[ImageResult]) -> Result<ReportResultsResponse, Status> {
        let (session_id, lease) = (self.session.clone(), Some(lease.clone()));
        let request =
            ReportResultsRequest { session_id, lease, results: results.to_vec(), ..Default::default() };
        self.call(self.client.clone().report_results(request))
    }

    /// Reports; how many results were accepted and how many were known, and whether the lease is held.
    #[track_caller]
    pub fn told(&self, lease: &LeaseRef, results: &[ImageResult]) -> (u64, u64, bool) {
        let told = self.report(lease, results).unwrap();
        (told.accepted, told.known, told.held)
    }

    /// Reports; why that was refused.
    #[track_caller]
    pub fn refused(&self, lease: &LeaseRef, results: &[ImageResult]) -> (Code, String) {
        let status = self.report(lease, results).unwrap_err();
        (status.code(), status.message().to_owned())
    }

    /// Renews a lease while these images are rendered; whether it is held.
    pub fn renew(&self, lease: &LeaseRef, rendering: &[u64]) -> Result<bool, Code> {
        let held = HeldLease { r#ref: Some(lease.clone()), rendering: rendering.to_vec() };
        let request =
            RenewLeasesRequest { session_id: self.session.clone(), held: vec![held], ..Default::default() };
        let answer = self.call(self.client.clone().renew_leases(request));
        answer.map(|answer| answer.held == [lease.clone()]).map_err(|status| status.code())
    }

    /// URLs for objects of a lease.
    pub fn sign(&self, lease: &LeaseRef, objects: &[&str]) -> Result<Vec<SignedObject>, Status> {
        let request = SignObjectsRequest {
            session_id: self.session.clone(),
            lease: Some(lease.clone()),
            objects: objects.iter().map(|&object| object.to_owned()).collect(),
        };
        self.call(self.client.clone().sign_objects(request)).map(|signed| signed.objects)
    }

    pub fn release(&self, lease: &LeaseRef) -> Result<(), Code> {
        let request = ReleaseLeaseRequest {
            session_id: self.session.clone(),
            lease: Some(lease.clone()),
            reason: ReleaseReason::Drain.into(),
            message: String::new(),
        };
        self.call(self.client.clone().release_lease(request)).map(drop).map_err(|status| status.code())
    }

    #[track_caller]
    pub fn close(&self) {
        let request = CloseSessionRequest { session_id: self.session.clone(), reason: "drain".to_owned() };
        self.call(self.client.clone().close_session(request)).unwrap();
    }
}

fn connect(runtime: &Runtime, address: &str) -> WorkerServiceClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    WorkerServiceClient::new(runtime.block_on(endpoint.connect()).unwrap())
}

/// A picture of this image, whose checksum is a number.
pub fn picture(image: &LeasedImage, sum: u64) -> ImageResult {
    let done = ImageDone {
        object: image.object.clone(),
        bytes: 1000,
        sha256: format!("{sum:064x}"),
        recipe: "{}".to_owned(),
        quality: None,
    };
    result(image.index, Outcome::Done(done))
}

/// Pictures of these images, each with its index as its checksum.
pub fn pictures(images: &[LeasedImage]) -> Vec<ImageResult> {
    images.iter().map(|image| picture(image, image.index)).collect()
}

/// An error of this image.
pub fn failure(image: &LeasedImage, class: ErrorClass) -> ImageResult {
    let failed = ImageFailed { error_class: class.into(), message: "it went wrong".to_owned() };
    result(image.index, Outcome::Failed(failed))
}

fn result(index: u64, outcome: Outcome) -> ImageResult {
    ImageResult {
        index,
        outcome: Some(outcome),
        device_id: "cpu".to_owned(),
        render_seconds: 1.0,
        decode_seconds: 0.1,
        log: String::new(),
    }
}

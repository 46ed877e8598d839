//! A coordinator behind a port that asks for tokens.

use sanafarm_coordinator::{AuthMode, Limits};
use sanafarm_proto::v1;
use sanafarm_proto::v1::job_service_client::JobServiceClient;
use sanafarm_proto::v1::submit_job_request::Part;
use sanafarm_proto::v1::token_service_client::TokenServiceClient;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::support::{Farm, farm, part, row};

/// A farm behind a port, for who has a token.
pub struct Guarded {
    pub farm: Farm,
    address: String,
    shutdown: CancellationToken,
}

/// Sends a token.
#[derive(Clone)]
pub struct Bearer(Option<String>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            let header = MetadataValue::try_from(format!("Bearer {token}")).unwrap();
            request.metadata_mut().insert("authorization", header);
        }
        Ok(request)
    }
}

pub type With = InterceptedService<Channel, Bearer>;

impl Guarded {
    pub async fn start(limits: Limits) -> Self {
        let farm = farm().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let door = farm.coordinator.door(AuthMode::Tokens, limits);
        let (coordinator, until) = (farm.coordinator.clone(), shutdown.clone());
        tokio::spawn(async move { coordinator.serve_as(listener, None, door, until).await });
        Self { farm, address, shutdown }
    }

    /// Makes a token in the process, as the command line does over the database.
    pub async fn token(&self, name: &str, role: v1::Role) -> String {
        self.token_for(name, role, "", "").await.1
    }

    pub async fn token_for(&self, name: &str, role: v1::Role, owner: &str, worker: &str) -> (String, String) {
        let channel = self.farm.coordinator.local_channel().await.unwrap();
        let request = v1::CreateTokenRequest {
            name: name.to_owned(),
            role: role.into(),
            owner: owner.to_owned(),
            worker: worker.to_owned(),
            expires_at: None,
        };
        let made = TokenServiceClient::new(channel).create_token(request).await.unwrap().into_inner();
        (made.token.unwrap().token_id, made.secret)
    }

    /// A connection of its own, with this token.
    pub async fn with(&self, token: Option<&str>) -> With {
        let channel = Endpoint::from_shared(self.address.clone()).unwrap().connect().await.unwrap();
        InterceptedService::new(channel, Bearer(token.map(str::to_owned)))
    }

    pub async fn jobs(&self, token: &str) -> JobServiceClient<With> {
        JobServiceClient::new(self.with(Some(token)).await)
    }

    /// What came of a call of this path with an empty message.
    pub async fn code(&self, service: &With, path: &str) -> Code {
        let mut client = tonic::client::Grpc::new(service.clone());
        client.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        let request = Request::new(tokio_stream::once(()));
        match client.streaming(request, path.parse().unwrap(), codec).await {
            Ok(_) => Code::Ok,
            Err(status) => status.code(),
        }
    }

    pub async fn submit(&self, token: &str, spec: v1::JobSpec) -> Result<v1::Job, Status> {
        self.submit_rows(token, spec, 1).await
    }

    pub async fn submit_rows(&self, token: &str, spec: v1::JobSpec, rows: u64) -> Result<v1::Job, Status> {
        let mut parts = vec![part(Part::Spec(spec))];
        for first in (1..=rows).step_by(1000) {
            // Together they are more than a connection holds for a reader that does not read.
            let long = |line| v1::PromptRow { prompt: "x".repeat(1000), ..row(line) };
            let rows = (first..(first + 1000).min(rows + 1)).map(long).collect();
            parts.push(part(Part::Batch(v1::PromptBatch { rows })));
        }
        parts.push(part(Part::Seal(v1::Seal { rows })));
        let answer = self.jobs(token).await.submit_job(tokio_stream::iter(parts)).await?;
        Ok(answer.into_inner().job.unwrap())
    }

    pub fn spec(&self, name: &str) -> v1::JobSpec {
        let output = self.farm.folder.path().join(name).to_string_lossy().into_owned();
        v1::JobSpec { owner: String::new(), output, ..self.farm.spec(name) }
    }

    pub async fn end(self) {
        self.shutdown.cancel();
        self.farm.coordinator.close().await;
    }
}

//! The services over TCP and inside the process.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use hyper_util::rt::TokioIo;
use sanafarm_net::Listener;
use sanafarm_proto::externalscaler::external_scaler_server::ExternalScalerServer;
use sanafarm_proto::v1::history_service_server::HistoryServiceServer;
use sanafarm_proto::v1::job_service_server::JobServiceServer;
use sanafarm_proto::v1::token_service_server::TokenServiceServer;
use sanafarm_proto::v1::worker_service_server::WorkerServiceServer;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::{Routes, RoutesBuilder};
use tonic::transport::{Channel, Endpoint, Error, Server};

use super::history::History;
use super::jobs::Jobs;
use super::scaler::Scaler;
use super::timed::TimedLayer;
use super::tokens::Tokens;
use super::workers::Workers;
use crate::auth::{AuthLayer, Gate, LocalLayer};
use crate::farm::Farm;

/// Largest message that is taken in: a batch of three hundred rows, were all of them as long as a row may be
/// (100 KiB: prompt, negative prompt, id and pass-through columns).
const MESSAGE_BYTES: usize = 32 << 20;
/// A connection whose other end is gone is noticed within the sum of both.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Calls of one connection at the same time.
const STREAMS: u32 = 256;
/// Headers of a call: a token, and little more.
const HEADER_BYTES: u32 = 16 << 10;
/// Buffer of the connection inside the process.
const LOCAL_BYTES: usize = 1 << 20;
/// How long running calls may take to end after the farm has stopped.
const DRAIN: Duration = Duration::from_secs(10);

/// All services of a farm. `stop` ends their calls; `embedded` says that the callers live in this process.
fn routes(farm: &Arc<Farm>, stop: &CancellationToken, embedded: bool) -> RoutesBuilder {
    let jobs = Jobs { farm: Arc::clone(farm), stop: stop.clone() };
    let workers = Workers { farm: Arc::clone(farm), stop: stop.clone(), embedded };
    let history = History { farm: Arc::clone(farm), stop: stop.clone() };
    let scaler = Scaler { farm: Arc::clone(farm), stop: stop.clone() };
    let mut routes = Routes::builder();
    routes
        .add_service(JobServiceServer::new(jobs).max_decoding_message_size(MESSAGE_BYTES))
        .add_service(WorkerServiceServer::new(workers).max_decoding_message_size(MESSAGE_BYTES))
        .add_service(HistoryServiceServer::new(history))
        .add_service(TokenServiceServer::new(Tokens { farm: Arc::clone(farm) }))
        .add_service(ExternalScalerServer::new(scaler));
    routes
}

/// Serves on `listener` until `shutdown` or the end of the farm.
pub(crate) async fn serve(
    farm: &Arc<Farm>,
    listener: Listener,
    gate: Arc<Gate>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<JobServiceServer<Jobs>>().await;
    health.set_serving::<WorkerServiceServer<Workers>>().await;
    health.set_serving::<HistoryServiceServer<History>>().await;
    health.set_serving::<TokenServiceServer<Tokens>>().await;
    health.set_serving::<ExternalScalerServer<Scaler>>().await;
    // Cancelled with the farm, or by `shutdown` for this listener alone.
    let stop = farm.stop.child_token();
    let mut routes = routes(farm, &stop, false);
    routes.add_service(health_service);
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .max_concurrent_streams(Some(STREAMS))
        .http2_max_header_list_size(Some(HEADER_BYTES))
        .layer(TimedLayer)
        .layer(AuthLayer::new(gate))
        .add_routes(routes.routes())
        .serve_with_incoming_shutdown(listener, stop.clone().cancelled_owned());
    let forward = async {
        shutdown.cancelled().await;
        stop.cancel();
        std::future::pending::<()>().await
    };
    tokio::select! {
        served = drained(server, &stop) => served,
        () = forward => Ok(()),
    }
}

/// Runs a server; calls that do not end by themselves after `stop` are cut after a while.
async fn drained(
    server: impl Future<Output = Result<(), Error>>,
    stop: &CancellationToken,
) -> Result<(), Error> {
    let late = async {
        stop.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = server => served,
        () = late => {
            tracing::warn!(seconds = DRAIN.as_secs(), "cut calls that did not end");
            Ok(())
        }
    }
}

/// A channel over pipes in memory, served by a task of the farm until the channel or the farm is gone.
pub(crate) async fn local_channel(farm: &Arc<Farm>) -> Result<Channel, Error> {
    let (connections, incoming) = mpsc::channel::<DuplexStream>(1);
    let server = Server::builder()
        .layer(LocalLayer)
        .add_routes(routes(farm, &farm.stop, true).routes())
        .serve_with_incoming_shutdown(
            ReceiverStream::new(incoming).map(Ok::<_, std::io::Error>),
            farm.stop.clone().cancelled_owned(),
        );
    let stop = farm.stop.clone();
    farm.tasks.spawn(async move {
        if let Err(error) = drained(server, &stop).await {
            tracing::warn!(%error, "serve connections inside the process");
        }
    });
    // Called for the first connection and again for every one that follows.
    let connect = tower::service_fn(move |_| {
        let connections = connections.clone();
        async move {
            let (client, server) = tokio::io::duplex(LOCAL_BYTES);
            connections.send(server).await.map_err(|_| std::io::Error::other("the coordinator is closed"))?;
            Ok::<_, std::io::Error>(TokioIo::new(client))
        }
    });
    // The address is never looked up: the connector above answers for any.
    Endpoint::from_static("http://coordinator.local").connect_with_connector(connect).await
}

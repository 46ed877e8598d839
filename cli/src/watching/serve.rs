//! A router over HTTP or HTTPS, for whom a door lets in.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request};
use axum::middleware::{self, Next};
use axum::response::IntoResponse;
use axum::serve::IncomingStream;
use sanafarm_coordinator::Door;
use sanafarm_net::{Connection, Listener, Peer, ServerTls};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Serves until `stop`, and then until running calls have ended; without a door to everybody.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<ServerTls>>,
    door: Option<Door>,
    router: Router,
    stop: CancellationToken,
) -> io::Result<()> {
    let listener = Accepted(Listener::start(listener, tls)?);
    let router =
        router.layer(middleware::from_fn(move |ConnectInfo(Caller(peer)), request: Request, next: Next| {
            let door = door.clone();
            async move {
                let admitted = match door {
                    Some(door) => door.admit_http(request.uri().path(), request.headers(), &peer).await,
                    None => {
                        peer.admit();
                        Ok(())
                    }
                };
                match admitted {
                    Ok(()) => next.run(request).await,
                    Err(refused) => refused.into_response(),
                }
            }
        }));
    let service = router.into_make_service_with_connect_info::<Caller>();
    axum::serve(listener, service).with_graceful_shutdown(stop.cancelled_owned()).await
}

/// Connections as axum takes them.
struct Accepted(Listener);

impl axum::serve::Listener for Accepted {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        match self.0.accept().await {
            Ok(connection) => {
                let address = connection.peer().address;
                (connection, address)
            }
            // It ends with the process only.
            Err(_) => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.0.local_addr())
    }
}

/// Who asks.
#[derive(Clone)]
struct Caller(Peer);

impl Connected<IncomingStream<'_, Accepted>> for Caller {
    fn connect_info(stream: IncomingStream<'_, Accepted>) -> Self {
        Self(stream.io().peer().clone())
    }
}

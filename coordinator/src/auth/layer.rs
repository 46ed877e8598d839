//! Before every service.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use sanafarm_net::Peer;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::body::guarded;
use super::gate::Gate;
use super::principal::Principal;

/// Asks the gate about each call.
#[derive(Clone, Debug)]
pub(crate) struct AuthLayer {
    gate: Arc<Gate>,
}

impl AuthLayer {
    pub fn new(gate: Arc<Gate>) -> Self {
        Self { gate }
    }
}

impl<S> Layer<S> for AuthLayer {
    type Service = Auth<S>;

    fn layer(&self, inner: S) -> Auth<S> {
        Auth { gate: Arc::clone(&self.gate), inner }
    }
}

/// A service with a gate before it.
#[derive(Clone, Debug)]
pub(crate) struct Auth<S> {
    gate: Arc<Gate>,
    inner: S,
}

/// The answer to a call, to come.
type Answer<E> = Pin<Box<dyn Future<Output = Result<http::Response<Body>, E>> + Send>>;

impl<S, B> Service<http::Request<B>> for Auth<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        // The one that was found ready is the one to call.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let gate = Arc::clone(&self.gate);
        Box::pin(async move {
            let peer = request.extensions().get::<Peer>().cloned();
            let pass = match gate.admit(request.uri().path(), request.headers(), peer.as_ref()).await {
                Ok(pass) => pass,
                Err(status) => return Ok(status.into_http()),
            };
            request.extensions_mut().insert(pass.principal.clone());
            request.extensions_mut().insert(Revocation(pass.revoked.clone().unwrap_or_default()));
            let answer = match pass.revoked.clone() {
                None => inner.call(request).await?,
                Some(revoked) => tokio::select! {
                    () = revoked.cancelled() => return Ok(revoked_status().into_http()),
                    answer = inner.call(request) => answer?,
                },
            };
            let cut = peer.map(|peer| peer.cut);
            Ok(answer.map(|body| guarded(body, pass, cut, gate.limits.reader_patience)))
        })
    }
}

/// That the caller of a call may call no more. What outlives the call while it takes messages from its caller stops at
/// it: a caller that ignores the answer could go on to send.
#[derive(Clone, Debug, Default)]
pub(crate) struct Revocation(CancellationToken);

impl Revocation {
    /// That of this call, which never comes for a caller that cannot be revoked.
    pub fn of<T>(request: &tonic::Request<T>) -> WaitForCancellationFutureOwned {
        request.extensions().get::<Self>().cloned().unwrap_or_default().0.cancelled_owned()
    }
}

/// What a call is told that runs when its token ends.
pub(super) fn revoked_status() -> Status {
    Status::unauthenticated("the token was revoked or has expired while the call ran")
}

/// Before the services inside the process: whoever is in it may everything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalLayer;

impl<S> Layer<S> for LocalLayer {
    type Service = Local<S>;

    fn layer(&self, inner: S) -> Local<S> {
        Local { inner }
    }
}

/// A service that everybody in the process may call.
#[derive(Clone, Debug)]
pub(crate) struct Local<S> {
    inner: S,
}

impl<S, B> Service<http::Request<B>> for Local<S>
where
    S: Service<http::Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<B>) -> S::Future {
        request.extensions_mut().insert(Principal::anybody());
        self.inner.call(request)
    }
}

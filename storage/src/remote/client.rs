//! The HTTP client below `object_store`: it cuts off slow servers, waits when one asks for it, and has every call tried
//! again.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, poll_fn};
use http_body::{Body, Frame, SizeHint};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
    HttpService, ReqwestConnector,
};
use object_store::{ClientOptions, PutPayload};
use reqwest::StatusCode;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

use super::Throttle;
use crate::Patience;
use crate::patience::{Pace, TooSlow};

/// Where S3 says in which region a bucket is.
const REGION: &str = "x-amz-bucket-region";

/// Makes guarded clients.
#[derive(Debug)]
pub(super) struct Connector {
    patience: Patience,
    throttle: Arc<Throttle>,
    region: Option<String>,
}

impl Connector {
    /// With the region that requests are signed for.
    pub(super) fn new(patience: &Patience, region: Option<String>) -> Self {
        let throttle = Arc::new(Throttle::new(patience.longest_wait));
        Self { patience: patience.clone(), throttle, region }
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Guarded {
            inner: ReqwestConnector::default().connect(options)?,
            patience: self.patience.clone(),
            throttle: self.throttle.clone(),
            region: self.region.clone(),
        }))
    }
}

#[derive(Debug)]
struct Guarded {
    inner: HttpClient,
    patience: Patience,
    throttle: Arc<Throttle>,
    region: Option<String>,
}

#[async_trait]
impl HttpService for Guarded {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.throttle.wait().await;
        let bytes = request.body().content_length() as u64;
        let longest = self.patience.for_bytes(bytes);
        let start = Instant::now();
        let (request, sent) = watch(request).await?;
        // How far a body is cannot be seen, only that nothing of it is left here: from then on the server has the word.
        let silent = async {
            sent.await;
            tokio::time::sleep(self.patience.silence).await;
        };
        let slow = async {
            tokio::select! {
                () = silent => start.elapsed(),
                () = tokio::time::sleep(longest) => longest,
            }
        };
        let answer = tokio::select! {
            answer = self.inner.execute(request) => answer.map_err(repeatable)?,
            waited = slow => return Err(HttpError::new(HttpErrorKind::Request, TooSlow { bytes, waited })),
        };
        self.throttle.heed(answer.status(), answer.headers(), Instant::now());
        if let Some(wrong) = self.wrong_region(&answer) {
            return Err(HttpError::new(HttpErrorKind::Unknown, wrong));
        }
        let (parts, body) = answer.into_parts();
        let body = Watched { body, pace: Pace::new(self.patience.clone()), timer: None };
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)))
    }
}

/// A part of a body that says when it is no longer needed.
struct Sent {
    bytes: Bytes,
    /// Dropped with it.
    _open: oneshot::Sender<()>,
}

impl AsRef<[u8]> for Sent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The same request, and what waits until all of its body was given to the network; for ever where there is little to give.
async fn watch(request: HttpRequest) -> Result<(HttpRequest, BoxFuture<'static, ()>), HttpError> {
    let is_small = request.body().content_length() == 0 || request.body().as_bytes().is_some();
    if is_small {
        return Ok((request, futures::future::pending().boxed()));
    }
    let (parts, mut body) = request.into_parts();
    let mut pieces = Vec::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        pieces.extend(frame?.into_data().ok().filter(|piece| !piece.is_empty()));
    }
    let mut sent = Vec::new();
    let pieces = pieces.into_iter().map(|bytes| {
        let (open, closed) = oneshot::channel();
        sent.push(closed);
        Bytes::from_owner(Sent { bytes, _open: open })
    });
    let body = pieces.collect::<PutPayload>().into();
    let sent = async {
        futures::future::join_all(sent).await;
    };
    Ok((HttpRequest::from_parts(parts, body), sent.boxed()))
}

/// The bucket is in another region than requests are signed for.
#[derive(Debug, thiserror::Error)]
#[error("the bucket is in the region {0}: set AWS_REGION={0}")]
pub(super) struct WrongRegion(String);

impl Guarded {
    /// Servers tell the region in a header, which `object_store` does not hand on.
    fn wrong_region(&self, answer: &HttpResponse) -> Option<WrongRegion> {
        let redirected = matches!(
            answer.status(),
            StatusCode::MOVED_PERMANENTLY | StatusCode::TEMPORARY_REDIRECT | StatusCode::BAD_REQUEST
        );
        let theirs = answer.headers().get(REGION).filter(|_| redirected)?.to_str().ok()?;
        let ours = self.region.as_deref().unwrap_or("us-east-1");
        (theirs != ours).then(|| WrongRegion(theirs.to_owned()))
    }
}

/// All that is asked of a store may be asked again: a put that creates finds its own object then. By itself
/// `object_store` takes only reads and overwriting puts for such.
fn repeatable(error: HttpError) -> HttpError {
    match error.kind() {
        HttpErrorKind::Timeout | HttpErrorKind::Interrupted => HttpError::new(HttpErrorKind::Request, error),
        _ => error,
    }
}

/// An answer that is cut off when it drips.
#[derive(Debug)]
struct Watched {
    body: HttpResponseBody,
    pace: Pace,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
            let bytes = match &frame {
                Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
                Some(Err(_)) | None => 0,
            };
            this.pace.moved(bytes, Instant::now());
            this.timer = None;
            return Poll::Ready(frame);
        }
        let pace = &mut this.pace;
        let timer =
            this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(pace.wait(Instant::now()))));
        match timer.as_mut().poll(context) {
            Poll::Ready(()) => {
                Poll::Ready(Some(Err(HttpError::new(HttpErrorKind::Timeout, this.pace.cut(Instant::now())))))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

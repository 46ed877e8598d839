//! Answers that end when their caller may call no more, and are cut when nobody takes them.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;
use tonic::body::Body;

use super::gate::Pass;
use super::layer::revoked_status;

/// The body of an answer to a call that was let in. `cut` ends its connection.
pub(super) fn guarded(body: Body, pass: Pass, cut: Option<CancellationToken>, patience: Duration) -> Body {
    if body.is_end_stream() {
        return body;
    }
    let revoked = pass.revoked.clone().map(|revoked| Box::pin(revoked.cancelled_owned()));
    Body::new(Guarded { body, revoked, reader: Reader::new(patience, cut), ended: false, _pass: pass })
}

struct Guarded {
    body: Body,
    revoked: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    reader: Reader,
    ended: bool,
    _pass: Pass,
}

impl HttpBody for Guarded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.reader.wants_more();
        if self.ended {
            return Poll::Ready(None);
        }
        if self.revoked.as_mut().is_some_and(|revoked| revoked.as_mut().poll(context).is_ready()) {
            self.ended = true;
            let mut trailers = HeaderMap::new();
            return Poll::Ready(Some(
                revoked_status().add_header(&mut trailers).map(|()| Frame::trailers(trailers)),
            ));
        }
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && frame.is_data()
        {
            self.reader.has_something();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }
}

/// Whoever takes the answer.
struct Reader {
    begun: Instant,
    patience: Duration,
    cut: Option<CancellationToken>,
    /// Parts that it was given.
    parts: u64,
    /// Since when it has something to take, in milliseconds after `begun`; 0 when it has not.
    waiting: Arc<AtomicU64>,
    watch: Option<AbortOnDropHandle<()>>,
}

impl Reader {
    fn new(patience: Duration, cut: Option<CancellationToken>) -> Self {
        Self { begun: Instant::now(), patience, cut, parts: 0, waiting: Arc::default(), watch: None }
    }

    fn wants_more(&self) {
        self.waiting.store(0, Ordering::Relaxed);
    }

    fn has_something(&mut self) {
        self.parts += 1;
        self.waiting.store(since(self.begun).max(1), Ordering::Relaxed);
        // Most answers have one part, and are watched by nobody: what one part holds up is little.
        if self.parts == 2
            && let Some(cut) = self.cut.clone()
        {
            let (begun, patience, waiting) = (self.begun, self.patience, Arc::clone(&self.waiting));
            self.watch = Some(AbortOnDropHandle::new(tokio::spawn(async move {
                loop {
                    tokio::time::sleep(patience / 4).await;
                    let from = waiting.load(Ordering::Relaxed);
                    if from != 0 && u128::from(since(begun).saturating_sub(from)) > patience.as_millis() {
                        tracing::warn!(
                            seconds = patience.as_secs(),
                            "cut a connection: nobody takes an answer"
                        );
                        cut.cancel();
                        return;
                    }
                }
            })));
        }
    }
}

fn since(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)
}

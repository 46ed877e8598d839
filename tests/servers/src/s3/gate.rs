//! What every request passes: faults, and what s3s-fs lacks of S3: atomic conditional writes, checksums that are compared
//! before anything is written, buckets that must be there.

use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH};
use hyper::{Request, Response};
use md5::{Digest as _, Md5};
use s3s::service::S3Service;
use sha2::Sha256;

use super::fault::{Fault, Plan};

type Answer = Response<s3s::Body>;

/// Stands before the server.
#[derive(Clone)]
pub(super) struct Gate {
    service: S3Service,
    /// The folder of the buckets.
    data: PathBuf,
    plan: Arc<Mutex<Plan>>,
    /// Held while an object is made on a condition: s3s-fs looks and writes in two steps.
    conditional: Arc<tokio::sync::Mutex<()>>,
}

impl Gate {
    pub(super) fn new(service: S3Service, data: PathBuf, plan: Arc<Mutex<Plan>>) -> Self {
        Self { service, data, plan, conditional: Arc::default() }
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn connected(&self) {
        self.plan().connections += 1;
    }

    /// Answers a request, or does not: an error ends the connection.
    pub(super) async fn pass(&self, request: Request<Incoming>) -> io::Result<Answer> {
        let path = request.uri().path_and_query().map(|path| path.as_str().to_owned()).unwrap_or_default();
        let fault = self.plan().take(request.method().as_str(), &path);
        match &fault {
            Some(Fault::Answer(status, code, headers)) => {
                // A server that answers before the whole body came may reset the connection, and its answer with it.
                request.into_body().collect().await.map_err(io::Error::other)?;
                return answer(*status, code, headers);
            }
            Some(Fault::CutRequest(bytes)) => return Err(cut(request.into_body(), *bytes).await),
            Some(Fault::Delay(time)) => tokio::time::sleep(*time).await,
            _ => {}
        }
        let (parts, body) = request.into_parts();
        let mut body = BytesMut::from(&body.collect().await.map_err(io::Error::other)?.to_bytes()[..]);
        if let (Some(Fault::Damage), Some(byte)) = (&fault, body.first_mut()) {
            *byte ^= 1;
        }
        if let Some(code) = damaged(&parts.headers, &body) {
            return answer(400, code, &[]);
        }
        let bucket = path.trim_start_matches('/').split(['/', '?']).next().unwrap_or_default();
        if !self.data.join(bucket).is_dir() {
            return answer(404, "NoSuchBucket", &[]);
        }
        let request = Request::from_parts(parts, s3s::Body::http_body(Full::new(body.freeze())));
        let answer = self.serve(request).await?;
        match fault {
            Some(Fault::LoseAnswer) => Err(io::Error::other("the answer is lost")),
            Some(Fault::Silence) => std::future::pending().await,
            Some(Fault::CutAnswer(bytes)) => Ok(cut_answer(answer, bytes).await?),
            Some(Fault::Drip(between)) => Ok(drip(answer, between).await?),
            _ => Ok(answer),
        }
    }

    async fn serve(&self, request: Request<s3s::Body>) -> io::Result<Answer> {
        let alone = match request.headers().contains_key(IF_NONE_MATCH) {
            true => Some(self.conditional.lock().await),
            false => None,
        };
        let answer = self.service.call(request).await.map_err(io::Error::other)?;
        drop(alone);
        Ok(answer)
    }
}

fn answer(status: u16, code: &str, headers: &[(&'static str, String)]) -> io::Result<Answer> {
    let document = format!(
        "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>a planned fault</Message></Error>"
    );
    let mut answer = Response::builder().status(status);
    for (name, value) in headers {
        answer = answer
            .header(HeaderName::from_static(name), HeaderValue::from_str(value).map_err(io::Error::other)?);
    }
    answer.body(s3s::Body::from(document)).map_err(io::Error::other)
}

/// Why a body is not the one that its headers speak of.
fn damaged(headers: &HeaderMap, body: &[u8]) -> Option<&'static str> {
    let sha256 = Sha256::digest(body);
    let hex: String = sha256.iter().map(|byte| format!("{byte:02x}")).collect();
    let differs =
        |name: &str, is: &str| headers.get(name).is_some_and(|said| said.as_bytes() != is.as_bytes());
    let hashed = headers.get("x-amz-content-sha256").is_some_and(|said| said.len() == hex.len());
    if hashed && differs("x-amz-content-sha256", &hex) {
        return Some("XAmzContentSHA256Mismatch");
    }
    let other = differs("x-amz-checksum-sha256", &BASE64_STANDARD.encode(sha256))
        || differs("content-md5", &BASE64_STANDARD.encode(Md5::digest(body)));
    other.then_some("BadDigest")
}

/// Reads some bytes and no more.
async fn cut(mut body: Incoming, bytes: usize) -> io::Error {
    let mut read = 0;
    while read < bytes {
        match body.frame().await {
            Some(Ok(frame)) => read += frame.data_ref().map_or(0, Bytes::len),
            Some(Err(error)) => return io::Error::other(error),
            None => break,
        }
    }
    io::Error::other("the connection is cut")
}

async fn cut_answer(answer: Answer, bytes: usize) -> io::Result<Answer> {
    let (parts, body) = answer.into_parts();
    let mut body = BodyExt::collect(body).await.map_err(io::Error::other)?.to_bytes();
    body.truncate(bytes);
    let pieces = [Ok(Frame::data(body)), Err(io::Error::other("the connection is cut"))];
    Ok(Response::from_parts(
        parts,
        s3s::Body::http_body_unsync(StreamBody::new(futures::stream::iter(pieces))),
    ))
}

async fn drip(answer: Answer, between: Duration) -> io::Result<Answer> {
    let (parts, body) = answer.into_parts();
    let body = BodyExt::collect(body).await.map_err(io::Error::other)?.to_bytes();
    let pieces = futures::stream::iter(0..body.len()).then(move |at| {
        let piece = body.slice(at..at + 1);
        async move {
            tokio::time::sleep(between).await;
            Ok::<_, Infallible>(Frame::data(piece))
        }
    });
    Ok(Response::from_parts(parts, s3s::Body::http_body_unsync(StreamBody::new(pieces))))
}

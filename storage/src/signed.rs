//! Objects reached by signed URLs: whoever has one needs no keys.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use base64::Engine;
use base64::prelude::BASE64_STANDARD as STANDARD;
use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt};
use md5::{Digest as _, Md5};
use reqwest::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Body, Client, Method, Request, Response, StatusCode};
use tokio::time::Instant;
use url::Url;

use crate::name::content_type;
use crate::patience::{Pace, TooSlow, jitter};
use crate::reading::{file_chunks, open_source};
use crate::remote::{Answer, Throttle, choose_tls, for_people, hide, retry_after};
use crate::{Error, Found, Patience, Put};

/// Bytes handed to the connection at a time: the measure of how far an upload is.
const CHUNK: usize = 64 << 10;
/// Longest document of an error that is read.
const MAX_DOCUMENT: usize = 64 << 10;

/// Reads and writes single objects by signed URLs (see [`crate::Output::sign`]). Cheap to clone; clones share their
/// connections.
#[derive(Clone, Debug)]
pub struct Signed {
    client: Client,
    patience: Patience,
    throttle: Arc<Throttle>,
}

/// Why one try failed.
struct Trouble {
    error: Error,
    /// Whether the next try may succeed.
    again: bool,
}

/// What is sent.
#[derive(Clone)]
enum Content {
    Bytes(Bytes),
    File(PathBuf, u64),
}

impl Signed {
    /// A client with the usual patience.
    pub fn new() -> Result<Self, Error> {
        Self::with_patience(Patience::default())
    }

    /// A client.
    pub fn with_patience(patience: Patience) -> Result<Self, Error> {
        choose_tls();
        let client = Client::builder()
            .connect_timeout(patience.connect)
            // What is signed is signed for one server.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| Error::Invalid(format!("make an HTTP client: {}", causes(&error))))?;
        let throttle = Arc::new(Throttle::new(patience.longest_wait));
        Ok(Self { client, patience, throttle })
    }

    /// Writes an object unless there is one at this URL already.
    pub async fn put_new(&self, url: &Url, bytes: Bytes) -> Result<Put, Error> {
        self.put(url, Content::Bytes(bytes)).await
    }

    /// As [`Signed::put_new`], from a local file, in constant memory. Object stores take up to 5 GB that way.
    pub async fn put_new_file(&self, url: &Url, file: &Path) -> Result<Put, Error> {
        let (_, bytes) = open_source(file).await?;
        self.put(url, Content::File(file.to_owned(), bytes)).await
    }

    async fn put(&self, url: &Url, content: Content) -> Result<Put, Error> {
        let headers = put_headers(url, &content).await?;
        let (headers, content) = (&headers, &content);
        let put = move || {
            async move {
                let pace = Arc::new(Mutex::new(Pace::new(self.patience.clone())));
                let body = Body::wrap_stream(Sent { chunks: content.chunks().await?, pace: pace.clone() });
                let mut request = Request::new(Method::PUT, url.clone());
                request.headers_mut().clone_from(headers);
                *request.body_mut() = Some(body);
                let answer = self.send(request, &pace).await?;
                match answer.status() {
                    StatusCode::PRECONDITION_FAILED | StatusCode::NOT_MODIFIED => Ok(Put::Exists),
                    status if status.is_success() => Ok(Put::Created),
                    _ => Err(self.refused(answer).await),
                }
            }
            .boxed()
        };
        self.patiently(url, "write", put).await
    }

    /// Reads an object of up to `limit` bytes.
    pub async fn get(&self, url: &Url, limit: u64) -> Result<Found, Error> {
        let get = move || {
            async move {
                let pace = Mutex::new(Pace::new(self.patience.clone()));
                let answer = self.send(Request::new(Method::GET, url.clone()), &pace).await?;
                if !answer.status().is_success() {
                    let trouble = self.refused(answer).await;
                    return match trouble.error {
                        Error::NotFound(text) if !text.contains("no such bucket") => Ok(Found::Nothing),
                        error => Err(Trouble { error, ..trouble }),
                    };
                }
                if answer.content_length().is_some_and(|bytes| bytes > limit) {
                    return Ok(Found::Larger);
                }
                let mut pieces = answer.bytes_stream();
                let mut object = BytesMut::new();
                while let Some(piece) = self.watched(&pace, pieces.next()).await? {
                    let piece = piece.map_err(|error| unreached(&error))?;
                    lock(&pace).moved(piece.len(), Instant::now());
                    if (object.len() + piece.len()) as u64 > limit {
                        return Ok(Found::Larger);
                    }
                    object.extend_from_slice(&piece);
                }
                Ok(Found::Object(object.freeze()))
            }
            .boxed()
        };
        self.patiently(url, "read", get).await
    }

    /// Tries until it succeeds, cannot succeed, or was tried often enough. The calls are boxed: of an asynchronous closure
    /// the compiler cannot tell that it may go from thread to thread.
    async fn patiently<'a, T>(
        &self,
        url: &Url,
        verb: &str,
        call: impl Fn() -> BoxFuture<'a, Result<T, Trouble>>,
    ) -> Result<T, Error> {
        let (place, secret) = for_people(url.clone());
        let mut wait = self.patience.first_wait;
        for turn in 0.. {
            self.throttle.wait().await;
            match call().await {
                Ok(done) => return Ok(done),
                Err(Trouble { error, again }) if !again || turn == self.patience.retries => {
                    let times = if turn == 0 { String::new() } else { format!(", {} times", turn + 1) };
                    return Err(
                        error.map(|text| hide(&format!("{verb} {place}{times}: {text}"), secret.as_deref()))
                    );
                }
                Err(_) => tokio::time::sleep(wait / 2 + jitter(wait / 2)).await,
            }
            wait = (wait * 2).min(self.patience.longest_wait);
        }
        Err(Error::Unavailable(format!("{verb} {place}: never tried")))
    }

    async fn send(&self, request: Request, pace: &Mutex<Pace>) -> Result<Response, Trouble> {
        let answer = self.watched(pace, self.client.execute(request)).await?;
        let answer = answer.map_err(|error| unreached(&error))?;
        lock(pace).moved(0, Instant::now());
        self.throttle.heed(answer.status(), answer.headers(), Instant::now());
        Ok(answer)
    }

    /// Waits for something that moves the pace, until that is too slow.
    async fn watched<T>(&self, pace: &Mutex<Pace>, moving: impl Future<Output = T>) -> Result<T, Trouble> {
        let slow = async {
            loop {
                let until = lock(pace).wait(Instant::now());
                tokio::time::sleep_until(until).await;
                if lock(pace).wait(Instant::now()) <= until {
                    return lock(pace).cut(Instant::now());
                }
            }
        };
        tokio::select! {
            moved = moving => Ok(moved),
            slow = slow => Err(Trouble::from(slow)),
        }
    }

    /// What the server says instead of yes.
    async fn refused(&self, answer: Response) -> Trouble {
        let status = answer.status();
        let wait = retry_after(status, answer.headers());
        let again = wait.is_some()
            || status.is_server_error()
            || matches!(
                status,
                StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT | StatusCode::CONFLICT
            );
        let read = async {
            let mut document = Vec::new();
            let mut pieces = answer.bytes_stream();
            while let Some(Ok(piece)) = pieces.next().await {
                document.extend_from_slice(&piece[..piece.len().min(MAX_DOCUMENT - document.len())]);
            }
            document
        };
        // Whatever of it comes in time.
        let document = tokio::time::timeout(self.patience.silence, read).await.unwrap_or_default();
        let answer = Answer::new(status.as_u16(), &String::from_utf8_lossy(&document));
        let error = answer.into_error("");
        let again = again || error.is_transient();
        Trouble { error: error.map(|text| text.trim_start_matches(": ").to_owned()), again }
    }
}

impl From<TooSlow> for Trouble {
    fn from(slow: TooSlow) -> Self {
        Self { error: Error::Unavailable(slow.to_string()), again: true }
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self { again: error.is_transient(), error }
    }
}

fn unreached(error: &reqwest::Error) -> Trouble {
    Trouble { error: Error::Unavailable(causes(error)), again: true }
}

/// An error with what lies below it, and without its URL.
fn causes(error: &reqwest::Error) -> String {
    let mut text = match error.url() {
        Some(url) => format!("{}: not reached", url.origin().ascii_serialization()),
        None => error.to_string(),
    };
    let mut next = std::error::Error::source(error);
    while let Some(error) = next {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        next = error.source();
    }
    text
}

fn lock(pace: &Mutex<Pace>) -> MutexGuard<'_, Pace> {
    pace.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Content {
    fn length(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(_, bytes) => *bytes,
        }
    }

    async fn chunks(&self) -> Result<BoxStream<'static, io::Result<Bytes>>, Error> {
        match self {
            Self::Bytes(bytes) => {
                let mut rest = bytes.clone();
                let next = move || {
                    let chunk = rest.split_to(rest.len().min(CHUNK));
                    (!chunk.is_empty()).then_some(Ok(chunk))
                };
                Ok(futures::stream::iter(std::iter::from_fn(next)).boxed())
            }
            Self::File(path, length) => {
                let (file, bytes) = open_source(path).await?;
                if bytes != *length {
                    return Err(Error::Invalid(format!("read {}: it changed meanwhile", path.display())));
                }
                Ok(file_chunks(file, CHUNK).boxed())
            }
        }
    }

    /// For the server to compare. An MD5, as no signature has to know it beforehand.
    async fn md5(&self) -> Result<String, Error> {
        let content = self.clone();
        let hashed = tokio::task::spawn_blocking(move || match content {
            Self::Bytes(bytes) => Ok(STANDARD.encode(Md5::digest(&bytes))),
            Self::File(path, _) => {
                hash_file(&path).map_err(|error| Error::from_io(&format!("read {}", path.display()), &error))
            }
        });
        hashed.await.map_err(|error| Error::Unavailable(format!("hash what is to be sent: {error}")))?
    }
}

fn hash_file(path: &Path) -> io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let mut hash = Md5::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(STANDARD.encode(hash.finalize())),
            read => hash.update(&buffer[..read]),
        }
    }
}

/// What goes with an object: the condition in the words of the store that signed, size, type and checksum.
async fn put_headers(url: &Url, content: &Content) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::new();
    let mut set =
        |name, value| headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    let signed_by = |parameter: &str| url.query_pairs().any(|(name, _)| name == parameter);
    if signed_by("X-Goog-Signature") {
        set("x-goog-if-generation-match", "0");
    } else {
        set("if-none-match", "*");
    }
    if signed_by("sig") {
        set("x-ms-blob-type", "BlockBlob");
    }
    set("content-type", content_type(url.path()));
    headers.insert(CONTENT_LENGTH, content.length().into());
    let md5 = HeaderValue::from_str(&content.md5().await?);
    headers.insert("content-md5", md5.map_err(|error| Error::Invalid(error.to_string()))?);
    Ok(headers)
}

/// Content on its way to the server, which sets the pace.
struct Sent {
    chunks: BoxStream<'static, io::Result<Bytes>>,
    pace: Arc<Mutex<Pace>>,
}

impl Stream for Sent {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.chunks.poll_next_unpin(context);
        if let Poll::Ready(chunk) = &next {
            let bytes = chunk.as_ref().and_then(|chunk| chunk.as_ref().ok()).map_or(0, Bytes::len);
            let mut pace = lock(&self.pace);
            pace.moved(bytes, Instant::now());
            pace.wait(Instant::now());
        }
        next
    }
}

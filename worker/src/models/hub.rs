//! The Hugging Face hub, or a mirror that speaks its API.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, stream};
use reqwest::header::{CONTENT_RANGE, RANGE};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use sanafarm_storage::choose_tls;
use serde::Deserialize;
use url::Url;

use super::Error;
use super::source::{Reading, RemoteFile, Source, Survey};

/// The hub that is asked unless another is named.
pub const HUB: &str = "https://huggingface.co";
/// Bytes of a listing; those of large repositories have some hundred thousand.
const MAX_LISTING: usize = 16 << 20;
/// Longest explanation of a server that is told.
const MAX_WORDS: usize = 300;
/// A file may take any time, silence may not.
const SILENCE: Duration = Duration::from_secs(60);
const CONNECT: Duration = Duration::from_secs(10);

/// A secret that is shown to nobody.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// A token as the hub gives it out.
    pub fn new(token: String) -> Self {
        Self(token)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// One revision of a repository.
pub(super) struct Hub {
    client: Client,
    endpoint: Url,
    token: Option<Token>,
    repository: String,
    revision: String,
}

#[derive(Deserialize)]
struct Info {
    sha: Option<String>,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

impl Hub {
    pub(super) fn new(
        endpoint: &str,
        token: Option<Token>,
        repository: &str,
        revision: &str,
    ) -> Result<Self, Error> {
        let wrong = |why: String| Error::Reference { reference: endpoint.to_owned(), why };
        let endpoint =
            Url::parse(endpoint).map_err(|error| wrong(format!("HF_ENDPOINT is no address: {error}")))?;
        if !matches!(endpoint.scheme(), "http" | "https") || endpoint.cannot_be_a_base() {
            return Err(wrong("HF_ENDPOINT must begin with https:// or http://".to_owned()));
        }
        Ok(Self {
            client: client().map_err(|error| Error::Unreachable(format!("start an HTTP client: {error}")))?,
            endpoint,
            token,
            repository: repository.to_owned(),
            revision: revision.to_owned(),
        })
    }

    /// An address below the endpoint. A revision may hold slashes: they are no folders.
    fn url<'a>(&self, parts: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(parts);
        }
        url
    }

    fn get(&self, url: Url) -> RequestBuilder {
        let request = self.client.get(url);
        match &self.token {
            Some(Token(token)) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn send(&self, request: RequestBuilder, what: &str) -> Result<Response, Error> {
        request.send().await.map_err(|error| unreachable(what, &error))
    }

    /// What an answer that is no success means.
    fn refusal(&self, response: &Response, what: &str) -> Error {
        let status = response.status();
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let words: String = header("x-error-message").unwrap_or_default().chars().take(MAX_WORDS).collect();
        let words = if words.is_empty() { status.to_string() } else { format!("{status}: {words}") };
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::Denied {
                what: format!("{what}: the hub refuses ({words})"),
                hint: match self.token {
                    Some(_) => {
                        "the token in HF_TOKEN may not read it: accept the model's terms on its page, or use another token; \
                                check the name too"
                    }
                    None => {
                        "the model is private, gated or not there: check the name, and set HF_TOKEN to a token that may read it"
                    }
                },
            },
            StatusCode::NOT_FOUND | StatusCode::GONE => Error::Unknown(match header("x-error-code") {
                Some("RepoNotFound") => format!("the hub has no model {}", self.repository),
                Some("EntryNotFound") => format!("{what}: it is not in revision {}", self.revision),
                Some(_) | None => format!("the hub has no revision {} of {}", self.revision, self.repository),
            }),
            status if status.is_server_error() || retry_later(status) => {
                Error::Unreachable(format!("{what}: the hub answers {words}"))
            }
            _ => Error::Unknown(format!("{what}: the hub answers {words}")),
        }
    }
}

fn retry_later(status: StatusCode) -> bool {
    matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY)
}

#[async_trait]
impl Source for Hub {
    async fn survey(&self) -> Result<Survey, Error> {
        let repository = self.repository.split('/');
        let parts = ["api", "models"].into_iter().chain(repository).chain(["revision", &self.revision]);
        let mut url = self.url(parts);
        let what = format!("list {} at {}", self.repository, shown(&self.endpoint));
        url.set_query(Some("blobs=true"));
        let mut response = self.send(self.get(url).timeout(SILENCE), &what).await?;
        if !response.status().is_success() {
            return Err(self.refusal(&response, &what));
        }
        let mut text = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(&what, &error))? {
            text.extend_from_slice(&chunk);
            if text.len() > MAX_LISTING {
                return Err(Error::Unknown(format!("{what}: the answer is longer than {MAX_LISTING} bytes")));
            }
        }
        let strange = |why: String| Error::Unknown(format!("{what}: not the answer of a hub: {why}"));
        let info: Info = serde_json::from_slice(&text).map_err(|error| strange(error.to_string()))?;
        // It becomes the name of a folder.
        let is_commit =
            |sha: &String| (7..=64).contains(&sha.len()) && sha.bytes().all(|b| b.is_ascii_hexdigit());
        let version = info.sha.filter(is_commit).ok_or_else(|| strange("it names no commit".to_owned()))?;
        Ok(Survey { version, files: info.siblings.into_iter().map(remote_file).collect() })
    }

    async fn read(&self, version: &str, file: &RemoteFile, offset: u64) -> Result<Reading, Error> {
        let path = self.repository.split('/').chain(["resolve", version]).chain(file.name.split('/'));
        let what = format!("fetch {} of {}", file.name, self.repository);
        let request = self.get(self.url(path));
        let request = if offset == 0 { request } else { request.header(RANGE, format!("bytes={offset}-")) };
        let response = self.send(request, &what).await?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE && offset > 0 {
            return self.read(version, file, 0).await;
        }
        if !response.status().is_success() {
            return Err(self.refusal(&response, &what));
        }
        let offset =
            if response.status() == StatusCode::PARTIAL_CONTENT { first_byte(&response) } else { Some(0) };
        let offset = offset
            .ok_or_else(|| Error::Unreachable(format!("{what}: the hub sends an unknown part of it")))?;
        let chunks = stream::unfold((response, what), |(mut response, what)| async move {
            match response.chunk().await {
                Ok(chunk) => chunk.map(|chunk| (Ok(chunk), (response, what))),
                Err(error) => Some((Err(unreachable(&what, &error)), (response, what))),
            }
        });
        Ok(Reading { offset, chunks: chunks.boxed() })
    }
}

fn remote_file(sibling: Sibling) -> RemoteFile {
    let Sibling { rfilename, size, lfs } = sibling;
    let (sha256, in_lfs) = lfs.map_or((None, None), |lfs| (lfs.sha256, lfs.size));
    let sha256 = sha256.map(|text| text.to_ascii_lowercase());
    RemoteFile { name: rfilename, bytes: in_lfs.or(size), sha256, stamp: None }
}

/// Of `bytes 100-199/200`.
fn first_byte(response: &Response) -> Option<u64> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

fn client() -> reqwest::Result<Client> {
    choose_tls();
    let agent = concat!("sanafarm/", env!("CARGO_PKG_VERSION"));
    Client::builder().user_agent(agent).connect_timeout(CONNECT).read_timeout(SILENCE).build()
}

/// With all causes, and without the address: what it redirects to may be signed.
fn unreachable(what: &str, error: &reqwest::Error) -> Error {
    let mut text = String::new();
    let mut next: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = if text.is_empty() { cause_text } else { format!("{text}: {cause_text}") };
        }
        next = cause.source();
    }
    if text.is_empty() {
        text = if error.is_timeout() {
            "no answer in time".to_owned()
        } else {
            "the connection broke".to_owned()
        };
    }
    Error::Unreachable(format!("{what}: {text}"))
}

/// An endpoint for people: without a password.
fn shown(endpoint: &Url) -> String {
    let mut url = endpoint.clone();
    // Refused only by addresses that cannot have one.
    let _ = url.set_password(None);
    let _ = url.set_username("");
    url.as_str().trim_end_matches('/').to_owned()
}

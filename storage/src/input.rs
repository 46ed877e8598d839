//! One object to read, named by a URL.

use std::sync::{Arc, Once};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{ClientConfigKey, ObjectStore, ObjectStoreExt, RetryConfig};
use url::Url;

use crate::Error;

/// Tries in vain, over the whole reading of an object.
const RETRIES: usize = 6;
/// A large object takes long: its last byte is tried for as often as its first.
const RETRY_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// Longest error of a server that is told, in characters.
const MAX_ERROR: usize = 500;

/// How connections behave. A request has no time limit, as an object may be of any size; silence has one.
const CLIENT: [(ClientConfigKey, &str); 3] = [
    (ClientConfigKey::Timeout, "1day"),
    (ClientConfigKey::ReadTimeout, "60s"),
    (ClientConfigKey::ConnectTimeout, "10s"),
];

/// The kinds of URLs that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    File,
    S3,
    Gcs,
    Azure,
    Http,
}

impl Scheme {
    pub(crate) fn of(url: &Url) -> Option<Self> {
        match url.scheme() {
            "file" => Some(Self::File),
            "s3" | "s3a" => Some(Self::S3),
            "gs" => Some(Self::Gcs),
            "az" | "azure" | "adl" | "abfs" | "abfss" => Some(Self::Azure),
            "http" | "https" => Some(Self::Http),
            _ => None,
        }
    }
}

/// An object to read.
#[derive(Clone, Debug)]
pub struct Input {
    url: Url,
    path: ObjectPath,
    scheme: Scheme,
    /// The URL for people: without a password or a signature.
    place: String,
    file_name: String,
    /// What errors of the store may repeat and nobody should read.
    secret: Option<String>,
}

/// An object on its way.
pub struct Reading {
    input: Input,
    chunks: BoxStream<'static, object_store::Result<Bytes>>,
}

impl Input {
    /// Takes `s3://`, `gs://`, `az://`, `https://`, `http://` and `file://`; credentials come from the usual
    /// environment variables of each. Asks nobody anything yet.
    pub fn open(text: &str) -> Result<Self, Error> {
        let url = Url::parse(text).map_err(|error| Error::Invalid(format!("not a URL: {error}")))?;
        let scheme = Scheme::of(&url).ok_or_else(|| {
            let known = "s3, gs, az, https, http and file";
            Error::Invalid(format!("URLs of `{}` cannot be read; those of {known} can", url.scheme()))
        })?;
        let file_name = percent_decoded(url.path().rsplit('/').next().unwrap_or_default());
        if file_name.is_empty() {
            return Err(Error::Invalid("the URL names no object".to_owned()));
        }
        let path = match scheme {
            // The whole URL is kept, with its query: it may be signed.
            Scheme::Http => ObjectPath::default(),
            Scheme::File | Scheme::S3 | Scheme::Gcs | Scheme::Azure => ObjectPath::from_url_path(url.path())
                .map_err(|error| Error::Invalid(format!("the URL names no object: {error}")))?,
        };
        let (place, secret) = for_people(url.clone());
        Ok(Self { url, path, scheme, place, file_name, secret })
    }

    /// The URL, without a password or a signature in it.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The last part of the object's name.
    pub fn file_name(&self) -> &str {
        &self.file_name
    }

    /// Asks for the object. A connection that breaks is taken up again where it broke, when the server can.
    pub async fn read(&self) -> Result<Reading, Error> {
        let store = open_store(self.scheme, &self.url).map_err(|error| self.error(&error))?;
        let got = store.get(&self.path).await.map_err(|error| self.error(&error))?;
        Ok(Reading { input: self.clone(), chunks: got.into_stream() })
    }

    /// On one line, as servers answer in documents, and without secrets.
    fn error(&self, error: &object_store::Error) -> Error {
        let error = Error::from_store(&format!("read {}", self.place), error);
        error.map(|text| {
            let text = match &self.secret {
                Some(secret) if !secret.is_empty() => text.replace(secret, "..."),
                Some(_) | None => text,
            };
            let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
            let end = line.char_indices().nth(MAX_ERROR).map_or(line.len(), |(at, _)| at);
            if end < line.len() { format!("{}...", &line[..end]) } else { line }
        })
    }

    /// What to try when it could not be read.
    pub fn advice(&self) -> &'static str {
        match self.scheme {
            Scheme::File => "check that the file is there and can be read",
            Scheme::Http => "check the URL, and that this machine may read it",
            Scheme::S3 => {
                "check bucket, key and region; credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the \
                 region from AWS_REGION, a server of your own from AWS_ENDPOINT_URL (with AWS_ALLOW_HTTP=true for \
                 http); for a public bucket set AWS_SKIP_SIGNATURE=true"
            }
            Scheme::Gcs => {
                "check bucket and name; credentials come from GOOGLE_APPLICATION_CREDENTIALS or GOOGLE_SERVICE_ACCOUNT, \
                 for a public bucket set GOOGLE_SKIP_SIGNATURE=true"
            }
            Scheme::Azure => {
                "check container and name; the account comes from AZURE_STORAGE_ACCOUNT_NAME, credentials from \
                 AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_KEY"
            }
        }
    }
}

impl Reading {
    /// The next bytes; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        self.chunks.next().await.transpose().map_err(|error| self.input.error(&error))
    }
}

fn open_store(scheme: Scheme, url: &Url) -> object_store::Result<Arc<dyn ObjectStore>> {
    choose_tls();
    let retry = RetryConfig { max_retries: RETRIES, retry_timeout: RETRY_FOR, ..RetryConfig::default() };
    Ok(match scheme {
        Scheme::File => Arc::new(LocalFileSystem::new()),
        Scheme::S3 => {
            let builder = AmazonS3Builder::from_env().with_url(url.as_str()).with_retry(retry);
            let builder = CLIENT.into_iter().fold(builder, |builder, (key, value)| {
                builder.with_config(AmazonS3ConfigKey::Client(key), value)
            });
            Arc::new(builder.build()?)
        }
        Scheme::Gcs => {
            let builder = GoogleCloudStorageBuilder::from_env().with_url(url.as_str()).with_retry(retry);
            let builder = CLIENT.into_iter().fold(builder, |builder, (key, value)| {
                builder.with_config(GoogleConfigKey::Client(key), value)
            });
            Arc::new(builder.build()?)
        }
        Scheme::Azure => {
            let builder = MicrosoftAzureBuilder::from_env().with_url(url.as_str()).with_retry(retry);
            let builder = CLIENT.into_iter().fold(builder, |builder, (key, value)| {
                builder.with_config(AzureConfigKey::Client(key), value)
            });
            Arc::new(builder.build()?)
        }
        Scheme::Http => {
            let builder = HttpBuilder::new().with_url(url.as_str()).with_retry(retry);
            let builder = builder.with_config(ClientConfigKey::AllowHttp, "true");
            let builder =
                CLIENT.into_iter().fold(builder, |builder, (key, value)| builder.with_config(key, value));
            Arc::new(builder.build()?)
        }
    })
}

/// The HTTP client is built for any TLS provider and picks none by itself.
fn choose_tls() {
    static CHOSEN: Once = Once::new();
    CHOSEN.call_once(|| {
        // Refused only when the program has chosen already.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// The URL as it may be shown, and the part of it that may not.
fn for_people(mut url: Url) -> (String, Option<String>) {
    let secret = url.query().map(str::to_owned);
    url.set_query(None);
    // Refused only by URLs that cannot have a password.
    let _ = url.set_password(None);
    (url.to_string(), secret)
}

/// What stands for a slash or a parent folder in a name stays as it is written.
fn percent_decoded(name: &str) -> String {
    match ObjectPath::from_url_path(name) {
        Ok(path) if !path.as_ref().contains('/') => path.as_ref().to_owned(),
        Ok(_) | Err(_) => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_its_secrets() {
        let input = Input::open("https://me:word@host/a/list%20one.csv.gz?X-Amz-Signature=abc").unwrap();
        assert_eq!(input.place(), "https://me@host/a/list%20one.csv.gz");
        assert_eq!(input.file_name(), "list one.csv.gz");
        assert_eq!(input.secret.as_deref(), Some("X-Amz-Signature=abc"));
        // A name is never a path.
        assert_eq!(Input::open("s3://bucket/a/b%2Fc.csv").unwrap().file_name(), "b%2Fc.csv");
        assert_eq!(
            Input::open("s3://bucket/%2E%2E%2Fc.csv").map(|input| input.file_name().to_owned()).ok(),
            None
        );
    }

    #[test]
    fn what_cannot_be_read_is_refused_at_once() {
        let refused = |url| Input::open(url).unwrap_err().to_string();
        assert_eq!(
            refused("ftp://host/a.csv"),
            "URLs of `ftp` cannot be read; those of s3, gs, az, https, http and file can"
        );
        assert_eq!(refused("s3://bucket/"), "the URL names no object");
        assert_eq!(refused("://a"), "not a URL: relative URL without a base");
    }

    #[tokio::test]
    async fn a_file_is_read_in_order_and_a_missing_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("my list.txt");
        let content: Vec<u8> = (0..3_000_000u32).map(|at| (at % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let url = Url::from_file_path(&path).unwrap();
        let mut reading = Input::open(url.as_str()).unwrap().read().await.unwrap();
        let mut read = Vec::new();
        while let Some(chunk) = reading.next().await.unwrap() {
            read.extend_from_slice(&chunk);
        }
        assert!(read == content);
        std::fs::remove_file(&path).unwrap();
        let missing = Input::open(url.as_str()).unwrap().read().await.err().unwrap();
        assert!(matches!(missing, Error::NotFound(_)), "{missing:?}");
        assert!(missing.to_string().starts_with(&format!("read {url}: ")), "{missing}");
    }
}

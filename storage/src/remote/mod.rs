//! Object stores and web servers.

use std::fmt;
use std::sync::{Arc, Mutex, Once, PoisonError, Weak};
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::signer::Signer;
use object_store::{BackoffConfig, ClientConfigKey, ObjectStore, RetryConfig};
use url::Url;

use crate::Patience;

mod answer;
mod client;
mod place;
mod throttle;

pub(crate) use answer::{Answer, Failure, cause};
pub(crate) use place::{for_people, hide};
pub(crate) use throttle::{Throttle, retry_after};

/// A large object takes long: its last byte is tried for as often as its first.
const RETRY_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// The kinds of URLs that are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

    /// What the names of its settings in the environment begin with.
    fn prefixes(self) -> &'static [&'static str] {
        match self {
            Self::File | Self::Http => &[],
            Self::S3 => &["AWS_"],
            Self::Gcs => &["GOOGLE_", "SERVICE_ACCOUNT"],
            Self::Azure => &["AZURE_", "MSI_ENDPOINT"],
        }
    }
}

/// How object stores are reached, beyond what the environment says.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Settings {
    /// Such as `AWS_ENDPOINT_URL` and `http://127.0.0.1:9000`; they win over the environment.
    pub options: Vec<(String, String)>,
    /// How long servers are waited for.
    pub patience: Patience,
}

impl fmt::Debug for Settings {
    /// Without the values, of which some are secret.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.options.iter().map(|(name, _)| name.as_str()).collect();
        formatter.debug_struct("Settings").field("options", &names).field("patience", &self.patience).finish()
    }
}

/// A bucket, a container or a web server. All who use it share its connections.
#[derive(Debug)]
pub(crate) struct Remote {
    pub(crate) store: Arc<dyn ObjectStore>,
    /// What signs URLs, where anything does.
    pub(crate) signer: Option<Arc<dyn Signer>>,
}

/// What makes two stores the same.
#[derive(PartialEq, Eq)]
struct Key {
    scheme: Scheme,
    bucket: String,
    environment: Vec<(String, String)>,
    settings: Settings,
}

/// The stores that somebody holds.
static OPEN: Mutex<Vec<(Key, Weak<Remote>)>> = Mutex::new(Vec::new());

impl Remote {
    /// The one that a URL names; credentials come from the environment. Asks nobody anything yet.
    pub(crate) fn open(scheme: Scheme, url: &Url, settings: &Settings) -> object_store::Result<Arc<Self>> {
        choose_tls();
        let bucket = match scheme {
            Scheme::S3 | Scheme::Gcs | Scheme::Azure => url[..url::Position::BeforePath].to_owned(),
            // The whole URL is the place, with its query: it may be signed.
            Scheme::File | Scheme::Http => return Self::build(scheme, url.as_str(), settings).map(Arc::new),
        };
        let mut environment: Vec<(String, String)> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| scheme.prefixes().iter().any(|prefix| name.starts_with(prefix)))
            .collect();
        environment.sort();
        let key = Key { scheme, bucket, environment, settings: settings.clone() };
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(_, remote)| remote.strong_count() > 0);
        let there = open.iter().find(|(other, _)| *other == key).and_then(|(_, remote)| remote.upgrade());
        if let Some(there) = there {
            return Ok(there);
        }
        let remote = Arc::new(Self::build(scheme, url.as_str(), settings)?);
        open.push((key, Arc::downgrade(&remote)));
        Ok(remote)
    }

    fn build(scheme: Scheme, url: &str, settings: &Settings) -> object_store::Result<Self> {
        let retry = retry(&settings.patience);
        let client = client_settings(&settings.patience);
        let connector = |region| client::Connector::new(&settings.patience, region);
        match scheme {
            Scheme::File => Ok(Self { store: Arc::new(LocalFileSystem::new()), signer: None }),
            Scheme::S3 => {
                let mut builder = AmazonS3Builder::from_env().with_url(url).with_retry(retry);
                for (key, value) in client {
                    builder = builder.with_config(AmazonS3ConfigKey::Client(key), value);
                }
                for (name, value) in &settings.options {
                    builder = builder.with_config(name.to_ascii_lowercase().parse()?, value);
                }
                // One object is deleted at a time, and not all S3 servers know how to delete many.
                builder = builder.with_disable_bulk_delete(true);
                for (key, value) in [
                    (AmazonS3ConfigKey::Checksum, "sha256"),
                    (AmazonS3ConfigKey::CopyIfNotExists, "multipart"),
                ] {
                    if builder.get_config_value(&key).is_none() {
                        builder = builder.with_config(key, value);
                    }
                }
                let region = builder.get_config_value(&AmazonS3ConfigKey::Region);
                Ok(Self::signing(builder.with_http_connector(connector(region)).build()?))
            }
            Scheme::Gcs => {
                let mut builder = GoogleCloudStorageBuilder::from_env().with_url(url).with_retry(retry);
                for (key, value) in client {
                    builder = builder.with_config(GoogleConfigKey::Client(key), value);
                }
                for (name, value) in &settings.options {
                    builder = builder.with_config(name.to_ascii_lowercase().parse()?, value);
                }
                Ok(Self::signing(builder.with_http_connector(connector(None)).build()?))
            }
            Scheme::Azure => {
                let mut builder = MicrosoftAzureBuilder::from_env().with_url(url).with_retry(retry);
                for (key, value) in client {
                    builder = builder.with_config(AzureConfigKey::Client(key), value);
                }
                for (name, value) in &settings.options {
                    builder = builder.with_config(name.to_ascii_lowercase().parse()?, value);
                }
                Ok(Self::signing(builder.with_http_connector(connector(None)).build()?))
            }
            Scheme::Http => {
                let mut builder = HttpBuilder::new().with_url(url).with_retry(retry);
                for (key, value) in client {
                    builder = builder.with_config(key, value);
                }
                let builder = builder.with_config(ClientConfigKey::AllowHttp, "true");
                let store = builder.with_http_connector(connector(None)).build()?;
                Ok(Self { store: Arc::new(store), signer: None })
            }
        }
    }

    fn signing<T: ObjectStore + Signer>(store: T) -> Self {
        let store = Arc::new(store);
        Self { store: store.clone(), signer: Some(store) }
    }
}

fn retry(patience: &Patience) -> RetryConfig {
    let backoff =
        BackoffConfig { init_backoff: patience.first_wait, max_backoff: patience.longest_wait, base: 2.0 };
    RetryConfig { backoff, max_retries: patience.retries, retry_timeout: RETRY_FOR }
}

/// How connections behave. A request has no time limit of its own, as an object may be of any size: slowness has one (see
/// [`client`]).
fn client_settings(patience: &Patience) -> [(ClientConfigKey, String); 2] {
    let time = |time: Duration| format!("{}ms", time.as_millis());
    [(ClientConfigKey::Timeout, time(RETRY_FOR)), (ClientConfigKey::ConnectTimeout, time(patience.connect))]
}

/// Chooses this process's TLS, unless that has been done. HTTP clients are built for any provider and pick none by
/// themselves: whoever builds one calls this first.
pub fn choose_tls() {
    static CHOSEN: Once = Once::new();
    CHOSEN.call_once(|| {
        // Refused only when the program has chosen already.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s3(url: &str, endpoint: &str) -> Arc<Remote> {
        let options = vec![("AWS_ENDPOINT_URL".to_owned(), endpoint.to_owned())];
        let settings = Settings { options, patience: Patience::default() };
        Remote::open(Scheme::S3, &Url::parse(url).unwrap(), &settings).unwrap()
    }

    #[test]
    fn one_bucket_has_one_client_for_all_its_prefixes() {
        let first = s3("s3://bucket/a", "http://127.0.0.1:1");
        assert!(Arc::ptr_eq(&first, &s3("s3://bucket/b/c", "http://127.0.0.1:1")));
        assert!(!Arc::ptr_eq(&first, &s3("s3://other/a", "http://127.0.0.1:1")));
        assert!(!Arc::ptr_eq(&first, &s3("s3://bucket/a", "http://127.0.0.1:2")));
    }

    #[test]
    fn settings_are_shown_without_their_values() {
        let options = vec![("AWS_SECRET_ACCESS_KEY".to_owned(), "hush".to_owned())];
        let shown = format!("{:?}", Settings { options, patience: Patience::default() });
        assert!(shown.contains("AWS_SECRET_ACCESS_KEY") && !shown.contains("hush"), "{shown}");
    }
}

//! A channel to a coordinator.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use http::HeaderValue;
use http::header::AUTHORIZATION;
use tonic::body::Body;
use tonic::transport::channel::ResponseFuture;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use tower::Service;

use crate::{Error, Secret};

/// How often a file with a token is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// How a client proves who it is, and whom it believes.
#[derive(Clone, Debug, Default)]
pub struct ClientSettings {
    /// The coordinator's certificate is verified with this one instead of those of the system.
    pub ca: Option<PathBuf>,
    /// Its own certificate, as PEM.
    pub cert: Option<PathBuf>,
    /// And the key of that.
    pub key: Option<PathBuf>,
    /// What it sends with every call.
    pub token: Option<TokenSource>,
}

/// Where a token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// Here.
    Text(Secret),
    /// In a file, which may be replaced at any time.
    File(PathBuf),
}

impl ClientSettings {
    /// Whether it says who it is.
    pub fn is_somebody(&self) -> bool {
        self.token.is_some() || self.cert.is_some()
    }

    /// Connects when the channel is first used, and again whenever it must.
    pub async fn connect_lazy(&self, address: &str) -> Result<Channel, Error> {
        let endpoint = self.endpoint(address).await?;
        self.channel(endpoint.connect_lazy()).await
    }

    /// Connects now.
    pub async fn connect(&self, address: &str) -> Result<Channel, Error> {
        let channel = self.endpoint(address).await?.connect().await?;
        self.channel(channel).await
    }

    async fn channel(&self, inner: tonic::transport::Channel) -> Result<Channel, Error> {
        let Some(source) = &self.token else { return Ok(Channel::from(inner)) };
        let header = match source {
            TokenSource::Text(token) => header(token.expose(), "the token")?,
            TokenSource::File(file) => read_header(file).await?,
        };
        let authorization = Arc::new(RwLock::new(header));
        if let TokenSource::File(file) = source {
            tokio::spawn(follow(file.clone(), Arc::downgrade(&authorization)));
        }
        Ok(Channel { inner, authorization: Some(authorization) })
    }

    /// The endpoint of an address such as `127.0.0.1:7070` or `https://farm.example:7070`. One without a scheme is one
    /// of TLS when a certificate was named.
    pub async fn endpoint(&self, address: &str) -> Result<Endpoint, Error> {
        let wrong = || Error::Address(address.to_owned());
        let secure = match address.split_once("://") {
            Some(("https", _)) => true,
            Some(("http", _)) => false,
            Some(_) => return Err(wrong()),
            None => self.ca.is_some() || self.cert.is_some(),
        };
        let explicit = address.contains("://");
        let authority = address.split_once("://").map_or(address, |(_, rest)| rest).trim_end_matches('/');
        let Some((host, port)) = authority.rsplit_once(':') else { return Err(wrong()) };
        if host.is_empty() || port.parse::<u16>().is_err() {
            return Err(wrong());
        }
        if self.token.is_some() && !secure && !explicit && !is_loopback(host) {
            return Err(Error::Clear(authority.to_owned()));
        }
        let scheme = if secure { "https" } else { "http" };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{authority}")).map_err(|_| wrong())?;
        let endpoint = if secure { endpoint.tls_config(self.tls().await?)? } else { endpoint };
        // A cut network is noticed although no call is answered with an error.
        Ok(endpoint
            .connect_timeout(Duration::from_secs(10))
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(20))
            .keep_alive_while_idle(true)
            .tcp_nodelay(true))
    }

    async fn tls(&self) -> Result<ClientTlsConfig, Error> {
        crate::install_crypto();
        let tls = ClientTlsConfig::new();
        let tls = match &self.ca {
            Some(ca) => tls.ca_certificate(Certificate::from_pem(read(ca).await?)),
            None => tls.with_native_roots(),
        };
        Ok(match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => tls.identity(Identity::from_pem(read(cert).await?, read(key).await?)),
            (None, None) => tls,
            (Some(_), None) | (None, Some(_)) => return Err(Error::HalfCertificate),
        })
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

async fn read(file: &Path) -> Result<Vec<u8>, Error> {
    tokio::fs::read(file).await.map_err(|source| Error::Read { file: file.display().to_string(), source })
}

/// What is wrong with a token is told without the token.
fn header(token: &str, place: &str) -> Result<HeaderValue, Error> {
    let wrong = |reason: &str| Error::File { file: place.to_owned(), reason: reason.to_owned() };
    let token = token.trim();
    if token.is_empty() {
        return Err(wrong("there is no token"));
    }
    let mut value = HeaderValue::try_from(format!("Bearer {token}"))
        .map_err(|_| wrong("a token is one line of plain letters"))?;
    value.set_sensitive(true);
    Ok(value)
}

async fn read_header(file: &Path) -> Result<HeaderValue, Error> {
    let text = String::from_utf8_lossy(&read(file).await?).into_owned();
    header(&text, &file.display().to_string())
}

/// Takes up what the file holds, until nobody uses it any more. What cannot be used is passed over: it may be half
/// written.
async fn follow(file: PathBuf, authorization: Weak<RwLock<HeaderValue>>) {
    let mut is_told = false;
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(current) = authorization.upgrade() else { return };
        match read_header(&file).await {
            Ok(news) => {
                is_told = false;
                let mut known = current.write().unwrap_or_else(PoisonError::into_inner);
                if *known != news {
                    *known = news;
                    tracing::info!(file = %file.display(), "took up another token");
                }
            }
            Err(_) if is_told => {}
            Err(error) => {
                is_told = true;
                tracing::warn!(%error, "the token is not read again: the one before is shown for as long as it is good");
            }
        }
    }
}

/// A channel for the generated clients, which sends a token with every call if there is one. Cheap to clone.
#[derive(Clone)]
pub struct Channel {
    inner: tonic::transport::Channel,
    authorization: Option<Arc<RwLock<HeaderValue>>>,
}

/// Nothing of the token.
impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel").field("inner", &self.inner).finish_non_exhaustive()
    }
}

/// Without a token.
impl From<tonic::transport::Channel> for Channel {
    fn from(inner: tonic::transport::Channel) -> Self {
        Self { inner, authorization: None }
    }
}

impl Service<http::Request<Body>> for Channel {
    type Response = http::Response<Body>;
    type Error = tonic::transport::Error;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        if let Some(authorization) = &self.authorization {
            let header = authorization.read().unwrap_or_else(PoisonError::into_inner).clone();
            request.headers_mut().insert(AUTHORIZATION, header);
        }
        self.inner.call(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_token() -> ClientSettings {
        ClientSettings {
            token: Some(TokenSource::Text("geheim".to_owned().into())),
            ..ClientSettings::default()
        }
    }

    #[tokio::test]
    async fn an_address_is_a_host_and_a_port() {
        let settings = ClientSettings::default();
        for good in ["127.0.0.1:7070", "http://farm.local:80", "[::1]:7070", "https://farm:1"] {
            assert!(settings.endpoint(good).await.is_ok(), "{good}");
        }
        for bad in ["farm", ":7070", "farm:port", "ftp://farm:1", "a b:1"] {
            assert!(settings.endpoint(bad).await.is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_token_crosses_no_network_in_the_clear_unless_that_is_said() {
        for good in ["127.0.0.1:1", "localhost:1", "[::1]:1", "https://farm:1", "http://farm:1"] {
            assert!(with_token().endpoint(good).await.is_ok(), "{good}");
        }
        let refused = with_token().endpoint("farm:1").await.unwrap_err();
        assert!(matches!(refused, Error::Clear(_)), "{refused}");
        assert!(!format!("{refused} {:?}", with_token()).contains("geheim"));
    }

    #[test]
    fn what_is_wrong_with_a_token_is_told_without_it() {
        let refused = header("geheim\nzwei", "token.txt").unwrap_err().to_string();
        assert!(refused.contains("token.txt") && !refused.contains("geheim"), "{refused}");
        assert_eq!(header(" sf_a_b\n", "").unwrap().to_str().unwrap(), "Bearer sf_a_b");
    }
}

//! The certificate of a server, read again when its files change.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio_util::sync::CancellationToken;

use crate::Error;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Where the certificate of a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Its chain, as PEM, its own first.
    pub cert: PathBuf,
    /// Its key, as PEM.
    pub key: PathBuf,
    /// Certificates of clients are verified with this one; a client need not have one.
    pub client_ca: Option<PathBuf>,
}

/// What a server shows at each handshake.
#[derive(Debug)]
pub struct ServerTls {
    files: TlsFiles,
    alpn: Vec<Vec<u8>>,
    current: RwLock<Arc<ServerConfig>>,
    /// The bytes that `current` was made of.
    loaded: RwLock<Vec<Vec<u8>>>,
}

impl ServerTls {
    /// Reads the files, for a server of HTTP/2.
    pub async fn load(files: TlsFiles) -> Result<Self, Error> {
        Self::load_for(files, vec![b"h2".to_vec()]).await
    }

    /// Reads the files, for a server of these protocols, such as `h2` and `http/1.1`.
    pub async fn load_for(files: TlsFiles, alpn: Vec<Vec<u8>>) -> Result<Self, Error> {
        let bytes = read(&files).await?;
        let current = RwLock::new(Arc::new(config(&files, &alpn, &bytes)?));
        Ok(Self { files, alpn, current, loaded: RwLock::new(bytes) })
    }

    /// For the next handshake.
    pub fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks at the files until `stop`. What does not hold together is logged, and what was there before stays.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut refused = Vec::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            let bytes = match read(&self.files).await {
                Ok(bytes) => bytes,
                Err(error) => {
                    // Once for each time that they are gone.
                    if !refused.is_empty() || self.is_news(&refused) {
                        tracing::warn!(%error, "read the certificate again; the one before stays");
                        refused.clear();
                    }
                    continue;
                }
            };
            if bytes == refused || !self.is_news(&bytes) {
                continue;
            }
            match config(&self.files, &self.alpn, &bytes) {
                Ok(config) => {
                    *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
                    *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = bytes;
                    refused.clear();
                    tracing::info!(cert = %self.files.cert.display(), "certificate read again");
                }
                Err(error) => {
                    tracing::warn!(%error, "the new certificate is not usable; the one before stays");
                    refused = bytes;
                }
            }
        }
    }

    fn is_news(&self, bytes: &[Vec<u8>]) -> bool {
        *self.loaded.read().unwrap_or_else(PoisonError::into_inner) != bytes
    }
}

async fn read(files: &TlsFiles) -> Result<Vec<Vec<u8>>, Error> {
    let mut bytes = Vec::new();
    for file in [Some(&files.cert), Some(&files.key), files.client_ca.as_ref()].into_iter().flatten() {
        let read = tokio::fs::read(file).await;
        bytes.push(read.map_err(|source| Error::Read { file: file.display().to_string(), source })?);
    }
    Ok(bytes)
}

fn config(files: &TlsFiles, alpn: &[Vec<u8>], bytes: &[Vec<u8>]) -> Result<ServerConfig, Error> {
    let chain = certificates(&files.cert, &bytes[0])?;
    let key = PrivateKeyDer::from_pem_slice(&bytes[1])
        .map_err(|error| wrong(&files.key, format!("no private key in PEM: {error}")))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match (&files.client_ca, bytes.get(2)) {
        (Some(file), Some(bytes)) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(file, bytes)? {
                roots.add(certificate)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                // A token does as well.
                .allow_unauthenticated()
                .build()
                .map_err(|error| wrong(file, error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
        _ => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key)?;
    config.alpn_protocols = alpn.to_vec();
    Ok(config)
}

fn certificates(file: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(wrong(file, "no certificate in PEM".to_owned())),
        Err(error) => Err(wrong(file, format!("no certificate in PEM: {error}"))),
    }
}

fn wrong(file: &Path, reason: String) -> Error {
    Error::File { file: file.display().to_string(), reason }
}

//! The wire between Sanafarm's processes.
//!
//! - [`server`]: connections with TLS whose certificate is read again without a restart
//! - [`client`]: a channel to a coordinator, with TLS and a token
//! - [`peer`]: who is at the other end of a connection
//! - [`secret`]: text that is not told

pub mod client;
pub mod peer;
pub mod secret;
pub mod server;

pub use client::{Channel, ClientSettings, TokenSource};
pub use peer::{CertificateName, Peer, network};
pub use secret::Secret;
pub use server::{Connection, Listener, ServerTls, TlsFiles};

/// Why a connection cannot be made or served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is none.
    #[error("`{0}` is no address of a coordinator; write host:port or https://host:port")]
    Address(String),
    /// A token would be sent for everybody to read.
    #[error(
        "the token would cross the network in the clear to {0}; write https://{0}, or http://{0} on a network that you trust"
    )]
    Clear(String),
    /// A file cannot be read.
    #[error("read {file}: {source}")]
    Read {
        /// Which.
        file: String,
        /// Why not.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{file}: {reason}")]
    File {
        /// Which.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A certificate and its key belong together.
    #[error("a client certificate needs both --cert and --key")]
    HalfCertificate,
    /// The settings of TLS do not hold together.
    #[error("set up tls: {0}")]
    Tls(#[from] rustls::Error),
    /// The transport refused its settings.
    #[error("set up the connection: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// Installs the one provider of cryptography of this program. More than once is as well as once.
pub fn install_crypto() {
    // An error only says that it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

//! Who a command is to a coordinator, and whom a coordinator serves.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use sanafarm_coordinator::{AuthMode, Limits};
use sanafarm_net::{ClientSettings, Secret, TlsFiles, TokenSource};

use crate::connect::Place;

/// How a command proves to a coordinator who it is.
#[derive(Clone, Debug, Default, Args)]
pub struct AccessArgs {
    /// Token for the coordinator; others on this machine see it here: a file is safer [env: SANAFARM_TOKEN=]
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file")]
    pub token: Option<Secret>,
    /// File with the token; a worker takes up another one that is put there [env: SANAFARM_TOKEN_FILE=]
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Verify the coordinator with this CA instead of the system's, as PEM [env: SANAFARM_CA=]
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Client certificate, as PEM [env: SANAFARM_CERT=]
    #[arg(long, value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// Its key, as PEM [env: SANAFARM_KEY=]
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
}

impl From<AccessArgs> for ClientSettings {
    fn from(args: AccessArgs) -> Self {
        let token = match (args.token, args.token_file) {
            (Some(token), _) => Some(TokenSource::Text(token)),
            (None, file) => file.map(TokenSource::File),
        };
        Self { ca: args.ca, cert: args.cert, key: args.key, token }
    }
}

/// Where the jobs are.
#[derive(Clone, Debug, Args)]
pub struct PlaceArgs {
    /// Address of a coordinator [env: SANAFARM_COORDINATOR=]
    #[arg(long, value_name = "ADDR", conflicts_with = "data")]
    pub coordinator: Option<String>,
    /// Without a coordinator, folder of the database [env: SANAFARM_DATA=] [default: .sanafarm]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Who asks.
    #[command(flatten)]
    pub access: AccessArgs,
}

impl From<PlaceArgs> for Place {
    fn from(args: PlaceArgs) -> Self {
        Self { coordinator: args.coordinator, data: args.data, access: args.access.into() }
    }
}

/// Whom a coordinator serves, and how.
#[derive(Clone, Debug, Args)]
pub struct ServingArgs {
    /// Its certificate with the chain, as PEM; read again when it changes [env: SANAFARM_TLS_CERT=]
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// The key of that, as PEM [env: SANAFARM_TLS_KEY=]
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Let in workers and readers with certificates of this CA; their subject says CN=name, OU=role [env: SANAFARM_CLIENT_CA=]
    #[arg(long, value_name = "FILE")]
    pub client_ca: Option<PathBuf>,
    /// Whom to serve [default: open on loopback, tokens beyond] [env: SANAFARM_AUTH=]
    #[arg(long, value_name = "MODE", value_enum)]
    pub auth: Option<AuthName>,
    /// Serve other machines without TLS or without tokens: whoever is on the network reads along, or may everything
    #[arg(long)]
    pub insecure: bool,
    /// Longest prompt list of a job, in rows
    #[arg(long, value_name = "N", default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub max_prompts: u64,
    /// Calls of one token at the same time; worker tokens may have 32 times as many
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub token_calls: u32,
    /// Calls of one token in a second; worker tokens may have 32 times as many
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub token_rate: u32,
}

impl ServingArgs {
    /// Where its certificate is. None when there is none, an error when there is a half of one.
    pub fn tls_files(&self) -> Result<Option<TlsFiles>, &'static str> {
        let client_ca = self.client_ca.clone();
        match (self.tls_cert.clone(), self.tls_key.clone()) {
            (Some(cert), Some(key)) => Ok(Some(TlsFiles { cert, key, client_ca })),
            (None, None) if client_ca.is_some() => Err("--client-ca needs --tls-cert and --tls-key"),
            (None, None) => Ok(None),
            (Some(_), None) => Err("--tls-cert needs --tls-key"),
            (None, Some(_)) => Err("--tls-key needs --tls-cert"),
        }
    }

    /// How much of it.
    pub fn limits(&self) -> Limits {
        Limits { calls: self.token_calls, calls_per_second: self.token_rate, ..Limits::default() }
    }
}

/// `--auth`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AuthName {
    /// Who shows a token, or a certificate of the client CA
    Tokens,
    /// Everybody who reaches it
    Open,
}

impl From<AuthName> for AuthMode {
    fn from(name: AuthName) -> Self {
        match name {
            AuthName::Tokens => Self::Tokens,
            AuthName::Open => Self::Open,
        }
    }
}

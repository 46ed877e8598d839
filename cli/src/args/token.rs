//! Tokens and certificates.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use sanafarm_proto::v1::Role;

use super::{AccessArgs, values};

/// `token`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// What to do.
    #[command(subcommand)]
    pub verb: TokenVerb,
}

/// The verbs of `token`.
#[derive(Debug, Subcommand)]
pub enum TokenVerb {
    /// Make a token and print it; it is never told again
    Create(TokenCreateArgs),
    /// List tokens, newest first
    List(TokenListArgs),
    /// End a token for ever; calls that run with it are cut within seconds
    Revoke(TokenRevokeArgs),
    /// Give a token another secret and print it
    Rotate(TokenRotateArgs),
    /// Certificates of a CA of your own
    #[command(subcommand)]
    Ca(CaVerb),
}

/// Where tokens are kept.
#[derive(Clone, Debug, Args)]
pub struct TokenPlaceArgs {
    /// Address of a coordinator, to be asked with an admin's token [env: SANAFARM_COORDINATOR=]
    #[arg(long, value_name = "ADDR", conflicts_with_all = ["data", "database"])]
    pub coordinator: Option<String>,
    /// Without a coordinator, folder of the database [env: SANAFARM_DATA=] [default: .sanafarm]
    #[arg(long, value_name = "DIR", conflicts_with = "database")]
    pub data: Option<PathBuf>,
    /// Without a coordinator, PostgreSQL database [env: SANAFARM_DATABASE=]
    #[arg(long, value_name = "URL")]
    pub database: Option<sanafarm_net::Secret>,
    /// Who asks.
    #[command(flatten)]
    pub access: AccessArgs,
}

/// `token create`.
#[derive(Debug, Args)]
pub struct TokenCreateArgs {
    /// For people: what or whom it is for
    pub name: String,
    /// What it may do
    #[arg(long, value_enum)]
    pub role: RoleName,
    /// Whose jobs it is about [default: the name for submit; everybody's for admin and read]
    #[arg(long, value_name = "NAME")]
    pub owner: Option<String>,
    /// The only worker that may use it [default: any]
    #[arg(long, value_name = "NAME")]
    pub worker: Option<String>,
    /// When it ends: 2027-01-31T00:00:00Z, or from now on 12h, 90d [default: never]
    #[arg(long, value_name = "TIME", value_parser = values::deadline)]
    pub expires: Option<Timestamp>,
    /// Write it to this new file, which its owner alone may read [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Where tokens are kept.
    #[command(flatten)]
    pub place: TokenPlaceArgs,
    /// One JSON object on standard output
    #[arg(long)]
    pub json: bool,
}

/// `token list`.
#[derive(Debug, Args)]
pub struct TokenListArgs {
    /// Where tokens are kept.
    #[command(flatten)]
    pub place: TokenPlaceArgs,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// `token revoke`.
#[derive(Debug, Args)]
pub struct TokenRevokeArgs {
    /// Its id, as `token list` tells it
    pub id: String,
    /// Where tokens are kept.
    #[command(flatten)]
    pub place: TokenPlaceArgs,
}

/// `token rotate`.
#[derive(Debug, Args)]
pub struct TokenRotateArgs {
    /// Its id, as `token list` tells it
    pub id: String,
    /// How long the secret before may still be used
    #[arg(long, value_name = "TIME", value_parser = values::duration, default_value = "10m")]
    pub grace: Duration,
    /// Put it into this file in the place of the one before, so that only its owner may read it [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Where tokens are kept.
    #[command(flatten)]
    pub place: TokenPlaceArgs,
    /// One JSON object on standard output
    #[arg(long)]
    pub json: bool,
}

/// `--role`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RoleName {
    /// Everything but the calls of workers
    Admin,
    /// Submit jobs, see and steer its owner's
    Submit,
    /// See its owner's jobs, or all without an owner, and change nothing
    Read,
    /// Render
    Worker,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Admin => Self::Admin,
            RoleName::Submit => Self::Submit,
            RoleName::Read => Self::Read,
            RoleName::Worker => Self::Worker,
        }
    }
}

/// The verbs of `token ca`.
#[derive(Debug, Subcommand)]
pub enum CaVerb {
    /// Make a CA: a certificate that others are signed with
    Init(CaInitArgs),
    /// Sign a certificate for a server or for a client
    Issue(CaIssueArgs),
}

/// `token ca init`.
#[derive(Debug, Args)]
pub struct CaInitArgs {
    /// Folder for ca.pem and ca.key; keep the key from everybody
    #[arg(long, value_name = "DIR", default_value = "ca")]
    pub dir: PathBuf,
    /// How it is called
    #[arg(long, value_name = "NAME", default_value = "Sanafarm CA")]
    pub name: String,
    /// Until it expires
    #[arg(long, value_name = "N", default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub days: u32,
}

/// `token ca issue`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("kind").required(true).args(["host", "role"]))]
pub struct CaIssueArgs {
    /// For a client who it is, and for a worker the name that it must have; also the name of the files
    #[arg(value_parser = values::name)]
    pub name: String,
    /// For a server: a name or an address that it is reached at; may be given again
    #[arg(long, value_name = "HOST")]
    pub host: Vec<String>,
    /// For a client: what it may do
    #[arg(long, value_enum)]
    pub role: Option<CertificateRole>,
    /// Of a reader, whose jobs it sees [default: everybody's]
    #[arg(long, value_name = "NAME", requires = "role")]
    pub owner: Option<String>,
    /// Folder of the CA
    #[arg(long, value_name = "DIR", default_value = "ca")]
    pub dir: PathBuf,
    /// Folder for NAME.pem and NAME.key [default: that of the CA]
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Put them into the place of those that are there: so they are renewed
    #[arg(long)]
    pub replace: bool,
    /// Until it expires: a certificate cannot be revoked
    #[arg(long, value_name = "N", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub days: u32,
}

/// `--role` of a certificate: one that submits or rules could not be revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CertificateRole {
    /// Render
    Worker,
    /// See jobs
    Read,
}

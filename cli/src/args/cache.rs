//! Where models are kept, and the verbs that look after them.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::values;

/// Where downloaded models are kept.
#[derive(Clone, Debug, Default, Args)]
pub struct CacheArgs {
    /// Folder of unpacked and downloaded models [default: models in the data folder]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Keep downloaded models below this size, such as 100GB; the last used stay [env: SANAFARM_CACHE_SIZE=]
    #[arg(long, value_name = "SIZE", value_parser = values::bytes)]
    pub cache_size: Option<u64>,
}

/// `models`.
#[derive(Debug, Args)]
pub struct ModelsArgs {
    /// What to do.
    #[command(subcommand)]
    pub verb: ModelsVerb,
}

/// What `models` can do.
#[derive(Debug, Subcommand)]
pub enum ModelsVerb {
    /// List the models on this machine, the last used first
    List(ModelsListArgs),
    /// Download a model, or go on with a download that was cut short
    Pull(ModelsPullArgs),
    /// Read downloaded models and compare every file with its sha256
    Verify(ModelsVerifyArgs),
    /// Remove a downloaded model that no process uses
    Rm(ModelsRmArgs),
}

/// What all verbs of `models` share.
#[derive(Clone, Debug, Args)]
pub struct ModelsPlaceArgs {
    /// Where they are kept.
    #[command(flatten)]
    pub cache: CacheArgs,
    /// Data folder whose models are meant [env: SANAFARM_DATA=] [default: .sanafarm]
    #[arg(long, value_name = "DIR", conflicts_with = "cache")]
    pub data: Option<PathBuf>,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// `models list`.
#[derive(Debug, Args)]
pub struct ModelsListArgs {
    /// Where they are kept.
    #[command(flatten)]
    pub place: ModelsPlaceArgs,
}

/// `models pull`.
#[derive(Debug, Args)]
pub struct ModelsPullArgs {
    /// hf:owner/name[@revision], s3://bucket/prefix, gs:// or az://
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// Where they are kept.
    #[command(flatten)]
    pub place: ModelsPlaceArgs,
}

/// `models verify`.
#[derive(Debug, Args)]
pub struct ModelsVerifyArgs {
    /// Only this one [default: all]
    #[arg(value_name = "MODEL")]
    pub model: Option<String>,
    /// Where they are kept.
    #[command(flatten)]
    pub place: ModelsPlaceArgs,
}

/// `models rm`.
#[derive(Debug, Args)]
pub struct ModelsRmArgs {
    /// All its versions, or with @REVISION one
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// Where they are kept.
    #[command(flatten)]
    pub place: ModelsPlaceArgs,
}

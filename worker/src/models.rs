//! Finding models: the bundled one by name, any other by its folder.

use std::path::{Path, PathBuf};

/// Name of the model inside the program.
pub const BUNDLED: &str = "sana-tiny";

/// Why a model could not be found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something else went wrong.
    #[error("{0}")]
    Other(String),
}

/// The folder of the model called `reference`; the bundled model is unpacked below `cache` first.
pub fn resolve(_reference: &str, _cache: &Path) -> Result<PathBuf, Error> {
    todo!()
}

//! Finding models: the bundled one by name, a folder by its path, and others on the Hugging Face hub or in an object
//! store, from where they are downloaded once.
//!
//! - [`Reference`]: what a model is called.
//! - [`Models`]: finds and keeps them; [`Models::resolve`] blocks until the model is on this machine.
//! - [`Held`]: a model that is here, and stays as long as this lives.
//! - [`Error`]: why one cannot be had, with what to try.
//!
//! Files appear whole under their names, checked against what their source promises. Of all processes that want a model
//! one downloads it; a download that was cut short goes on where it stopped.

mod bundled;
mod cache;
mod choose;
mod download;
mod error;
mod fetch;
mod hub;
mod keep;
mod lock;
mod meter;
mod objects;
mod record;
mod reference;
mod source;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

pub use bundled::BUNDLED;
pub use error::Error;
pub use hub::{HUB, Token};
pub use keep::{Checked, Listed, State};
pub use meter::{Observer, Progress};
pub use reference::{Reference, Remote};

use cache::Cache;
use lock::Lock;

/// Where models come from and where they are kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder for unpacked and downloaded models.
    pub cache: PathBuf,
    /// Bytes that downloaded models may take; as many as the disk has when absent.
    pub cache_size: Option<u64>,
    /// Address of the hub or of a mirror.
    pub hub: String,
    /// For private and gated models.
    pub token: Option<Token>,
}

impl Options {
    /// The public hub, and a cache without limit.
    pub fn new(cache: impl Into<PathBuf>) -> Self {
        Self { cache: cache.into(), cache_size: None, hub: HUB.to_owned(), token: None }
    }
}

/// Finds models and keeps what was downloaded. Cheap to clone.
#[derive(Clone)]
pub struct Models {
    options: Options,
    cache: Cache,
    observer: Option<Observer>,
    /// Whose network is used.
    runtime: Option<Handle>,
}

impl std::fmt::Debug for Models {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Models").field("options", &self.options).finish_non_exhaustive()
    }
}

/// A model on this machine.
#[derive(Debug)]
pub struct Held {
    folder: PathBuf,
    reference: String,
    /// Nobody removes a downloaded model while this is held.
    _in_use: Option<Lock>,
}

impl Held {
    /// Its absolute folder in the diffusers layout.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The reference that names this very version; on the hub that is the commit.
    pub fn reference(&self) -> &str {
        &self.reference
    }
}

/// What ends a download: any of some tokens.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Vec<CancellationToken>);

impl Cancel {
    /// Cancelled when any of `tokens` is; never without one.
    pub fn when_any(tokens: impl IntoIterator<Item = CancellationToken>) -> Self {
        Self(tokens.into_iter().collect())
    }

    async fn cancelled(&self) {
        if self.0.is_empty() {
            return std::future::pending().await;
        }
        let tokens = self.0.iter().map(|token| Box::pin(token.cancelled()));
        futures::future::select_all(tokens).await;
    }
}

impl Models {
    /// Opens nothing yet. Made within an async runtime, it uses the network of that one.
    pub fn new(options: Options) -> Self {
        let runtime = Handle::try_current().ok();
        Self { cache: Cache::new(&options.cache), options, observer: None, runtime }
    }

    /// The same, with somebody who hears of the progress of downloads.
    pub fn watched(self, observer: Observer) -> Self {
        Self { observer: Some(observer), ..self }
    }

    /// The model called `reference`, downloaded now when it is not here.
    ///
    /// Blocks: 8 MB are read for the bundled model, and a download takes its time. `cancel` ends the wait at once; what was
    /// downloaded is kept. To be called outside of async code.
    pub fn resolve(&self, reference: &str, cancel: &Cancel) -> Result<Held, Error> {
        match Reference::parse(reference)? {
            Reference::Bundled => {
                let folder = bundled::unpacked(&self.options.cache)?;
                Ok(Held { folder, reference: BUNDLED.to_owned(), _in_use: None })
            }
            Reference::Folder(folder) => local(&folder),
            Reference::Remote(remote) => self.run(cancel, self.obtain(&remote)),
        }
    }

    /// As [`Models::resolve`], but of a model that is not here only the small files that tell what it is: its folder then
    /// holds configurations and no weights. The same things block.
    pub fn outline(&self, reference: &str, cancel: &Cancel) -> Result<Held, Error> {
        match Reference::parse(reference)? {
            Reference::Bundled | Reference::Folder(_) => self.resolve(reference, cancel),
            Reference::Remote(remote) => self.run(cancel, self.obtain_outline(&remote)),
        }
    }

    /// Works on this thread: files are written here, and none of the runtime's threads is blocked.
    fn run<T>(&self, cancel: &Cancel, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let until_cancelled = async {
            tokio::select! {
                biased;
                () = cancel.cancelled() => Err(Error::Cancelled),
                done = work => done,
            }
        };
        if let Some(runtime) = &self.runtime {
            return runtime.block_on(until_cancelled);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Error::io("start a runtime for the download", error))?;
        let done = runtime.block_on(until_cancelled);
        // A name that is being looked up is waited for by nobody.
        runtime.shutdown_background();
        done
    }
}

/// A folder that holds a model.
fn local(folder: &Path) -> Result<Held, Error> {
    let shown = || folder.display().to_string();
    if !folder.is_dir() {
        return Err(Error::Absent(shown()));
    }
    if !folder.join("model_index.json").is_file() {
        return Err(Error::NoModel(shown()));
    }
    let folder = std::path::absolute(folder).map_err(|_| Error::Absent(shown()))?;
    Ok(Held { reference: folder.display().to_string(), folder, _in_use: None })
}

//! Where Sanafarm's pictures go and its lists come from: a folder, or an object store behind `object_store`.
//!
//! - [`Output`]: one place, named by a folder path or a URL; objects appear whole or not at all.
//! - [`Signed`]: single objects of an object store, reached by signed URLs and without keys.
//! - [`canonical`]: the one name of an output.
//! - [`Input`]: one object to read, named by a URL.
//! - [`Error`]: why the place could not be read or written, sorted by what a person can do about it.
//!
//! Object stores are asked with patience: tries with growing waits, limits for silence and slowness ([`Patience`]).

mod canonical;
mod entry;
mod error;
mod folder;
mod input;
mod name;
mod objects;
mod output;
mod patience;
mod reading;
mod remote;
mod signed;
mod staging;
mod upload;
mod walk;

pub use canonical::canonical;
pub use entry::Entry;
pub use error::Error;
pub use input::Input;
pub use output::{Access, Found, Output, Put};
pub use patience::{Patience, jitter};
pub use reading::{Digest, Reading};
pub use remote::{Settings, choose_tls};
pub use signed::Signed;
pub use upload::aborted;

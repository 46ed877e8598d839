//! Where Sanafarm's pictures go: a folder, or an object store behind `object_store`.
//!
//! - [`Output`]: one place, named by a folder path or a URL; objects appear whole or not at all.
//! - [`Error`]: why the place could not be read or written, sorted by what a person can do about it.

mod error;
mod folder;
mod output;
mod staging;

pub use error::Error;
pub use output::{Found, Output, Put};

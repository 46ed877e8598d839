//! Where Sanafarm's pictures go and its lists come from: a folder, or an object store behind `object_store`.
//!
//! - [`Output`]: one place, named by a folder path or a URL; objects appear whole or not at all.
//! - [`Input`]: one object to read, named by a URL.
//! - [`Error`]: why the place could not be read or written, sorted by what a person can do about it.

mod error;
mod folder;
mod input;
mod output;
mod staging;

pub use error::Error;
pub use input::{Input, Reading};
pub use output::{Found, Output, Put};

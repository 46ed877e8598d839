//! What Sanafarm's processes tell of themselves.
//!
//! - [`coordinator`], [`worker`]: the metrics of each, by their names
//! - [`recorder`]: where metrics are kept; without one, counting costs nothing
//! - [`http`]: `/metrics`, `/healthz` and `/readyz`
//! - [`trace`]: what became of one image, over all processes that had it in hand
//! - [`image_log`]: what was logged while an image was in hand
//!
//! It knows none of the other crates.

pub mod coordinator;
pub mod http;
pub mod image_log;
mod metric;
pub mod recorder;
pub mod trace;
pub mod worker;

pub use metric::{Kind, Label, Metric};

//! The thin outside: messages in, one call to the store, messages out.
//!
//! - `jobs`, `workers`, `history`, `tokens`: one service each; `submit`, `watch`, `explain`, `story`, `sign`, `objects`: their longer calls
//! - `own`: what a caller may see of the jobs
//! - `sessions`: whose sessions a caller may speak for
//! - `scaler`: the backlog for KEDA
//! - `rehearsal`: a submission of which nothing is stored
//! - `convert`: between messages and the words of the domain
//! - `status`: what each error is on the wire
//! - `timed`, `told`: what calls took and what came in, for whoever watches
//! - `server`: over TCP and inside the process

use std::pin::Pin;

use futures::Stream;
use tonic::Status;

mod convert;
mod explain;
mod history;
mod jobs;
mod objects;
mod own;
mod rehearsal;
mod scaler;
mod server;
mod sessions;
mod sign;
mod status;
mod story;
mod submit;
mod timed;
mod tokens;
mod told;
mod watch;
mod workers;

pub use rehearsal::{Rehearsal, RehearsedGroup};
pub(crate) use server::{local_channel, serve};
pub(crate) use sessions::SessionWorkers;
pub(crate) use sign::Outputs;
pub(crate) use status::status;

/// The answer to a call that answers more than once.
type MessageStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

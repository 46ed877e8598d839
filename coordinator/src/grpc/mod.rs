//! The thin outside: messages in, one call to the store, messages out.
//!
//! - `jobs`, `workers`, `history`: one service each; `submit`, `watch`, `explain`, `story`, `sign`, `objects`: their longer calls
//! - `rehearsal`: a submission of which nothing is stored
//! - `convert`: between messages and the words of the domain
//! - `status`: what each error is on the wire
//! - `server`: over TCP and inside the process

use std::pin::Pin;

use futures::Stream;
use tonic::Status;

mod convert;
mod explain;
mod history;
mod jobs;
mod objects;
mod rehearsal;
mod server;
mod sign;
mod status;
mod story;
mod submit;
mod watch;
mod workers;

pub use rehearsal::{Rehearsal, RehearsedGroup};
pub(crate) use server::{local_channel, serve};
pub(crate) use sign::Outputs;

/// The answer to a call that answers more than once.
type MessageStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

//! The thin outside: messages in, one call to the store, messages out.
//!
//! - `jobs`, `workers`, `history`: one service each; `submit`, `watch`, `explain`, `story`: their longer calls
//! - `rehearsal`: a submission of which nothing is stored
//! - `convert`: between messages and the words of the domain
//! - `status`: what each error is on the wire
//! - `server`: over TCP and inside the process

mod convert;
mod explain;
mod history;
mod jobs;
mod rehearsal;
mod server;
mod status;
mod story;
mod submit;
mod watch;
mod workers;

pub use rehearsal::{Rehearsal, RehearsedGroup};
pub(crate) use server::{local_channel, serve};

//! The thin outside: messages in, one call to the store, messages out.
//!
//! - `jobs`, `workers`, `history`: one service each
//! - `convert`: between messages and the words of the domain
//! - `status`: what each error is on the wire
//! - `server`: over TCP and inside the process

mod convert;
mod explain;
mod history;
mod jobs;
mod server;
mod status;
mod submit;
mod workers;

pub(crate) use server::{local_channel, serve};

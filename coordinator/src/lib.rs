//! Sanafarm's coordinator: jobs, shards, leases, results and history.
//!
//! [`Coordinator::open`] brings a database up to date and starts the duties; [`Coordinator::serve`] offers it
//! over gRPC, [`Coordinator::local_channel`] inside the process.
//!
//! - [`domain`]: the rules, pure; the command line keeps its limits too
//! - `store`: the database, the only truth
//! - `dispatch`: shards for the sessions that wait for one
//! - `auth`: who calls, and whether they may
//! - `batch`: many calls as one call of the store
//! - `live`: hints between calls and duties inside the process; losing one costs delay, never work
//! - `services`: what runs on its own: the sweep, finishing jobs with their manifest, and webhooks
//! - `demand`: what workers could do, for autoscalers
//! - `monitor`: the farm as metrics, and whether it serves
//! - `grpc`: the thin outside

mod auth;
mod batch;
mod coordinator;
mod demand;
mod dispatch;
pub mod domain;
mod farm;
mod grpc;
mod live;
mod monitor;
mod options;
mod services;
mod store;

pub use auth::{AuthFailure, AuthFailures, AuthMode, Door, Limits};
pub use coordinator::{Coordinator, Error};
pub use grpc::{Rehearsal, RehearsedGroup};
pub use monitor::Monitor;
pub use options::{Database, Options};
pub use services::webhook::{WebhookSecret, Webhooks};

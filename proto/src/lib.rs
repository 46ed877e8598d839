//! The messages and services between Sanafarm's coordinator, workers and command line.
//!
//! Generated at build time from `sanafarm/v1/*.proto`; the life cycle of jobs, shards and leases is
//! written in those files.

/// Package `sanafarm.v1`.
#[allow(missing_docs, clippy::all, unused_qualifications)]
pub mod v1 {
    tonic::include_proto!("sanafarm.v1");
}

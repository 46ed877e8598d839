//! The coordinator as clients and workers meet it: over gRPC, inside the process and over TCP.

#![expect(clippy::unwrap_used, reason = "a helper that fails ends its test")]

mod access;
mod callers;
mod duties;
mod guarded;
mod history;
mod jobs;
mod leaving;
mod manifest;
mod scaler;
mod support;
mod tars;

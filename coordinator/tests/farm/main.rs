//! The coordinator as clients and workers meet it: over gRPC, inside the process and over TCP.

mod duties;
mod history;
mod jobs;
mod manifest;
mod support;

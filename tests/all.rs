//! End-to-end tests: the real binary as a user runs it.

#![expect(clippy::unwrap_used, reason = "what is unexpected fails the test")]

mod access;
mod alone;
mod buckets;
mod chaos;
mod checks;
mod cli;
mod cluster;
mod config;
mod dataset;
mod elastic;
mod farm;
mod faults;
mod history;
mod lists;
mod local;
mod mistakes;
mod models;
mod observe;
mod presign;
mod render;
mod steering;
mod support;
mod tail;
mod webhooks;

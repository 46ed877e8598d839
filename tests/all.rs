//! End-to-end tests: the real binary as a user runs it.

#![expect(clippy::unwrap_used, reason = "what is unexpected fails the test")]

mod chaos;
mod cli;
mod cluster;
mod farm;
mod faults;
mod history;
mod lists;
mod render;
mod steering;
mod support;
mod tail;

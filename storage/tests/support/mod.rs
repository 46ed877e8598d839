//! A real S3 server, and outputs on it.

#![allow(dead_code, reason = "each test binary uses some of it")]
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic like tests")]

use std::time::Duration;

use bytes::Bytes;
use sanafarm_storage::{Found, Output, Patience, Settings};
use sanafarm_test_servers::S3;

/// Short, so that what fails fails soon.
pub fn patience() -> Patience {
    Patience {
        connect: Duration::from_secs(5),
        silence: Duration::from_millis(1500),
        slowest: 1000,
        retries: 3,
        first_wait: Duration::from_millis(5),
        longest_wait: Duration::from_secs(2),
    }
}

pub fn settings(s3: &S3) -> Settings {
    Settings { options: s3.environment(), patience: patience() }
}

pub fn open(s3: &S3, url: &str) -> Output {
    Output::open_with(url, &settings(s3)).unwrap()
}

/// The output `s3://farm/out`.
pub fn output(s3: &S3) -> Output {
    open(s3, "s3://farm/out")
}

/// The whole object.
pub async fn get(output: &Output, name: &str) -> Bytes {
    match output.get(name, u64::MAX).await.unwrap() {
        Found::Object(bytes) => bytes,
        other => panic!("{name}: {other:?}"),
    }
}

/// Bytes that are not all the same.
pub fn content(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at % 251) as u8).collect()
}

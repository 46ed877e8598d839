//! A real S3 server, and outputs on it.

#![allow(dead_code, reason = "each test binary uses some of it")]
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic like tests")]

use std::time::Duration;

use bytes::Bytes;
use sanafarm_storage::{Found, Output, Patience, Settings};
use sanafarm_test_servers::S3;

/// Short waits between tries, so that what fails fails soon. A server on a busy machine is waited for.
pub fn patience() -> Patience {
    Patience {
        connect: Duration::from_secs(60),
        silence: Duration::from_secs(60),
        slowest: 1000,
        retries: 3,
        first_wait: Duration::from_millis(5),
        longest_wait: Duration::from_secs(2),
    }
}

/// For servers that are silent: who only is slow may be cut off too.
pub fn impatience() -> Patience {
    Patience { silence: Duration::from_millis(1500), ..patience() }
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

/// The same one, of somebody who waits for nobody.
pub fn impatient(s3: &S3) -> Output {
    let settings = Settings { options: s3.environment(), patience: impatience() };
    Output::open_with("s3://farm/out", &settings).unwrap()
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

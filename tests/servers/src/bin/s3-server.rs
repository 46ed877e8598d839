//! `s3-server FOLDER`: serves the folders in it as buckets, on a free port of this machine, until it is killed.
//!
//! For trying a whole farm on one machine ([`deploy/local`](../../../../deploy/local)); nothing is safe in it from a power
//! cut. The keys are those of the environment, as clients read them.

#![allow(clippy::print_stdout, reason = "its address is what it prints")]

use std::path::PathBuf;
use std::process::ExitCode;

use sanafarm_test_servers::S3;

fn main() -> ExitCode {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    let key = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let (Some(folder), Some(access), Some(secret)) =
        (folder, key("AWS_ACCESS_KEY_ID"), key("AWS_SECRET_ACCESS_KEY"))
    else {
        eprintln!("usage: AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=... s3-server FOLDER");
        return ExitCode::from(1);
    };
    let s3 = S3::serve(&folder, (&access, &secret));
    println!("listening on {}", s3.endpoint());
    loop {
        std::thread::park();
    }
}

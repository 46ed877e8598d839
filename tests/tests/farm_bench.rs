//! `farm-bench` runs, and says what it should. How fast it is asserts nobody.

#![expect(clippy::unwrap_used, reason = "what is unexpected fails the test")]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn farm_bench(database: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_farm-bench"));
    command.arg("--database").arg(database).args(args);
    command.output().unwrap()
}

#[test]
fn a_small_farm_on_sqlite_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["--images", "200", "--workers", "3", "--process-workers", "2", "--shard-images", "10"];
    let args = [&args[..], &["--image-seconds", "0.002", "--idle-seconds", "0.5", "--json"]].concat();
    let output = farm_bench(&folder.path().join("farm.db"), &args);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{error}");
    let figures: Value = serde_json::from_slice(&output.stdout).unwrap();
    let number = |name: &str| figures[name].as_f64().unwrap_or_else(|| panic!("no {name} in {figures}"));
    for (name, wanted) in
        [("images", 200.0), ("workers", 3.0), ("worker_processes", 2.0), ("shard_images_leased", 10.0)]
    {
        assert_eq!(number(name), wanted, "{name}");
    }
    for name in ["submit_prompts_per_s", "committed_images_per_s", "claim_ms_p50", "reports", "machine_cores"]
    {
        assert!(number(name) > 0.0, "{name} in {figures}");
    }
    assert!(number("claims") >= 20.0, "{figures}");
    assert!(
        number("claim_ms_p50") <= number("claim_ms_p99") && number("claim_ms_p99") <= number("claim_ms_max")
    );
    // 200 images of two milliseconds, give or take a tenth, by three workers.
    assert!(number("commit_seconds") >= 200.0 * 0.0018 / 3.0, "{figures}");
    assert_eq!(figures["db_transactions_per_image"], Value::Null, "a file does not count them");
    assert!(figures["database"].as_str().unwrap().starts_with("SQLite 3."), "{figures}");
    if cfg!(target_os = "linux") {
        assert!(number("coordinator_rss_bytes") > 1e6, "{figures}");
        assert!(number("coordinator_cpu_share") >= 0.0 && number("idle_coordinator_cpu_share") >= 0.0);
    }
}

#[test]
fn a_file_is_not_shared_by_coordinators() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("farm.db");
    let output = farm_bench(&file, &["--images", "1", "--coordinators", "2"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(error.starts_with("error: a SQLite file serves one coordinator"), "{error}");
    assert!(!file.exists());
}

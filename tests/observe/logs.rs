//! What images keep of the log, and logs for programs.

use sanafarm_test_servers::S3;
use sanafarm_test_servers::s3::{Fault, On};
use serde_json::Value;

use crate::support::cluster::Cluster;
use crate::support::{Sandbox, wait_until};

#[test]
fn the_log_of_an_image_tells_what_went_on_while_it_was_in_hand() {
    let s3 = S3::start();
    let sandbox = Sandbox::new().with_environment(&s3.environment());
    sandbox.write("list.txt", "red dots\nblue dots\n");
    // The name of the second image is somebody else's.
    let foreign = s3.file("farm", "out/00000001-1.png");
    std::fs::create_dir_all(foreign.parent().unwrap()).unwrap();
    std::fs::write(&foreign, "not a picture").unwrap();
    // More often than one upload is tried.
    s3.inject(On::put("00000000"), 7, Fault::internal());
    let args = ["render", "list.txt", "--size", "64x64", "--steps", "1", "--output", "s3://farm/out"];
    let ended = sandbox.run(&[&args[..], &["--json"]].concat());
    let job = ended.last_json()["job_id"].as_str().unwrap().to_owned();
    let log = |index: u64| sandbox.run(&["logs", &format!("{job}/{index}")]).ok().stdout;
    let (late, failed) = (log(0), log(1));
    for line in ["INFO planned: ", "INFO loaded model device=cpu", "WARN not stored, tried again"] {
        assert!(late.contains(line), "`{line}` is not in {late}");
    }
    let said = "WARN image failed index=1 class=Conflict why=\"another file stands at 00000001-1.png";
    assert!(failed.contains(said), "{failed}");
    assert!(!failed.contains("not stored"), "it is about the other one: {failed}");
}

#[test]
fn a_log_for_programs_is_an_object_a_line() {
    let cluster = Cluster::new();
    let served = cluster.coordinator(&["--log-format", "json"]);
    let at = served.address.as_str();
    let args = ["worker", "--coordinator", at, "--name", "w", "--log-format", "json"];
    let _working = cluster.sandbox.start(&args);
    let job = cluster.submit(at, 2, "64x64", "1");
    cluster.watch(at, &job);
    let session = || cluster.sandbox.running_log().contains("session opened");
    wait_until("the log", session);
    let log = cluster.sandbox.running_log();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}")))
        .collect();
    let opened = lines.iter().find(|line| line["message"] == "session opened").unwrap();
    assert_eq!((opened["level"].as_str(), opened["worker"].as_str()), (Some("INFO"), Some("w")));
    assert!(opened["timestamp"].is_string() && opened["target"].is_string(), "{opened}");
    let loaded = lines.iter().find(|line| line["message"] == "loaded model").unwrap();
    assert_eq!(loaded["span"]["job"], job.as_str(), "{loaded}");
}

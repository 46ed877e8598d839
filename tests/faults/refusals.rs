//! Jobs that no worker can render: they hold up no other one.

use crate::support::books::assert_whole;
use crate::support::cluster::{Cluster, Coordinator};
use crate::support::wait_until;

const IMAGES: usize = 6;

/// Submits a job that cannot be rendered, of a higher priority than all others, and then one that can. Workers stay, the
/// second job is rendered, and the first one says who refuses it and why.
fn assert_others_go_on(cluster: &Cluster, coordinator: &Coordinator, what: &[&str], why: &str) {
    let address = coordinator.address.as_str();
    let workers = ["w1", "w2"].map(|name| cluster.worker(address, name));
    cluster.wait_for_workers(2);
    cluster.sandbox.write("bad.txt", "red dots\nblue dots\n");
    let submit = ["submit", "bad.txt", "--size", "64x64", "--steps", "1", "--priority", "5", "--json"];
    let submitted = cluster.sandbox.run(&[&submit[..], &["--coordinator", address], what].concat()).ok();
    let bad = submitted.last_json()["job_id"].as_str().unwrap().to_owned();
    let refusals =
        format!("select count(*) from refusals r join jobs j on j.key = r.job where j.id = '{bad}'");
    wait_until("both to refuse the job", || cluster.number(&refusals) == 2);

    let good = cluster.submit(address, IMAGES, "64x64", "2");
    assert_eq!(cluster.watch(address, &good)["state"], "succeeded");
    assert_whole(cluster, &good, IMAGES);
    let open = "select count(*) from sessions where closed_at is null";
    assert_eq!(cluster.number(open), 2, "{}", cluster.sandbox.running_log());
    assert_eq!(cluster.number("select count(*) from standings where excluded_until is not null"), 0);

    let told = cluster.sandbox.run(&["explain", &bad, "--coordinator", address]).ok().stdout;
    for worker in ["w1", "w2"] {
        assert!(told.contains(&format!("{worker} does not take it before 20")), "{told}");
    }
    assert!(told.contains(why), "{told}");
    for worker in workers {
        worker.terminate();
        assert_eq!(worker.wait().code(), Some(0), "{}", cluster.sandbox.running_log());
    }
}

#[test]
fn a_job_whose_output_nobody_can_write_ends_no_worker_and_holds_up_no_other_job() {
    let cluster = Cluster::new();
    let coordinator = cluster.coordinator(&[]);
    cluster.sandbox.write("file", "no folder");
    let output = cluster.sandbox.path("file/out").display().to_string();
    assert_others_go_on(&cluster, &coordinator, &["--output", &output], "file/out");
}

#[test]
fn a_job_whose_model_nobody_can_load_takes_no_worker_out_of_others() {
    let cluster = Cluster::new();
    let coordinator = cluster.coordinator(&[]);
    let model = cluster.sandbox.path("no-model").display().to_string();
    assert_others_go_on(&cluster, &coordinator, &["--model", &model], "no-model");
}

//! One image over all processes that have it in hand, as a receiver of traces sees it.

use std::collections::BTreeSet;

use super::receiver::{Received, Receiver};
use crate::support::cluster::{Cluster, prompts};

/// A farm of a coordinator, a worker and a submission that send traces, with one job that has succeeded and processes
/// that have ended; the job.
fn render(cluster: &Cluster, endpoint: &str, ratio: &str, images: usize) -> String {
    let traced = ["--trace-endpoint", endpoint, "--trace-ratio", ratio];
    let served = cluster.coordinator(&traced);
    let at = ["--coordinator", served.address.as_str()];
    let working = cluster.sandbox.start(&[&["worker", "--name", "w"], &at[..], &traced].concat());
    cluster.sandbox.write("list.txt", prompts(images));
    let submit = ["submit", "list.txt", "--size", "64x64", "--steps", "2", "--output", "out"];
    let job = cluster.sandbox.run(&[&submit[..], &at, &traced].concat()).ok().stdout.trim_end().to_owned();
    cluster.watch(&served.address, &job);
    // Whoever ends sends what is left.
    for process in [working, served.process] {
        process.terminate();
        assert_eq!(process.wait().code(), Some(0), "{}", cluster.sandbox.running_log());
    }
    job
}

fn only<'a>(spans: &[&'a Received], name: &str) -> &'a Received {
    let of_name: Vec<_> = spans.iter().filter(|span| span.span.name == name).collect();
    assert_eq!(of_name.len(), 1, "{name} in {spans:#?}");
    of_name[0]
}

#[test]
fn one_image_is_followed_from_its_submission_to_its_commit() {
    const IMAGES: usize = 3;
    let (cluster, receiver) = (Cluster::new(), Receiver::start());
    let job = render(&cluster, &receiver.url(), "1", IMAGES);
    let all = receiver.spans();
    let submit = all.iter().find(|span| span.span.name == "submit").unwrap();
    assert_eq!(submit.service, "sanafarm-submit");
    let hex: String = submit.span.trace_id.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, job.replace('-', ""), "the job's own id");

    let roots: Vec<_> = all.iter().filter(|span| span.span.name == "image").collect();
    assert_eq!(roots.len(), IMAGES);
    for root in roots {
        assert_eq!(
            (root.service.as_str(), root.attribute("job")),
            ("sanafarm-coordinator", Some(job.clone()))
        );
        assert!(root.span.parent_span_id.is_empty());
        assert_eq!(root.span.links[0].span_id, submit.span.span_id, "it points to the submission");
        let of_image: Vec<_> = all.iter().filter(|span| span.span.trace_id == root.span.trace_id).collect();
        let names: BTreeSet<_> = of_image.iter().map(|span| span.span.name.as_str()).collect();
        let wanted =
            ["claim", "commit", "decode", "denoise", "encode", "image", "render", "report", "text", "upload"];
        assert_eq!(names, BTreeSet::from(wanted));
        assert_eq!(of_image.len(), wanted.len(), "each once");
        let attempt = only(&of_image, "render");
        for name in ["claim", "commit", "render"] {
            let child = only(&of_image, name);
            assert_eq!(child.span.parent_span_id, root.span.span_id, "{name}");
        }
        for name in ["text", "denoise", "decode", "encode", "upload", "report"] {
            let stage = only(&of_image, name);
            assert_eq!(stage.span.parent_span_id, attempt.span.span_id, "{name}");
            assert_eq!(stage.service, "sanafarm-worker");
            assert!(stage.is_within(attempt), "{name} {stage:?} in {attempt:?}");
        }
        let order = ["claim", "text", "denoise", "decode", "upload", "report", "commit"];
        let starts: Vec<_> = order.map(|name| only(&of_image, name).span.start_time_unix_nano).into();
        assert!(starts.is_sorted(), "{order:?} {starts:?}");
        assert!(only(&of_image, "commit").is_within(only(&of_image, "report")), "asked for by the worker");
        let told = |name: &str| attempt.attribute(name).unwrap();
        assert_eq!(
            (told("worker"), told("device"), told("model"), told("size"), told("steps"), told("attempt")),
            ("w".into(), "cpu".into(), "sana-tiny".into(), "64x64".into(), "2".into(), "1".into())
        );
    }
}

#[test]
fn all_processes_trace_the_same_share_of_images() {
    const IMAGES: usize = 24;
    let (cluster, receiver) = (Cluster::new(), Receiver::start());
    render(&cluster, &receiver.url(), "0.5", IMAGES);
    let spans = receiver.spans();
    let traces = |name: &str| -> BTreeSet<Vec<u8>> {
        let of_name = spans.iter().filter(|span| span.span.name == name);
        of_name.map(|span| span.span.trace_id.clone()).collect()
    };
    let traced = traces("image");
    assert!((1..IMAGES).contains(&traced.len()), "{}", traced.len());
    assert_eq!((&traces("claim"), &traces("decode"), &traces("commit")), (&traced, &traced, &traced));
}

#[test]
fn a_receiver_that_is_away_holds_nothing_up_and_is_told_once() {
    let cluster = Cluster::new();
    render(&cluster, "http://127.0.0.1:1", "1", 4);
    let log = cluster.sandbox.running_log();
    let told = log.lines().filter(|line| line.contains("traces are not sent")).count();
    assert_eq!(told, 2, "by the coordinator and by the worker: {log}");
}

//! The documentation tells every metric, as the tables have them.

use sanafarm_telemetry::{Metric, coordinator, worker};

fn table(metrics: &[Metric]) -> String {
    let mut table = "| metric | kind | labels | what it says |\n| --- | --- | --- | --- |\n".to_owned();
    for Metric { name, kind, labels, help } in metrics {
        let labels = labels.iter().map(|label| match label.values {
            [] => format!("`{}`", label.name),
            values => format!("`{}`: {}", label.name, values.join(", ")),
        });
        let labels = labels.collect::<Vec<_>>().join("; ");
        table += &format!("| `{name}` | {} | {labels} | {help} |\n", kind.word());
    }
    table
}

#[test]
fn metrics_are_documented_as_they_are() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let text = std::fs::read_to_string(file).unwrap();
    for metrics in [coordinator::TABLE, worker::TABLE] {
        let table = table(metrics);
        assert!(text.contains(&table), "docs/metrics.md should have:\n\n{table}");
    }
    let all = [coordinator::TABLE, worker::TABLE].concat();
    let documented = text.lines().filter(|line| line.starts_with("| `sanafarm_")).count();
    assert_eq!(documented, all.len(), "a metric is documented that is not there");
}

#[test]
fn names_follow_the_conventions_of_prometheus() {
    for metrics in [coordinator::TABLE, worker::TABLE] {
        for metric in metrics {
            assert_eq!(metric.name.ends_with("_total"), metric.kind.word() == "counter", "{}", metric.name);
            assert!(metric.name.starts_with("sanafarm_"), "{}", metric.name);
            assert!(metric.help.ends_with('.'), "{}", metric.name);
        }
    }
}

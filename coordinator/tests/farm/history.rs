//! Asking the history by SQL.

use sanafarm_proto::v1::cell::Value;
use tonic::Code;

use super::support::farm;

const GUIDE: &str = include_str!("../../../docs/sql.md");
const VIEWS: [&str; 6] =
    ["audit_jobs", "audit_images", "audit_attempts", "audit_events", "audit_workers", "audit_usage"];

#[tokio::test]
async fn the_guide_tells_every_column_of_every_view() {
    let mut farm = farm().await;
    for view in VIEWS {
        let (columns, _) = farm.sql(&format!("select * from {view}")).await.unwrap();
        let section = GUIDE.split(&format!("## `{view}`")).nth(1).expect("a section for each view");
        let section = section.split("\n## ").next().unwrap();
        let told: Vec<&str> =
            section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        assert_eq!(told, columns, "{view}");
    }
}

#[tokio::test]
async fn an_answer_has_types_and_may_be_long() {
    let mut farm = farm().await;
    let (columns, rows) = farm
        .sql("with recursive n(i) as (select 1 union all select i + 1 from n where i < 5000) select i, i / 2.0 as half from n")
        .await
        .unwrap();
    assert_eq!(columns, ["i", "half"]);
    assert_eq!(rows.len(), 5000);
    let last: Vec<_> = rows[4999].cells.iter().map(|cell| cell.value.clone().unwrap()).collect();
    assert_eq!(last, [Value::Integer(5000), Value::Real(2500.0)]);
    for sql in ["drop table jobs", "select 1; select 2", "select x from nowhere", ""] {
        let refused = farm.sql(sql).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{sql}: {refused}");
    }
}

//! Asking the history by SQL.

use sanafarm_proto::v1;
use sanafarm_proto::v1::cell::Value;
use tonic::Code;

use super::support::{farm, row};

const GUIDE: &str = include_str!("../../../docs/sql.md");
const VIEWS: [&str; 4] = ["audit_jobs", "audit_images", "audit_attempts", "audit_events"];

/// The sample queries of the guide.
fn samples() -> Vec<&'static str> {
    GUIDE.split("```sql\n").skip(1).map(|block| block.split("```").next().unwrap()).collect()
}

#[tokio::test]
async fn every_sample_of_the_guide_answers() {
    let mut farm = farm().await;
    let extra = r#"{"Category":"Animals"}"#.to_owned();
    let rows = (1..=40).map(|line| v1::PromptRow { extra: extra.clone(), ..row(line) }).collect();
    let job = farm.submit("a", rows).await;
    farm.render_all(|index| index == 7).await;
    farm.watch(&job.job_id).await;
    let samples = samples();
    assert!(samples.len() >= 10, "{} samples", samples.len());
    for sql in samples {
        let (_, rows) = farm.sql(sql).await.unwrap_or_else(|error| panic!("{error}\n{sql}"));
        assert!(!rows.is_empty(), "no rows for\n{sql}");
    }
}

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

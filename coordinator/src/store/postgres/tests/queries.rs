//! The analyst's SQL.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};

use super::{fresh, fresh_store};
use crate::store::conformance::Bench;
use crate::store::records::{Answer, Cell};
use crate::store::{Error, Result, Store};

const LIMIT: Duration = Duration::from_secs(60);

async fn run(store: &dyn Store, sql: &str) -> Result<Vec<Answer>> {
    store.query(sql, LIMIT).await?.try_collect().await
}

#[tokio::test]
async fn a_query_cannot_write_and_says_what_is_wrong() {
    let (store, server) = fresh_store().await;
    server.sql(
        "farm",
        "CREATE FUNCTION sneak() RETURNS integer LANGUAGE sql AS 'UPDATE jobs SET name = ''x'' RETURNING 1'",
    );
    for (sql, reason) in [
        ("select x from nowhere", "relation \"nowhere\" does not exist"),
        ("select", ""),
        ("selct 1", "only select"),
        (
            "with x as (insert into events (at, kind) values (now(), 'x') returning 1) select * from x",
            "data-modifying",
        ),
        ("select * from jobs", "permission denied for table jobs"),
        ("select sneak()", "cannot execute UPDATE in a read-only transaction"),
        ("select nextval('events_seq')", "permission denied"),
        ("select pg_sleep(0) from pg_read_file('/etc/passwd')", "permission denied"),
        ("select set_config('transaction_read_only', 'off', false)", "transaction read-write mode"),
        ("delete from jobs", "only select"),
        ("select 1; select 2", "one statement"),
        // Hidden from a reader that does not know such quotes, but not from the server.
        ("select $$'$$; delete from jobs; select $$'$$", "multiple commands"),
        ("select 1 where $1", "parameter"),
    ] {
        let refused = run(&store, sql).await;
        if reason.is_empty() {
            assert_eq!(refused.unwrap()[0], Answer::Columns(Vec::new()), "{sql}");
            continue;
        }
        let text = refused.unwrap_err().to_string();
        assert!(text.contains(reason), "{sql}: {text}");
    }
    assert_eq!(server.sql("farm", "SELECT count(*) FROM events"), "0");
}

#[tokio::test]
async fn values_are_what_analysts_expect() {
    let (store, _server) = fresh_store().await;
    let empty = run(&store, "select job_id, name, job_id from audit_jobs -- none").await.unwrap();
    let names = ["job_id", "name", "job_id"].map(str::to_owned);
    assert_eq!(empty, [Answer::Columns(names.into())]);
    let sql = "select 1::smallint, -2::bigint, 1.5::float8, 12::numeric, avg(x), 2::numeric ^ 100, 'ü', '\\x01ff'::bytea, null, \
        true, '0192abcd-e000-7000-8000-000000000001'::uuid, '{\"a\": 1}'::jsonb, \
        timestamptz '2026-11-23 03:47:00.1239+01', array[1, null], interval '1 day', 'infinity'::timestamptz, 'NaN'::float8::text \
        from (values (1), (2)) as t (x)";
    let answers = run(&store, sql).await.unwrap();
    let Answer::Rows(rows) = &answers[1] else { panic!("{answers:?}") };
    let text = |text: &str| Cell::Text(text.to_owned());
    let expected = [
        Cell::Integer(1),
        Cell::Integer(-2),
        Cell::Real(1.5),
        Cell::Integer(12),
        Cell::Real(1.5),
        Cell::Real(2f64.powi(100)),
        text("ü"),
        Cell::Blob(vec![1, 255]),
        Cell::Null,
        text("true"),
        text("0192abcd-e000-7000-8000-000000000001"),
        text("{\"a\": 1}"),
        text("2026-11-23T02:47:00.123Z"),
        text("{1,NULL}"),
        text("1 day"),
        text("infinity"),
        text("NaN"),
    ];
    assert_eq!(rows[0], expected);
    let many = run(&store, "select g, repeat('x', 1000) from generate_series(1, 2500) as g").await.unwrap();
    let sizes: Vec<usize> = many[1..]
        .iter()
        .map(|part| match part {
            Answer::Rows(rows) => rows.len(),
            Answer::Columns(_) => panic!("columns come once"),
        })
        .collect();
    assert_eq!(sizes, [1000, 1000, 500]);
    let Answer::Rows(plan) = &run(&store, "explain (format json) select * from audit_jobs").await.unwrap()[1]
    else {
        panic!("no plan")
    };
    assert!(matches!(&plan[0][0], Cell::Text(plan) if plan.contains("\"Plan\"")), "{plan:?}");
}

#[tokio::test]
async fn every_view_can_be_read_by_analysts() {
    let (store, server) = fresh().await;
    let bench = Bench::new(store);
    bench.submit("a", 2, 1).await;
    bench.render_all(&bench.session("w").await).await;
    let views = server
        .sql("farm", "SELECT relname FROM pg_class WHERE relkind = 'v' AND relname LIKE 'audit%' ORDER BY 1");
    assert!(views.lines().count() >= 4, "{views}");
    for view in views.lines() {
        let rows = bench.value(&format!("select count(*) from {view}")).await;
        // The job has no tars and nothing was logged.
        assert_eq!(rows == "0", ["audit_archives", "audit_logs"].contains(&view), "{view}: {rows}");
    }
    assert_eq!(bench.value("select current_user").await, "sanafarm_reader");
}

#[tokio::test]
async fn a_query_without_end_is_stopped() {
    const ENDLESS: &str =
        "with recursive n(i) as (select 1::bigint union all select i + 1 from n) select count(*) from n";
    const MANY: &str =
        "with recursive n(i) as (select 1::bigint union all select i + 1 from n) select i from n";
    let (store, server) = fresh_store().await;
    let long = Duration::from_secs(600);
    for limit in [Duration::ZERO, Duration::from_millis(300)] {
        let stopped = match store.query(ENDLESS, limit).await {
            Ok(answers) => answers.try_collect::<Vec<_>>().await.map(|_| ()),
            Err(error) => Err(error),
        };
        assert!(matches!(stopped, Err(Error::TimedOut(_))), "{stopped:?}");
    }
    // Answers that nobody reads: while they may run there is no turn for another, and then there is.
    let mut unread = Vec::new();
    for _ in 0..4 {
        unread.push(store.query(MANY, long).await.unwrap());
    }
    assert!(matches!(store.query("select 1", Duration::ZERO).await, Err(Error::Crowded)));
    unread.clear();
    for _ in 0..4 {
        unread.push(store.query(MANY, Duration::from_secs(2)).await.unwrap());
    }
    store.query("select 1", long).await.unwrap().try_collect::<Vec<_>>().await.unwrap();
    for answer in unread {
        let parts = answer.collect::<Vec<_>>().await;
        let last = parts.last();
        assert!(parts.len() > 1 && matches!(last, Some(Err(Error::TimedOut(_)))), "{} parts", parts.len());
    }
    // More answers dropped unread than may run at once: each makes room for the next, and the server stops them.
    for _ in 0..12 {
        drop(store.query(ENDLESS, long).await.unwrap());
    }
    let running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'FETCH%' AND state = 'active'";
    while server.sql("farm", running) != "0" {}
}

//! The analyst's SQL.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};

use super::{fresh, fresh_store};
use crate::store::conformance::{Bench, begun};
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
            "read-only transaction",
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
async fn no_expression_gets_out_of_the_role_of_readers() {
    let (store, _server) = fresh_store().await;
    let text = "query_to_xml('select * from tokens', true, false, '')";
    let out = |set: &str| format!("with a as materialized (select {set} as r) select r, {text} from a");
    for sql in [
        out("set_config('role', 'none', false)"),
        out("set_config('role', 'none', true)"),
        out("pg_catalog.set_config('role', session_user::text, false)"),
        out(r#""set_config"('ro' || 'le', 'none', false)"#),
        out(r#"U&"set\005fconfig"('role', 'none', false)"#),
        out("pg_catalog /* */ . -- x\n \"set_config\" ('role', 'none', false)"),
        out("set_config('session_authorization', session_user::text, false)"),
        out("query_to_xml('select set_config(''role'', ''none'', false)', true, false, '')"),
        format!("select {text} from set_config('role', 'none', false)"),
        format!("select {text} from generate_series(1, 2) as g, lateral (select set_config('role', 'none', g = 3)) as r"),
        format!("select 1 order by set_config('role', 'none', false), {text}::text"),
        format!("explain analyze {}", out("set_config('role', 'none', false)")),
        format!("select {text}"),
        "select query_to_xml('set role none', true, false, ''), query_to_xml('select * from tokens', true, false, '')"
            .to_owned(),
        "select pg_read_file('/etc/passwd')".to_owned(),
        "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and datname = 'farm'"
            .to_owned(),
        "select lo_import('/etc/passwd')".to_owned(),
        "select * from pg_authid".to_owned(),
        "select token.* from (select 1) as x, pg_temp.sanafarm_ask('select * from tokens') as token".to_owned(),
    ] {
        let refused = run(&store, &sql).await;
        let error = match refused {
            Err(Error::Query(error)) => error,
            other => panic!("{sql}: {other:?}"),
        };
        let reasons = ["within security-definer function", "permission denied", "must be", "read-only", "in use", "non-volatile"];
        assert!(reasons.iter().any(|reason| error.contains(reason)), "{sql}: {error}");
    }
    // Harmless, and often useful.
    run(&store, "select random(), set_config('work_mem', '8MB', false), current_setting('server_version')")
        .await
        .unwrap();
}

#[tokio::test]
async fn no_statement_takes_off_its_limit() {
    let (store, _server) = fresh_store().await;
    let sql = "with off as materialized (select set_config('statement_timeout', '0', false), \
               set_config('client_connection_check_interval', '0', false)) \
               select current_setting('statement_timeout') from off, generate_series(1, 1001)";
    let answers = run(&store, sql).await.unwrap();
    let Some(Answer::Rows(rows)) = answers.last() else { panic!("{answers:?}") };
    assert_eq!(rows[0], [Cell::Text("1min".to_owned())]);
}

#[tokio::test]
async fn without_the_role_of_readers_nothing_runs() {
    let (store, server) = fresh_store().await;
    server.sql("farm", "DROP OWNED BY sanafarm_reader; DROP ROLE sanafarm_reader");
    let refused = run(&store, "select 1").await;
    assert!(matches!(refused, Err(Error::NoReader(_))), "{refused:?}");
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
    let views = server.sql(
        "farm",
        "SELECT relname FROM pg_class WHERE relkind = 'v' AND relname ~ '^(audit|keda)_' ORDER BY 1",
    );
    assert!(views.lines().count() >= 4, "{views}");
    for view in views.lines() {
        let rows = bench.value(&format!("select count(*) from {view}")).await;
        // The job has no tars, nothing was logged, and nothing is left to do.
        assert_eq!(
            rows == "0",
            ["audit_archives", "audit_logs", "keda_backlog"].contains(&view),
            "{view}: {rows}"
        );
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
        unread.push(begun(&store, MANY, Duration::from_secs(2)).await);
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
    let running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SET statement_timeout%' AND state = 'active'";
    while server.sql("farm", running) != "0" {}
}

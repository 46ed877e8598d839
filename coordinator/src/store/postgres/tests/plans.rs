//! What the database reads to answer: never a large table whole, whatever the planner knew when it made its plan.

use std::sync::Arc;

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::{HOUR, fresh};
use crate::domain::spec::Row;
use crate::domain::state::ImageState;
use crate::store::conformance::{Bench, CAPS, LEASE, done, row, spec};
use crate::store::postgres::{PostgresStore, demand, lease, read, waiting};
use crate::store::records::{Change, HeldLease, Release, ReleaseReason, Renewal, Report, Subject};
use sanafarm_test_servers::Postgres;

const TABLES: [&str; 7] = ["images", "shards", "results", "leases", "image_faults", "image_errors", "events"];

/// Rows of each table that were read since the server started, and how often it was read whole.
fn readings(server: &Postgres) -> Vec<(String, u64, u64)> {
    let sql = "SELECT regexp_replace(relname, '_[0-9_]+$', ''), sum(seq_scan), \
        sum(coalesce(idx_tup_fetch, 0) + seq_tup_read) FROM pg_stat_user_tables GROUP BY 1";
    let text = server.sql("farm", sql);
    let numbers = text.lines().map(|line| {
        let mut parts = line.split('|');
        let mut next = || parts.next().unwrap_or_default().to_owned();
        (next(), next().parse().unwrap(), next().parse().unwrap())
    });
    numbers.filter(|(table, ..)| TABLES.contains(&table.as_str())).collect()
}

/// The same, once what a store that is closed has read is told: by each of its connections, which end in their own time.
fn last_readings(server: &Postgres) -> Vec<(String, u64, u64)> {
    while server.sql("farm", "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sanafarm'")
        != "0"
    {}
    readings(server)
}

#[tokio::test]
async fn nothing_reads_a_large_table_whole() {
    let (store, server) = fresh().await;
    let mut bench = Bench::new(store);
    let session = bench.session("w").await;
    bench.submit("small", 64, 1).await;
    let work = async |bench: &mut Bench, rounds: u64| {
        for round in 0..rounds {
            let lease = bench.lease(&session).await.unwrap();
            bench.renew(&session, &lease.lease, &[lease.images[0].index]).await;
            let results: Vec<_> = lease.images.iter().map(done).collect();
            let release = Release { reason: ReleaseReason::Finished, message: String::new() };
            match round % 3 {
                0 => {
                    bench.report(&session, &lease.lease, &results).await;
                }
                1 => {
                    bench.report(&session, &lease.lease, &results[..1]).await;
                    bench.release(&session, &lease.lease, &release).await;
                }
                _ => {
                    bench.pass(LEASE);
                    bench.store.expire_leases(CAPS, bench.now).await.unwrap();
                }
            }
            bench.store.jobs_to_finish().await.unwrap();
        }
    };
    work(&mut bench, 24).await;
    let small = bench.store.jobs(None, &[], 1).await.unwrap().remove(0);
    bench.change(&small.id, Change::Cancel).await;
    let sizes = [64, 96, 128];
    let rows = (1..=100_000u64).map(|line| Row { width: Some(sizes[line as usize % 3]), ..row(line) });
    let mixed = bench.submit_rows(spec("mixed"), rows, 32).await;
    let plain = bench.submit("plain", 100_000, 32).await;
    bench.store.close().await;
    let before = last_readings(&server);
    let mut bench = Bench { now: bench.now, ..super::another(&server).await };
    work(&mut bench, 60).await;
    for page in 0..5 {
        bench.store.images(&plain, &[], page * 20_000, 100).await.unwrap();
        bench.store.images(&plain, &[ImageState::Failed], page, 100).await.unwrap();
        bench.store.manifest_rows(&plain, page * 20_000, 100).await.unwrap();
    }
    let worker = bench.store.worker("w").await.unwrap().unwrap();
    for of in [Subject::Job(plain.clone()), Subject::Job(mixed.clone()), Subject::Worker(worker)] {
        assert!(!bench.store.events(&of, 0, 500).await.unwrap().is_empty());
        bench.store.newest(&of, 10).await.unwrap();
        bench.store.counts(&of).await.unwrap();
        bench.store.yielded(&of).await.unwrap();
    }
    for job in [&plain, &mixed] {
        bench.store.image_story(job, 0).await.unwrap().unwrap();
        bench.store.image_story(job, 50_000).await.unwrap().unwrap();
    }
    bench.store.speeds("sana-tiny").await.unwrap();
    assert_eq!(bench.store.demand().await.unwrap().len(), 2);
    bench.store.overview(bench.now).await.unwrap();
    bench.store.jobs(None, &[], 10).await.unwrap();
    // What their images took is kept when they end.
    for job in [&plain, &mixed] {
        bench.change(job, Change::Cancel).await;
    }
    bench.store.close().await;
    for ((table, scans, rows), (_, scans_before, rows_before)) in
        last_readings(&server).into_iter().zip(before)
    {
        assert_eq!(scans, scans_before, "{table} was read whole");
        let read = rows - rows_before;
        assert!(read < 20_000, "{read} rows of {table} were read");
    }
}

#[tokio::test]
async fn plans_made_on_empty_tables_serve_large_ones() {
    let server = Postgres::start();
    // All on one connection, which keeps its plans.
    let store = PostgresStore::open_with(&server.database("farm"), 1, HOUR).await.unwrap();
    let pool = store.pool.clone();
    let bench = Bench::new(Arc::new(store));
    let session = bench.session("w").await;
    bench.submit("small", 40, 1).await;
    // Enough for a plan that is kept.
    for _ in 0..20 {
        let lease = bench.lease(&session).await.unwrap();
        bench.renew(&session, &lease.lease, &[0]).await;
        bench.report(&session, &lease.lease, &[done(&lease.images[0])]).await;
    }
    // Loaded behind the server's back: nobody has looked at the tables since.
    server.sql(
        "farm",
        "ALTER TABLE images SET (autovacuum_enabled = off); ALTER TABLE shards SET (autovacuum_enabled = off); \
         INSERT INTO images (job, idx, seed, group_no, copy, mixed, named, object, line, prompt) \
         SELECT 1, g, g, 0, 0, false, false, g || '.png', g, 'x' FROM generate_series(40, 200000) AS g; \
         INSERT INTO shards (id, job, group_no, first_index, last_index, images, remaining, not_before) \
         SELECT gen_random_uuid(), 1, 0, g * 8, g * 8 + 7, 8, 8, '2020-01-01' FROM generate_series(5, 24999) AS g; \
         UPDATE jobs SET images = 200001",
    );
    sqlx::raw_sql("SELECT pg_stat_force_next_flush()").execute(&pool).await.unwrap();
    let before = readings(&server);
    for _ in 0..60 {
        let lease = bench.lease(&session).await.unwrap();
        bench.renew(&session, &lease.lease, &[0]).await;
        let results: Vec<_> = lease.images.iter().map(done).collect();
        bench.report(&session, &lease.lease, &results).await;
    }
    bench.store.close().await;
    for ((table, scans, rows), (_, scans_before, rows_before)) in
        last_readings(&server).into_iter().zip(before)
    {
        assert_eq!(scans, scans_before, "{table} was read whole");
        let read = rows - rows_before;
        assert!(read < 10_000, "{read} rows of {table} were read");
    }
}

#[tokio::test]
async fn what_many_hold_is_looked_up_one_by_one() {
    const MANY: u64 = 400;
    let server = Postgres::start();
    let store = PostgresStore::open_with(&server.database("farm"), 1, HOUR).await.unwrap();
    let pool = store.pool.clone();
    let bench = Bench::new(Arc::new(store));
    bench.submit("a", 20 + MANY * 2, 2).await;
    let tails = async || bench.store.tails(bench.now).await.unwrap().len();
    let session = bench.session("w").await;
    for _ in 0..10 {
        let lease = bench.lease(&session).await.unwrap();
        bench.renew(&session, &lease.lease, &[0]).await;
        bench.report(&session, &lease.lease, &lease.images.iter().map(done).collect::<Vec<_>>()).await;
        assert_eq!(tails().await, 0);
    }
    // What the server knows from now on: hardly anything is held.
    server.sql("farm", "ALTER TABLE leases SET (autovacuum_enabled = off); ANALYZE");
    let (mut renewals, mut reports) = (Vec::new(), Vec::new());
    for worker in 0..MANY {
        let session = bench.session(&format!("w{worker}")).await;
        let lease = bench.lease(&session).await.unwrap();
        let holding = HeldLease { lease: lease.lease.clone(), rendering: vec![lease.images[0].index] };
        renewals.push(Renewal { session: session.clone(), held: vec![holding], stats: None, leaving: None });
        let results = vec![done(&lease.images[0])];
        reports.push(Report { session, lease: lease.lease, results, archive: None });
    }
    sqlx::raw_sql("SELECT pg_stat_force_next_flush()").execute(&pool).await.unwrap();
    let before = readings(&server);
    let renewed = bench.store.renew_leases(&renewals, LEASE, bench.now).await.unwrap();
    assert!(renewed.into_iter().all(|kept| kept.unwrap().kept.len() == 1));
    for _ in 0..10 {
        assert_eq!(tails().await, 1);
    }
    let reported = bench.store.report_results(&reports, CAPS, bench.now).await.unwrap();
    assert!(reported.into_iter().all(|reported| reported.unwrap().accepted == 1));
    bench.store.close().await;
    for ((table, scans, rows), (_, scans_before, rows_before)) in
        last_readings(&server).into_iter().zip(before)
    {
        assert_eq!(scans, scans_before, "{table} was read whole");
        let read = rows - rows_before;
        assert!(read < MANY * 60, "{read} rows of {table} were read for {MANY} workers");
    }
}

/// How the server goes about a statement of a coordinator.
async fn plan(server: &Postgres, sql: &str, arguments: &[(&str, &str)]) -> String {
    let mut sql = sql.to_owned();
    for (name, value) in arguments {
        sql = sql.replace(name, value);
    }
    let mut client = PgConnection::connect(&server.url("farm")).await.unwrap();
    sqlx::raw_sql(super::super::open::SETTINGS).execute(&mut client).await.unwrap();
    let lines: Vec<String> =
        sqlx::query_scalar(AssertSqlSafe(format!("EXPLAIN {sql}"))).fetch_all(&mut client).await.unwrap();
    lines.join("\n")
}

#[tokio::test]
async fn lookups_go_by_the_index_made_for_them() {
    let (store, server) = fresh().await;
    let bench = Bench::new(store);
    bench.submit("a", 20_000, 32).await;
    let images = [
        ("$1::bigint[]", "'{1}'::bigint[]"),
        ("$2::integer[]", "'{0}'::integer[]"),
        ("$3::bigint[]", "'{0}'::bigint[]"),
        ("$4::bigint[]", "'{31}'::bigint[]"),
        ("$5::bigint[]", "'{100}'::bigint[]"),
    ];
    let page = [("$1", "1"), ("$2", "0"), ("$3", "500")];
    let open = [("$1", "now()"), ("$2", "16")];
    for (sql, arguments, indices) in [
        (lease::images_sql(true), images.as_slice(), ["images_pkey", "images_by_group"].as_slice()),
        (lease::images_sql(false), &images, &["images_pkey", "images_by_group", "results_0_pkey"]),
        (
            lease::OPEN_JOBS.to_owned(),
            &open,
            &[
                "jobs_open",
                "job_dependencies_pkey",
                "shards_ready_of_group",
                "leases_of_job",
                "leases_held_of_job",
            ],
        ),
        (waiting::HOPELESS.to_owned(), &open, &["jobs_due", "jobs_unstarted", "job_dependencies_pkey"]),
        (
            demand::DEMAND.to_owned(),
            &open,
            &[
                "jobs_open",
                "jobs_begun",
                "shards_delayed",
                "leases_held_of_job",
                "jobs_by_model",
                "results_0_pkey",
            ],
        ),
        (read::images_sql(&[]), &page, &["images_pkey", "results_0_pkey"]),
        (read::images_sql(&[ImageState::Failed]), &page, &["results_0_job_idx_idx", "images_pkey"]),
    ] {
        let plan = plan(&server, &sql, arguments).await;
        assert!(!plan.contains("Seq Scan"), "{plan}");
        for index in indices {
            assert!(plan.contains(index), "no {index} in\n{plan}");
        }
    }
    // An analyst who asks for the failed images is not led through all of them.
    let failed = "SELECT image_index, error FROM audit_images WHERE job_id = $1 AND state = 'failed'";
    let job = server.sql("farm", "SELECT quote_literal(id) FROM jobs");
    let plan_of_failed = plan(&server, failed, &[("$1", &job)]).await;
    assert!(plan_of_failed.contains("results_0_job_idx_idx"), "{plan_of_failed}");
    assert!(!plan_of_failed.contains("pending"), "{plan_of_failed}");
    // A page of images needs no sorting: the first of them come without the rest.
    assert!(!plan(&server, &read::images_sql(&[]), &page).await.contains("Sort"));
}

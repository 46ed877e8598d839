//! What the database itself refuses, and opening it.

use sqlx::{Connection, Executor, PgConnection};

use super::{another, fresh, fresh_store};
use crate::domain::blame::ErrorClass;
use crate::domain::submission::Batch;
use crate::store::conformance::{Bench, LEASE, error, row, spec};
use crate::store::postgres::PostgresStore;
use crate::store::postgres::open::{MIGRATIONS, first_migrations};
use crate::store::records::{Begun, Change};
use crate::store::{Error, Store};
use sanafarm_test_servers::Postgres;
use sanafarm_test_servers::postgres::Options;

#[tokio::test]
async fn events_and_results_can_only_be_appended() {
    let (store, server) = fresh().await;
    let bench = Bench::new(store);
    let id = bench.submit("a", 2, 1).await;
    let session = bench.session("w").await;
    let lease = bench.lease(&session).await.unwrap();
    bench.report(&session, &lease.lease, &[error(&lease.images[0], ErrorClass::Prompt)]).await;
    bench.change(&id, Change::Retry(None)).await;
    bench.render_all(&session).await;
    let mut client = PgConnection::connect(&server.url("farm")).await.unwrap();
    for (sql, reason) in [
        ("UPDATE events SET kind = 'x'", "events are append-only"),
        ("DELETE FROM events", "events are append-only"),
        ("TRUNCATE events", "events are append-only"),
        ("TRUNCATE events_2026_11", "events are append-only"),
        ("DELETE FROM events_2026_11", "events are append-only"),
        ("UPDATE results SET device = 'x'", "committed once"),
        ("DELETE FROM results", "committed once"),
        ("TRUNCATE results", "committed once"),
        ("TRUNCATE results_0", "committed once"),
        ("DELETE FROM results_0", "committed once"),
        ("UPDATE retried_results SET device = 'x'", "retried is append-only"),
        ("DELETE FROM retried_results", "retried is append-only"),
        ("TRUNCATE retried_results", "retried is append-only"),
        ("INSERT INTO results SELECT * FROM results", "duplicate key"),
    ] {
        let refused = client.execute(sql).await.unwrap_err().to_string();
        assert!(refused.contains(reason), "{sql}: {refused}");
    }
    assert_eq!(bench.value("select count(*) from audit_images where state = 'done'").await, "2");
    // Old jobs go a part at a time.
    client.execute("ALTER TABLE results DETACH PARTITION results_0").await.unwrap();
    assert_eq!(bench.value("select count(*) from audit_images where state = 'done'").await, "0");
    client.execute("DROP TABLE results_0").await.unwrap();
}

#[tokio::test]
async fn a_newer_database_is_refused() {
    let (store, server) = fresh_store().await;
    store.close().await;
    server.sql(
        "farm",
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'from the future', true, '\\x00', 0)",
    );
    let refused = PostgresStore::open(&server.url("farm")).await;
    assert!(matches!(refused, Err(Error::Newer { found: 9999, .. })), "{refused:?}");
}

#[tokio::test]
async fn coordinators_that_start_together_bring_the_tables_up_to_date_once() {
    let server = Postgres::start();
    let url = server.database("farm");
    let opened = futures::future::join_all((0..4).map(|_| PostgresStore::open(&url))).await;
    let stores: Vec<_> = opened.into_iter().map(|store| store.unwrap()).collect();
    let all = MIGRATIONS.len();
    let applied = server.sql("farm", "SELECT count(*), count(DISTINCT version) FROM _sqlx_migrations");
    assert_eq!(applied, format!("{all}|{all}"));
    assert_eq!(server.sql("farm", "SELECT count(*) FROM coordinators"), "4");
    for store in stores {
        store.close().await;
    }
    let again = PostgresStore::open(&url).await.unwrap();
    assert_eq!(server.sql("farm", "SELECT count(*) FROM _sqlx_migrations"), all.to_string());
    again.close().await;
}

/// As in a rolling upgrade: an old coordinator is at work, and an analyst reads the jobs for as long as it takes.
#[tokio::test]
async fn a_migration_that_waits_for_an_analyst_holds_nobody_up() {
    let server = Postgres::start();
    let url = server.database("farm");
    let mut old = PgConnection::connect(&url).await.unwrap();
    first_migrations(8).run(&mut old).await.unwrap();
    sqlx::raw_sql(BEFORE_FORMS).execute(&mut old).await.unwrap();
    let mut analyst = PgConnection::connect(&url).await.unwrap();
    let mut asking = analyst.begin().await.unwrap();
    asking.execute("SELECT FROM jobs").await.unwrap();
    let applied = "SELECT max(version) FROM _sqlx_migrations";
    let others = async {
        let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'";
        while sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut old).await.unwrap() == 0 {}
        // Behind the migration, and before it when that has given up its place: the analyst asks all the time.
        old.execute("UPDATE jobs SET name = 'still at work'").await.unwrap();
        assert_eq!(server.sql("farm", applied), "8");
        asking.rollback().await.unwrap();
    };
    let (store, ()) = tokio::join!(PostgresStore::open(&url), others);
    let store = store.unwrap();
    assert_eq!(server.sql("farm", applied), MIGRATIONS.len().to_string());
    assert_eq!(store.jobs(None, &[], 1).await.unwrap().remove(0).name, "still at work");
}

#[tokio::test]
async fn what_cannot_be_opened_says_why_and_nothing_tells_the_password() {
    let server = Postgres::start();
    let with_password = |database: &str| server.url(database).replace("postgres@", "postgres:geheim@");
    let absent = PostgresStore::open(&with_password("absent")).await.unwrap_err();
    assert!(absent.to_string().contains("database \"absent\" does not exist"), "{absent}");
    let nobody = PostgresStore::open("postgres://ann:geheim@127.0.0.1:1/farm").await.unwrap_err();
    assert!(nobody.to_string().contains("postgres://ann@127.0.0.1:1/farm"), "{nobody}");
    for error in [absent, nobody] {
        assert!(!format!("{error} {error:?}").contains("geheim"), "{error:?}");
    }
    server.database("farm");
    let store = PostgresStore::open(&with_password("farm")).await.unwrap();
    assert!(!format!("{store:?}").contains("geheim"), "{store:?}");
}

#[tokio::test]
async fn the_history_has_room_for_the_months_to_come() {
    let (store, server) = fresh().await;
    let parts =
        || server.sql("farm", "SELECT relname FROM pg_class WHERE relname ~ '^events_2' AND relkind = 'r'");
    let before = parts();
    // Nothing is there yet of the years in which this goes on.
    let mut bench = Bench::new(store);
    bench.now = "2126-11-25T00:00:00Z".parse().unwrap();
    bench.session("a").await;
    bench.pass(std::time::Duration::from_secs(40 * 24 * 3600));
    bench.session("b").await;
    // One that knows nothing of it does the same, at the same moment.
    let other = Bench { now: bench.now, ..another(&server).await };
    for (bench, job) in [(&bench, "a"), (&other, "b")] {
        bench.submit(job, 1, 1).await;
    }
    let parts = parts();
    let mut new: Vec<&str> =
        parts.lines().filter(|part| !before.lines().any(|there| there == *part)).collect();
    new.sort_unstable();
    assert_eq!(new, ["events_2126_11", "events_2126_12", "events_2127_01", "events_2127_02"]);
    let months = "select count(distinct date_trunc('month', at)) from audit_events";
    assert_eq!(bench.value(months).await, "2");
}

#[tokio::test]
async fn rows_that_a_stopped_server_lost_are_missed() {
    let (store, server) = fresh().await;
    let bench = Bench::new(store);
    let Begun::New(id, _) = bench.store.begin_job(&spec("a"), bench.now).await.unwrap() else { panic!() };
    let mut submission = crate::domain::submission::Submission::new(spec("a"), LEASE, Vec::new()).unwrap();
    let mut batch = |lines: std::ops::Range<u64>| -> Batch {
        lines.for_each(|line| submission.push(row(line)).unwrap());
        submission.take_batch()
    };
    let (first, second, third) = (batch(1..3), batch(3..5), batch(5..7));
    bench.store.add_batch(&id, &first, bench.now).await.unwrap();
    bench.store.add_batch(&id, &second, bench.now).await.unwrap();
    // As if the server had written only the first to its disk.
    server.sql("farm", "DELETE FROM images WHERE idx > 1; UPDATE jobs SET images = 2");
    let refused = bench.store.add_batch(&id, &third, bench.now).await;
    assert!(matches!(&refused, Err(Error::RowsLost(job)) if *job == id), "{refused:?}");
    bench.store.add_batch(&id, &second, bench.now).await.unwrap();
}

#[tokio::test]
async fn connections_are_encrypted_as_the_url_says() {
    let server = Postgres::start_with(Options { tls: true, ..Options::default() });
    let url = server.database("farm");
    let certificate = server.certificate();
    let known = format!("{url}?sslmode=verify-full&sslrootcert={}", certificate.display());
    let store = PostgresStore::open(&known).await.unwrap();
    let encrypted = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'sanafarm'";
    assert_eq!(server.sql("farm", encrypted), "t");
    store.close().await;
    let unknown = PostgresStore::open(&format!("{url}?sslmode=verify-full")).await.unwrap_err().to_string();
    assert!(unknown.contains("certificate"), "{unknown}");
    PostgresStore::open(&format!("{url}?sslmode=disable")).await.unwrap().close().await;
}

/// What the version before this one wrote: an image that failed with a class of another name, once tried again.
const BEFORE_FORMS: &str = "
    INSERT INTO coordinators DEFAULT VALUES;
    INSERT INTO jobs (id, client_token, name, owner, model, output, width, height, steps, guidance, bin, decode,
        negative_prompt, seed, images_per_prompt, name_template, priority, needs, state, images, done, failed, coordinator,
        named, created_at, sealed_at)
    VALUES ('01930000-0000-7000-8000-000000000000', 't', 'n', '', 'm', '/out', 64, 64, 4, 4.5, 'auto', 'exact', '', 0, 1,
        '{index:08}-{seed}.png', 0, '{}', 'failed', 2, 1, 1, 1, false, now(), now());
    INSERT INTO settings_groups VALUES (1, 0, 64, 64, 4, 4.5, 'auto', 'exact');
    INSERT INTO images (job, idx, seed, group_no, copy, mixed, named, object, line, prompt)
    VALUES (1, 0, 0, 0, 0, false, false, 'a.png', 1, 'p'), (1, 1, 1, 0, 0, false, false, 'b.png', 2, 'q');
    INSERT INTO shards (id, job, group_no, first_index, last_index, images, remaining, state, attempt, not_before)
    VALUES (gen_random_uuid(), 1, 0, 0, 1, 2, 0, 'done', 2, now());
    SELECT make_results_part(1), make_events_part(now());
    INSERT INTO results (job, idx, state, shard, attempt, device, bytes, sha256, recipe, finished_at, render_seconds)
    VALUES (1, 0, 'done', 1, 1, 'cpu', 7, decode(repeat('ab', 32), 'hex'), '{}', now(), 2.5);
    INSERT INTO results (job, idx, state, shard, attempt, device, error_class, error, finished_at)
    VALUES (1, 1, 'failed', 1, 2, 'cpu', 'numeric', 'flat', now());
    INSERT INTO retried_results (job, idx, shard, attempt, device, error_class, error, finished_at, retried_at)
    VALUES (1, 1, 1, 1, 'cpu', 'numeric', 'flat', now(), now());
    INSERT INTO image_errors (job, idx, attempt, device, error_class, error, at)
    VALUES (1, 1, 1, 'cpu', 'numeric', 'flat', now());
    INSERT INTO events (at, kind, job, idx, detail) VALUES (now(), 'image_failed', 1, 1, '{\"error_class\":\"numeric\"}')";

#[tokio::test]
async fn what_an_older_program_wrote_is_kept_in_the_words_of_this_one() {
    let server = Postgres::start();
    let mut client = PgConnection::connect(&server.database("farm")).await.unwrap();
    first_migrations(8).run(&mut client).await.unwrap();
    sqlx::raw_sql(BEFORE_FORMS).execute(&mut client).await.unwrap();
    let bench = another(&server).await;
    let classes = "select string_agg(c, ' ') from (select error_class as c from audit_images where state = 'failed' \
        union all select detail ->> 'error_class' from audit_events) as x";
    assert_eq!(bench.value(classes).await, "bad_image bad_image");
    let job = bench.store.jobs(None, &[], 1).await.unwrap().remove(0);
    assert_eq!(job.form, crate::domain::form::Form::default());
    assert_eq!(bench.images(&job.id).await[0].result.as_ref().unwrap().bytes, Some(7));
    let speeds = bench.store.speeds("m").await.unwrap();
    assert_eq!((speeds.len(), speeds[0].pixels, speeds[0].seconds, speeds[0].bytes), (1, 64 * 64, 2.5, 7.0));
    let stored =
        "SELECT (SELECT error_class FROM retried_results) || ' ' || (SELECT error_class FROM image_errors)";
    assert_eq!(server.sql("farm", stored), "bad_image bad_image");
    // Guarded as before, in the parts that were there and in those to come.
    client.execute("SELECT make_results_part(64)").await.unwrap();
    for (sql, reason) in [
        ("UPDATE results SET device = 'x'", "committed once"),
        ("UPDATE results_0 SET device = 'x'", "committed once"),
        ("UPDATE events SET kind = 'x'", "events are append-only"),
        ("UPDATE retried_results SET device = 'x'", "retried is append-only"),
        (
            "INSERT INTO results (job, idx, state, shard, attempt, device, error_class, finished_at) \
             VALUES (1, 7, 'failed', 1, 2, 'cpu', 'numeric', now())",
            "results_error_class_check",
        ),
        (
            "INSERT INTO results (job, idx, state, shard, attempt, device, error_class, finished_at) \
             VALUES (64, 7, 'failed', 1, 2, 'cpu', 'numeric', now())",
            "results_error_class_check",
        ),
    ] {
        let refused = client.execute(sql).await.unwrap_err().to_string();
        assert!(refused.contains(reason), "{sql}: {refused}");
    }
}

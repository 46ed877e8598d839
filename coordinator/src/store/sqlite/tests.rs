//! The conformance suite on SQLite, and what only SQLite has.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use sqlx::{ConnectOptions, Connection, Executor, Row};
use tempfile::TempDir;

use super::SqliteStore;
use super::read::images_sql;
use super::stories::{events_sql, yield_sql};
use crate::domain::id::{JobId, SessionId};
use crate::domain::state::ImageState;
use crate::store::conformance::{Bench, CAPS, LEASE, begun, conformance_suite, spec};
use crate::store::records::{Answer, By, Cell, Change, OfWorker, Subject};
use crate::store::{Error, Store};

async fn fresh_store() -> (SqliteStore, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("farm.db")).await.unwrap();
    (store, folder)
}

async fn fresh() -> (Arc<dyn Store>, TempDir) {
    let (store, folder) = fresh_store().await;
    (Arc::new(store), folder)
}

mod suite {
    super::conformance_suite!(super::fresh);
}

/// A plain connection, as any client has one.
async fn plain(folder: &TempDir) -> sqlx::SqliteConnection {
    sqlx::sqlite::SqliteConnectOptions::new().filename(folder.path().join("farm.db")).connect().await.unwrap()
}

#[tokio::test]
async fn events_and_results_can_only_be_appended() {
    let (store, folder) = fresh().await;
    let bench = Bench::new(store);
    bench.submit("a", 1, 1).await;
    bench.render_all(&bench.session("w").await).await;
    let mut client = plain(&folder).await;
    for (sql, reason) in [
        ("UPDATE events SET kind = 'x'", "events are append-only"),
        ("DELETE FROM events", "events are append-only"),
        ("INSERT OR REPLACE INTO events (seq, at, kind) VALUES (1, '', 'x')", "events are append-only"),
        ("UPDATE results SET sha256 = 'x'", "committed once"),
        ("DELETE FROM results", "committed once"),
        (
            "INSERT OR REPLACE INTO results (job, idx, state, shard, attempt, device, error_class, finished_at) \
             SELECT job, idx, 'failed', shard, attempt, device, 'prompt', finished_at FROM results",
            "committed once",
        ),
    ] {
        let refused = client.execute(sql).await.unwrap_err().to_string();
        assert!(refused.contains(reason), "{sql}: {refused}");
    }
    client.close().await.unwrap();
    assert_eq!(bench.value("select count(*) > 3 from audit_events").await, "1");
}

#[tokio::test]
async fn a_full_disk_is_told_and_passes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("farm.db");
    let store = SqliteStore::open(&file).await.unwrap();
    let writer = store.writer.clone().unwrap();
    let bench = Bench::new(Arc::new(store));
    let session = bench.session("w").await;
    for _ in 0..2 {
        // No page more than there are: holds for this connection only.
        writer.execute("PRAGMA max_page_count = 1").await.unwrap();
        let mut long = spec("a");
        long.negative_prompt = "x".repeat(16 << 10);
        // One row: SQLite gives the whole transaction up by itself.
        let refused = bench.store.begin_job(&long, bench.now).await.unwrap_err();
        let text = refused.to_string();
        assert!(matches!(refused, Error::Full { .. }), "{refused:?}");
        assert!(text.contains("farm.db") && text.contains("disk is full; free some space"), "{text}");
    }
    // There is space again.
    let job = bench.submit("a", 2, 32).await;
    bench.render_all(&session).await;
    assert_eq!(bench.store.job(job.as_str()).await.unwrap().done, 2);
}

#[test]
fn a_store_with_more_to_do_than_it_can_is_busy() {
    assert!(matches!(Error::from(sqlx::Error::PoolTimedOut), Error::Busy));
}

#[tokio::test]
async fn an_unreadable_lease_ends_like_the_others() {
    let (store, folder) = fresh().await;
    let mut bench = Bench::new(store);
    bench.submit("a", 2, 1).await;
    let session = bench.session("w").await;
    for _ in 0..2 {
        bench.lease(&session).await.unwrap();
    }
    let mut client = plain(&folder).await;
    client.execute("UPDATE leases SET rendering = '[18446744073709551615]' WHERE shard = 1").await.unwrap();
    client.close().await.unwrap();
    bench.pass(LEASE);
    assert_eq!(bench.store.expire_leases(CAPS, bench.now).await.unwrap(), 2);
    assert_eq!(bench.value("select sum(losses) from audit_images").await, "0");
    bench.lease(&session).await.unwrap();
    bench.lease(&session).await.unwrap();
}

/// How SQLite goes about it, a step a line.
async fn plan(bench: &Bench, sql: &str) -> Vec<String> {
    let rows = bench.sql(&format!("explain query plan {sql}")).await;
    rows.into_iter().map(|cells| format!("{:?}", cells.last().unwrap())).collect()
}

#[tokio::test]
async fn counts_of_an_attempt_read_the_images_of_its_shard_only() {
    let (store, _folder) = fresh().await;
    let bench = Bench::new(store);
    for (count, table) in [("done", "r"), ("errors", "e")] {
        let plan = plan(&bench, &format!("select {count} from audit_attempts")).await;
        let at = |step: &str| plan.iter().position(|line| line.contains(step));
        let images =
            at("SEARCH i USING COVERING INDEX images_by_group (job=? AND group_no=? AND idx>? AND idx<?)");
        let counted = at(&format!("SEARCH {table} USING PRIMARY KEY (job=? AND idx=?"));
        assert!(images.is_some() && images < counted, "{plan:#?}");
    }
}

#[tokio::test]
async fn failed_images_are_found_from_their_results() {
    let (store, _folder) = fresh().await;
    let bench = Bench::new(store);
    let sql = images_sql(&[ImageState::Failed]).replace("?1", "1").replace("?2", "0").replace("?3", "500");
    let plan = plan(&bench, &sql).await;
    let first = |table: &str| plan.iter().position(|line| line.contains(table)).expect("a step for each");
    assert!(plan[first(" r ")].contains("USING INDEX results_failed (job=? AND idx>?)"), "{plan:#?}");
    assert!(first(" r ") < first(" i ") && first(" i ") < first(" p "), "{plan:#?}");
    assert!(!plan.iter().any(|line| line.contains("TEMP B-TREE") || line.contains("SCAN")), "{plan:#?}");
}

#[tokio::test]
async fn stories_are_read_by_index() {
    let (store, _folder) = fresh().await;
    let bench = Bench::new(store);
    let of_worker = |session: Option<&str>| {
        let session = session.map(|id| SessionId::from(id.to_owned()));
        Subject::Worker(OfWorker { worker: "w".to_owned(), session })
    };
    for of in [Subject::Job(JobId::from("0199".to_owned())), of_worker(None), of_worker(Some("0199"))] {
        for sql in [events_sql(&of), yield_sql(&of)] {
            let sql = sql.replace("?1", "'0199'").replace("?2", "0").replace("?3", "500");
            let plan = plan(&bench, &sql).await;
            assert!(!plan.iter().any(|line| line.contains("SCAN")), "{of:?}: {plan:#?}");
        }
    }
}

#[tokio::test]
async fn what_is_deleted_looks_for_references_by_index() {
    let (store, folder) = fresh().await;
    let mut client = plain(&folder).await;
    let slow = sqlx::query(
        "SELECT t.name || ' (' || f.\"from\" || ')' AS place \
         FROM pragma_table_list AS t, pragma_foreign_key_list(t.name) AS f \
         WHERE f.seq = 0 AND f.\"table\" <> 'sessions' AND NOT EXISTS ( \
         SELECT 1 FROM pragma_index_list(t.name) AS x, pragma_index_info(x.name) AS c \
         WHERE x.partial = 0 AND c.seqno = 0 AND c.name = f.\"from\")",
    )
    .fetch_all(&mut client)
    .await
    .unwrap();
    let slow: Vec<String> = slow.iter().map(|row| row.get("place")).collect();
    assert_eq!(slow, Vec::<String>::new());
    client.close().await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn a_newer_database_is_refused() {
    let (store, folder) = fresh().await;
    store.close().await;
    let mut client = plain(&folder).await;
    client
        .execute(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
             VALUES (9999, 'from the future', true, x'00', 0)",
        )
        .await
        .unwrap();
    client.close().await.unwrap();
    let file = folder.path().join("farm.db");
    for refused in [SqliteStore::open(&file).await, SqliteStore::open_read_only(&file).await] {
        assert!(matches!(refused, Err(Error::Newer { found: 9999, .. })), "{refused:?}");
    }
}

#[tokio::test]
async fn what_is_no_database_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("farm.db");
    assert!(matches!(SqliteStore::open_read_only(&file).await, Err(Error::Open { .. })));
    assert!(!file.exists(), "looking creates nothing");
    std::fs::write(&file, "this is no database at all, but some text that is long enough").unwrap();
    let refused = SqliteStore::open(&file).await.unwrap_err().to_string();
    assert!(refused.contains("farm.db") && refused.contains("not a database"), "{refused}");
}

#[tokio::test]
async fn a_read_only_store_reads_beside_a_writer_and_refuses_to_write() {
    let (store, folder) = fresh().await;
    let bench = Bench::new(store);
    let id = bench.submit("a", 2, 1).await;
    let reading = SqliteStore::open_read_only(&folder.path().join("farm.db")).await.unwrap();
    assert_eq!(reading.job(id.as_str()).await.unwrap().images, 2);
    let session = bench.session("w").await;
    bench.render_all(&session).await;
    assert_eq!(reading.job(id.as_str()).await.unwrap().done, 2);
    assert!(matches!(
        reading.change_job(&id, &Change::Cancel, &By::default(), bench.now).await,
        Err(Error::ReadOnly)
    ));
    let lease = reading.lease_shards(&[], Duration::from_secs(60), bench.now).await;
    assert!(matches!(lease, Err(Error::ReadOnly)));
    reading.close().await;
    bench.store.close().await;
    // Also when nobody writes and the log was folded in.
    let alone = SqliteStore::open_read_only(&folder.path().join("farm.db")).await.unwrap();
    assert_eq!(alone.job(id.as_str()).await.unwrap().done, 2);
}

#[tokio::test]
async fn a_query_cannot_write_and_says_what_is_wrong() {
    let (store, _folder) = fresh().await;
    let limit = Duration::from_secs(60);
    let run = async |sql: &str| match store.query(sql, limit).await {
        Ok(answers) => answers.try_collect::<Vec<_>>().await,
        Err(error) => Err(error),
    };
    let text = run("select x from nowhere").await.unwrap_err().to_string();
    assert_eq!(text, "no such table: nowhere");
    let write = run("with x as (select 1) insert into events (at, kind) select '', 'x' from x").await;
    assert!(matches!(write, Err(Error::Query(_))), "{write:?}");
    assert!(matches!(run("delete from jobs").await, Err(Error::Refused(_))));
    assert!(matches!(run("select 1; select 2").await, Err(Error::Refused(_))));
    // Nothing but its own file, and nothing of its own connection is set: by no function, and by no second statement that
    // the check takes for a text.
    for sql in [
        "select load_extension('/tmp/x')",
        "select readfile('/etc/passwd')",
        "select writefile('/tmp/x', 'x')",
        "select * from pragma_query_only(0)",
        "explain attach '/tmp/x' as y; select 1",
        "select $a('); attach '/tmp/sanafarm-none.db' as y; select * from y.sqlite_master --'",
        "select $a('); create table y (a) --'",
        "with x as (select 1) select * from x where 1 in (attach '/tmp/x' as y)",
    ] {
        let refused = run(sql).await;
        assert!(
            matches!(refused, Err(Error::Query(_) | Error::Refused(_) | Error::Database(_))),
            "{sql}: {refused:?}"
        );
    }
    let empty = run("select job_id, name from audit_jobs").await.unwrap();
    assert_eq!(empty, [Answer::Columns(vec!["job_id".to_owned(), "name".to_owned()])]);
    let values = run("select 1 as a, 1.5 as b, 'x' as c, x'01' as d, null as e").await.unwrap();
    let cells =
        vec![Cell::Integer(1), Cell::Real(1.5), Cell::Text("x".to_owned()), Cell::Blob(vec![1]), Cell::Null];
    assert_eq!(values[1], Answer::Rows(vec![cells]));
}

#[tokio::test]
async fn a_query_without_end_is_stopped() {
    const ENDLESS: &str =
        "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n";
    let (store, _folder) = fresh().await;
    let answers = store.query(ENDLESS, Duration::ZERO).await;
    let stopped = match answers {
        Ok(answers) => answers.try_collect::<Vec<_>>().await.map(|_| ()),
        Err(error) => Err(error),
    };
    assert!(matches!(stopped, Err(Error::TimedOut(_))), "{stopped:?}");
    // Answers that nobody reads: while they may run there is no turn for another, and then there is.
    const MANY: &str = "with recursive n(i) as (select 1 union all select i + 1 from n) select i from n";
    let (short, long) = (Duration::from_secs(1), Duration::from_secs(600));
    let mut unread = Vec::new();
    for _ in 0..4 {
        unread.push(store.query(MANY, long).await.unwrap());
    }
    assert!(matches!(store.query("select 1", Duration::ZERO).await, Err(Error::Crowded)));
    unread.clear();
    for _ in 0..4 {
        unread.push(begun(&*store, MANY, short).await);
    }
    store.query("select 1", long).await.unwrap().try_collect::<Vec<_>>().await.unwrap();
    for answer in unread {
        let parts = answer.collect::<Vec<_>>().await;
        assert!(
            parts.len() > 1 && matches!(parts.last(), Some(Err(Error::TimedOut(_)))),
            "{} parts",
            parts.len()
        );
    }
    // More answers dropped unread than may run at once: each makes room for the next.
    for _ in 0..12 {
        drop(store.query(ENDLESS, Duration::from_secs(600)).await.unwrap());
    }
}

/// What the version before this one wrote: an image that failed with a class of another name, one of them tried again.
const BEFORE_FORMS: &str = "
    INSERT INTO jobs (key, id, client_token, name, owner, model, output, width, height, steps, guidance, bin, decode,
        negative_prompt, seed, images_per_prompt, name_template, state, images, done, failed, created_at, sealed_at)
    VALUES (1, 'j', 't', 'n', '', 'm', '/out', 64, 64, 4, 4.5, 'auto', 'exact', '', 0, 1, '{index:08}-{seed}.png',
        'failed', 2, 1, 1, '2026-11-23T02:47:00.123Z', '2026-11-23T02:47:00.123Z');
    INSERT INTO settings_groups VALUES (1, 0, 64, 64, 4, 4.5, 'auto', 'exact');
    INSERT INTO prompts VALUES (1, 0, 1, NULL, 'p', NULL, NULL), (1, 1, 2, NULL, 'q', NULL, NULL);
    INSERT INTO images (job, idx, row_no, group_no, seed, object) VALUES (1, 0, 0, 0, 0, 'a.png'), (1, 1, 1, 0, 1, 'b.png');
    INSERT INTO shards (key, id, job, group_no, first_index, last_index, images, state, attempt, not_before)
    VALUES (1, 's', 1, 0, 0, 1, 2, 'done', 2, '');
    INSERT INTO results (job, idx, state, shard, attempt, device, object, bytes, sha256, recipe, finished_at, render_seconds)
    VALUES (1, 0, 'done', 1, 1, 'cpu', 'a.png', 7, 'x', '{}', '2026-11-23T02:47:01.000Z', 2.5);
    INSERT INTO results (job, idx, state, shard, attempt, device, error_class, error, finished_at)
    VALUES (1, 1, 'failed', 1, 2, 'cpu', 'numeric', 'flat', '2026-11-23T02:47:01.000Z');
    INSERT INTO retried_results (job, idx, shard, attempt, device, error_class, error, finished_at, retried_at)
    VALUES (1, 1, 1, 1, 'cpu', 'numeric', 'flat', '', '');
    INSERT INTO image_errors (job, idx, attempt, device, error_class, error, at) VALUES (1, 1, 1, 'cpu', 'numeric', 'flat', '');
    INSERT INTO events (at, kind, job, idx, detail) VALUES ('', 'image_failed', 1, 1, '{\"error_class\":\"numeric\"}')";

#[tokio::test]
async fn what_an_older_program_wrote_is_kept_in_the_words_of_this_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("farm.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&file).create_if_missing(true);
    let mut old = options.connect().await.unwrap();
    super::open::first_migrations(7).run(&mut old).await.unwrap();
    sqlx::raw_sql(BEFORE_FORMS).execute(&mut old).await.unwrap();
    old.close().await.unwrap();
    let bench = Bench::new(Arc::new(SqliteStore::open(&file).await.unwrap()));
    let classes = "select group_concat(c, ' ') from (select error_class as c from audit_images where state = 'failed' \
        union all select detail ->> '$.error_class' from audit_events)";
    assert_eq!(bench.value(classes).await, "bad_image bad_image");
    let job = bench.store.job("j").await.unwrap();
    assert_eq!(job.form, crate::domain::form::Form::default());
    let images = bench.images(&job.id).await;
    assert_eq!(images[0].result.as_ref().unwrap().bytes, Some(7));
    let speeds = bench.store.speeds("m").await.unwrap();
    assert_eq!((speeds.len(), speeds[0].pixels, speeds[0].seconds, speeds[0].bytes), (1, 64 * 64, 2.5, 7.0));
    // Guarded as before, also where the table was made anew.
    let mut client = plain(&folder).await;
    let stored =
        "SELECT (SELECT error_class FROM retried_results) || ' ' || (SELECT error_class FROM image_errors)";
    let stored: String = sqlx::query_scalar(stored).fetch_one(&mut client).await.unwrap();
    assert_eq!(stored, "bad_image bad_image");
    for sql in [
        "UPDATE results SET sha256 = 'x'",
        "DELETE FROM results WHERE state = 'done'",
        "UPDATE events SET kind = 'x'",
        "UPDATE retried_results SET device = 'x'",
        "UPDATE results SET error_class = 'numeric' WHERE state = 'failed'",
        "INSERT INTO results (job, idx, state, shard, attempt, device, error_class, finished_at) \
         VALUES (1, 7, 'failed', 1, 2, 'cpu', 'numeric', '')",
    ] {
        assert!(client.execute(sql).await.is_err(), "{sql}");
    }
}

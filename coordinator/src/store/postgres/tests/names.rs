//! Texts and images as they come from outside.

use sqlx::{Connection, Row as _};

use super::fresh;
use crate::domain::blame::ErrorClass;
use crate::domain::spec::{JobSpec, Row};
use crate::store::conformance::{Bench, done, error, row, spec};
use crate::store::records::{NewSession, Outcome, Release, ReleaseReason};

#[tokio::test]
async fn no_text_of_a_worker_is_too_odd_to_be_kept() {
    let (store, _server) = fresh().await;
    let bench = Bench::new(store);
    let id = bench.submit("a", 3, 32).await;
    let odd = NewSession {
        worker: "w\0w".to_owned(),
        version: "\0".to_owned(),
        devices: vec![crate::domain::schedule::Device { name: "G\0U".to_owned(), ..Default::default() }],
        labels: [("a\0".to_owned(), "\0b".to_owned())].into(),
        embedded: false,
    };
    let session = bench.store.open_session(&odd, bench.now).await.unwrap();
    assert_eq!(bench.store.session(&session).await.unwrap().labels["a\u{fffd}"], "\u{fffd}b");
    let lease = bench.lease(&session).await.unwrap();
    let mut failed = error(&lease.images[0], ErrorClass::Prompt);
    failed.outcome = Outcome::Failed { class: ErrorClass::Prompt, message: "bad \0 prompt".to_owned() };
    failed.device = "cuda\0".to_owned();
    let mut good = done(&lease.images[1]);
    good.device = "cuda\0".to_owned();
    assert_eq!(bench.report(&session, &lease.lease, &[failed, good]).await.accepted, 2);
    // A text like this would keep analysts from asking for anything in the recipe.
    let mut unreadable = done(&lease.images[2]);
    let Outcome::Done { recipe, .. } = &mut unreadable.outcome else { panic!() };
    *recipe = r#"{"prompt":"\u0000"}"#.to_owned();
    assert!(bench.try_report(&session, &lease.lease, &[unreadable]).await.is_err());
    let release = Release { reason: ReleaseReason::Unknown, message: "\0".to_owned() };
    bench.release(&session, &lease.lease, &release).await;
    bench.store.record_output_error(&id, "\0", bench.now).await.unwrap();
    bench.store.close_session(&session, "\0", bench.now).await.unwrap();
    let images = bench.images(&id).await;
    let (_, text) = images[0].result.clone().unwrap().error.unwrap();
    assert_eq!(text, "bad \u{fffd} prompt");
    assert_eq!(images[1].result.as_ref().unwrap().device, "cuda\u{fffd}");
}

#[tokio::test]
async fn a_recipe_and_columns_come_back_to_the_letter() {
    let (store, _server) = fresh().await;
    let bench = Bench::new(store);
    let extra = "{\"b\": 1,  \"a\":\"\\u00fc\", \"b\":1.50}";
    let rows = [Row { extra: extra.to_owned(), ..row(1) }];
    let id = bench.submit_rows(spec("a"), rows.into_iter(), 1).await;
    let session = bench.session("w").await;
    let lease = bench.lease(&session).await.unwrap();
    let odd = "{ \"weights_sha256\" :\"abc\", \"z\":1.0, \"a\":\"\\u00fc\" }";
    let mut report = done(&lease.images[0]);
    let Outcome::Done { recipe, .. } = &mut report.outcome else { panic!() };
    *recipe = odd.to_owned();
    bench.report(&session, &lease.lease, &[report]).await;
    let rows = bench.store.manifest_rows(&id, 0, 10).await.unwrap();
    assert_eq!(rows[0].extra.as_deref(), Some(extra));
    assert_eq!(rows[0].image.result.as_ref().unwrap().recipe.as_deref(), Some(odd));
    assert_eq!(bench.value("select weights_sha256 from audit_images").await, "abc");
}

/// Copies, groups that begin to alternate late, and shards that cut through both.
#[tokio::test]
async fn a_shard_finds_its_images_wherever_they_are() {
    let (store, server) = fresh().await;
    let bench = Bench::new(store);
    let wanted = JobSpec { images_per_prompt: 3, ..spec("a") };
    let rows = (1..=40u64).map(|line| Row {
        width: (line > 15).then_some([64, 96, 128][line as usize % 3]),
        negative_prompt: (line % 4 == 0).then(|| format!("not {line}")),
        id: Some(format!("row {line}")),
        ..row(line)
    });
    let id = bench.submit_rows(wanted, rows, 4).await;
    let all = bench.images(&id).await;
    assert_eq!(all.len(), 120);
    let session = bench.session("w").await;
    let mut found = Vec::new();
    while let Some(lease) = bench.lease(&session).await {
        assert!(!lease.images.is_empty());
        for image in lease.images {
            let told = &all[image.index as usize];
            assert_eq!((&image.prompt, &image.negative_prompt), (&told.prompt, &told.negative_prompt));
            assert_eq!((image.seed, &image.object), (told.seed, &told.object));
            assert_eq!(lease.settings, told.settings);
            found.push(image.index);
        }
    }
    found.sort_unstable();
    assert_eq!(found, (0..120).collect::<Vec<_>>());
    assert_eq!((all[10].prompt.as_str(), all[10].negative_prompt.as_str()), ("prompt 4", "not 4"));
    let lines =
        "select count(*) from audit_images where line <> image_index / 3 + 1 or prompt_id <> 'row ' || line";
    assert_eq!(bench.value(lines).await, "0");
    // Where the groups begin to alternate there is an index for it, and nothing before.
    let mut client = sqlx::PgConnection::connect(&server.url("farm")).await.unwrap();
    let row = sqlx::query("SELECT min(idx) FILTER (WHERE mixed) AS first, count(*) FILTER (WHERE NOT mixed) AS plain FROM images")
        .fetch_one(&mut client)
        .await
        .unwrap();
    assert_eq!((row.get::<i64, _>("first"), row.get::<i64, _>("plain")), (45, 45));
}

#[tokio::test]
async fn one_name_for_two_images_is_found_across_batches() {
    let (store, _server) = fresh().await;
    let bench = Bench::new(store);
    let named = JobSpec { name_template: "{id}.png".to_owned(), ..spec("a") };
    let rows = (1..=9000u64).map(|line| Row { id: Some(format!("{}", line % 8500)), ..row(line) });
    let text = bench.try_submit(named, rows, 32).await.unwrap_err().to_string();
    assert!(text.starts_with("line 8501: ") && text.contains("\"1.png\""), "{text}");
}

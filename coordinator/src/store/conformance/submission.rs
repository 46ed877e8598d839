//! Jobs on their way in.

use super::Bench;
use super::bench::*;
use crate::domain::spec::{JobSpec, Row};
use crate::domain::state::{ImageState, JobState};
use crate::domain::submission::Batch;
use crate::store::Error;
use crate::store::records::{Begun, Change};

pub async fn an_output_belongs_to_one_job(bench: Bench) {
    let first = bench.submit("first", 2, 2).await;
    let other = JobSpec { output: spec("first").output, ..spec("other") };
    let refused = bench.store.begin_job(&other, bench.now).await;
    assert!(matches!(&refused, Err(Error::OutputTaken { job, .. }) if *job == first), "{refused:?}");
    // Cancelled before its first picture, it has left nothing there.
    bench.change(&first, Change::Cancel).await;
    bench.try_submit(other, (1..=2).map(row), 2).await.unwrap();
}

pub async fn a_sealed_job_is_there_with_its_images(bench: Bench) {
    let mut spec = spec("a");
    spec.images_per_prompt = 2;
    let rows = [
        Row { id: Some("first".to_owned()), extra: r#"{"Category":"x","n":1}"#.to_owned(), ..row(2) },
        Row {
            width: Some(128),
            seed: Some(7),
            negative_prompt: Some(String::new()),
            extra: r#"{"n":2,"late":"ü"}"#.to_owned(),
            ..row(3)
        },
    ];
    let id = bench.submit_rows(spec.clone(), rows.into_iter(), 32).await;
    let job = bench.store.job(id.as_str()).await.unwrap();
    assert_eq!((job.state, job.images, job.done, job.failed), (JobState::Pending, 4, 0, 0));
    assert_eq!((job.settings, job.submitted_at), (spec.settings, bench.now));
    let images = bench.images(&id).await;
    let seeds: Vec<u64> = images.iter().map(|image| image.seed).collect();
    assert_eq!(seeds, [100, 101, 7, 8]);
    assert_eq!(images[1].object, "00000001-101.png");
    assert_eq!((images[0].settings.width, images[2].settings.width), (64, 128));
    assert_eq!((images[0].negative_prompt.as_str(), images[2].negative_prompt.as_str()), ("blurry", ""));
    assert!(images.iter().all(|image| image.state == ImageState::Pending && image.result.is_none()));
    assert_eq!(bench.store.columns(&id).await.unwrap(), ["Category", "n", "late"]);
    let rows = bench.store.manifest_rows(&id, 1, 2).await.unwrap();
    assert_eq!((rows[0].prompt_id.as_deref(), rows[0].line), (Some("first"), 2));
    assert_eq!(rows[1].extra.as_deref(), Some(r#"{"n":2,"late":"ü"}"#));
    assert_eq!(bench.store.jobs(None, &[JobState::Pending], 10).await.unwrap(), [job]);
    assert_eq!(bench.store.jobs(None, &[JobState::Running], 10).await.unwrap(), []);
}

pub async fn an_unsealed_job_is_invisible(bench: Bench) {
    let Begun::New(id, _) = bench.store.begin_job(&spec("a"), bench.now).await.unwrap() else { panic!() };
    assert!(matches!(bench.store.job(id.as_str()).await, Err(Error::NotFound { what: "job", .. })));
    assert_eq!(bench.store.jobs(None, &[], 10).await.unwrap(), []);
    let session = bench.session("w").await;
    assert_eq!(bench.lease(&session).await, None);
    assert_eq!(bench.value("select count(*) from audit_jobs").await, "0");
    assert_eq!(bench.value("select count(*) from audit_images").await, "0");
}

pub async fn a_token_of_a_sealed_job_finds_it(bench: Bench) {
    let id = bench.submit("a", 3, 32).await;
    let Begun::Existing(job) = bench.store.begin_job(&spec("a"), bench.now).await.unwrap() else { panic!() };
    assert_eq!((job.id, job.images), (id, 3));
    assert_eq!(bench.store.jobs(None, &[], 10).await.unwrap().len(), 1);
}

pub async fn a_token_of_unsealed_remains_starts_anew(bench: Bench) {
    let Begun::New(old, _) = bench.store.begin_job(&spec("a"), bench.now).await.unwrap() else { panic!() };
    let Begun::New(new, _) = bench.store.begin_job(&spec("a"), bench.now).await.unwrap() else { panic!() };
    assert_ne!(old, new);
    let late = bench.store.add_batch(&old, &Batch::default(), bench.now).await;
    assert!(matches!(late, Err(Error::Replaced(job)) if job == old));
    bench.store.add_batch(&new, &Batch::default(), bench.now).await.unwrap();
}

pub async fn abandoned_rows_are_purged(bench: Bench) {
    let kept = bench.submit("kept", 2, 32).await;
    let bad = [row(1), Row { prompt: String::new(), ..row(2) }];
    assert!(bench.try_submit(spec("a"), bad.into_iter(), 32).await.is_err());
    let Begun::New(again, _) = bench.store.begin_job(&spec("a"), bench.now).await.unwrap() else { panic!() };
    bench.store.abandon_job(&again).await.unwrap();
    while bench.store.purge().await.unwrap() {}
    assert_eq!(bench.images(&kept).await.len(), 2);
    // The token is free again.
    bench.submit("a", 1, 32).await;
}

pub async fn one_name_for_two_images_is_refused(bench: Bench) {
    let mut named = spec("a");
    named.name_template = "{id}.png".to_owned();
    let rows = [
        Row { id: Some("x".to_owned()), ..row(10) },
        Row { id: Some("y".to_owned()), ..row(11) },
        Row { id: Some("x".to_owned()), ..row(12) },
    ];
    let refused = bench.try_submit(named, rows.into_iter(), 32).await.unwrap_err();
    let text = refused.to_string();
    assert!(text.starts_with("line 12: ") && text.contains("\"x.png\""), "{text}");
    assert_eq!(bench.store.jobs(None, &[], 10).await.unwrap(), []);
}

pub async fn a_long_list_streams_in(bench: Bench) {
    let sizes = [64, 96, 128];
    let rows = (1..=50_000u64).map(|line| Row { width: Some(sizes[line as usize % 3]), ..row(line) });
    let id = bench.submit_rows(spec("long"), rows, 200).await;
    assert_eq!(bench.store.job(id.as_str()).await.unwrap().images, 50_000);
    let session = bench.session("w").await;
    let lease = bench.lease(&session).await.unwrap();
    assert!(lease.images.windows(2).all(|pair| pair[1].index == pair[0].index + 3));
    let page = bench.store.images(&id, &[], 49_990, 100).await.unwrap();
    assert_eq!((page.len(), page[9].index), (10, 49_999));
    bench.check_invariants().await;
}

pub async fn an_id_is_found_by_its_beginning(bench: Bench) {
    let a = bench.submit("a", 1, 32).await;
    let b = bench.submit("b", 1, 32).await;
    let common = a.as_str().bytes().zip(b.as_str().bytes()).take_while(|(x, y)| x == y).count();
    assert_eq!(bench.store.job(&a.as_str()[..=common]).await.unwrap().id, a);
    assert!(matches!(bench.store.job(&a.as_str()[..common]).await, Err(Error::Ambiguous(_))));
    // Among an owner's, those of others are not there.
    let spec = JobSpec { owner: "bob".to_owned(), ..spec("c") };
    let bobs = bench.submit_rows(spec, (1..=1).map(row), 32).await;
    let beginning = &bobs.as_str()[..1];
    assert_eq!(bench.store.job_of(Some("bob"), beginning).await.unwrap().id, bobs);
    assert!(matches!(bench.store.job_of(Some("ann"), beginning).await, Err(Error::Ambiguous(_))));
    assert!(matches!(bench.store.job_of(Some("bob"), a.as_str()).await, Err(Error::NotFound { .. })));
    assert!(matches!(bench.store.job("zz").await, Err(Error::NotFound { .. })));
    assert!(matches!(bench.store.job("").await, Err(Error::NotFound { .. })));
}

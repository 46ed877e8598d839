//! Tars in the layout webdataset.

use std::time::Duration;

use super::Bench;
use super::bench::*;
use crate::domain::blame::ErrorClass;
use crate::domain::form::{Form, ImageFormat, Layout};
use crate::domain::id::JobId;
use crate::domain::spec::{JobSpec, Row};
use crate::domain::state::{ImageState, JobState};
use crate::domain::tail::{Part, Share};
use crate::store::Error;
use crate::store::records::{Change, ImageReport, Lease, NewArchive, Quality, Reported};

pub(super) fn tars(token: &str) -> JobSpec {
    JobSpec { form: Form { layout: Layout::Webdataset, ..Form::default() }, ..spec(token) }
}

pub(super) fn tar(lease: &Lease, more: &str) -> NewArchive {
    NewArchive {
        object: format!(".staging/{}-{}{more}.tar", lease.lease.shard, lease.lease.attempt),
        bytes: 10_240,
        sha256: "a".repeat(64),
    }
}

fn pictures(lease: &Lease, range: std::ops::Range<usize>) -> Vec<ImageReport> {
    lease.images[range].iter().map(done).collect()
}

/// A job of `images` rows in shards of ten times `tenth`.
async fn submit(bench: &Bench, token: &str, images: u64, tenth: u64) -> JobId {
    bench.submit_rows(tars(token), (1..=images).map(row), tenth).await
}

pub async fn a_form_is_kept_and_told_with_each_lease(bench: Bench) {
    let form = Form { format: ImageFormat::Jpeg, quality: 80, layout: Layout::Webdataset, thumbnails: true };
    let rows = [Row { id: Some("x".to_owned()), extra: r#"{"n":1}"#.to_owned(), ..row(1) }, row(2)];
    let wanted = JobSpec { form, images_per_prompt: 2, ..spec("a") };
    let id = bench.submit_rows(wanted, rows.into_iter(), 1).await;
    assert_eq!(bench.store.job(id.as_str()).await.unwrap().form, form);
    let lease = bench.lease(&bench.session("w").await).await.unwrap();
    assert_eq!((lease.form, lease.images.len()), (form, 4));
    let told: Vec<_> =
        lease.images.iter().map(|image| (image.id.as_deref(), image.extra.as_deref())).collect();
    // Copies say what their row says.
    assert_eq!(
        told,
        [(Some("x"), Some(r#"{"n":1}"#)), (Some("x"), Some(r#"{"n":1}"#)), (None, None), (None, None)]
    );
    assert_eq!(lease.images[1].object, "00000001.jpg");
    let view = "select format || ' ' || quality || ' ' || layout from audit_jobs where thumbnails is true";
    assert_eq!(bench.value(view).await, "jpeg 80 webdataset");
    let plain = bench.submit("b", 1, 1).await;
    assert_eq!(bench.store.job(plain.as_str()).await.unwrap().form, Form::default());
}

pub async fn what_a_look_at_a_picture_gave_is_kept(bench: Bench) {
    let id = bench.submit("a", 2, 32).await;
    let session = bench.session("w").await;
    let lease = bench.lease(&session).await.unwrap();
    let mut unknown = done(&lease.images[1]);
    if let crate::store::records::Outcome::Done { quality, .. } = &mut unknown.outcome {
        *quality = None;
    }
    bench.report(&session, &lease.lease, &[done(&lease.images[0]), unknown]).await;
    let quality: Vec<_> =
        bench.images(&id).await.into_iter().map(|image| image.result.unwrap().quality).collect();
    assert_eq!(quality, [Some(Quality { entropy: 7.5, clipped: 0.25 }), None]);
    let view = "select count(*) from audit_images where entropy = 7.5 and clipped = 0.25";
    assert_eq!(bench.value(view).await, "1");
}

pub async fn pictures_of_a_tar_are_committed_together_and_once(bench: Bench) {
    let id = submit(&bench, "a", 3, 1).await;
    let session = bench.session("w").await;
    let lease = bench.lease(&session).await.unwrap();
    let report = async |range, more| {
        bench.report_tar(&session, &lease.lease, &pictures(&lease, range), tar(&lease, more)).await
    };
    let first = report(0..2, "").await.unwrap();
    assert_eq!(
        first,
        Reported { accepted: 2, known: 0, held: true, job_complete: false, taken: vec![], failed: vec![] }
    );
    // Sent again because the answer was lost.
    let again = report(0..2, "").await.unwrap();
    assert_eq!(
        again,
        Reported { accepted: 0, known: 2, held: true, job_complete: false, taken: vec![], failed: vec![] }
    );
    // Another tar of the attempt: with what is known it is to be packed anew, and without it is one too many.
    let other = report(1..3, "-1").await.unwrap();
    assert_eq!(other, Reported { taken: vec![1], held: true, ..Reported::default() });
    assert!(matches!(report(2..3, "-1").await, Err(Error::Invalid(_))));
    // A failure comes without a tar.
    let failed = [error(&lease.images[2], ErrorClass::Prompt)];
    assert!(bench.report(&session, &lease.lease, &failed).await.job_complete);
    assert_eq!(bench.store.job(id.as_str()).await.unwrap().done, 2);
    assert_eq!(
        bench.value("select images || ' ' || first_index || ' ' || last_index from audit_archives").await,
        "2 0 1"
    );
    bench.check_invariants().await;
}

pub async fn a_tar_with_an_image_that_is_there_already_is_refused_whole(mut bench: Bench) {
    let id = submit(&bench, "a", 4, 1).await;
    let (old, new) = (bench.session("old").await, bench.session("new").await);
    let first = bench.lease(&old).await.unwrap();
    bench.pass(LEASE);
    bench.store.expire_leases(CAPS, bench.now).await.unwrap();
    let second = bench.lease(&new).await.unwrap();
    // The old worker was quicker with two of them, and one was given up.
    bench.report_tar(&old, &first.lease, &pictures(&first, 1..3), tar(&first, "")).await.unwrap();
    bench.report(&new, &second.lease, &[error(&second.images[3], ErrorClass::Prompt)]).await;
    let whole =
        bench.report_tar(&new, &second.lease, &pictures(&second, 0..4), tar(&second, "")).await.unwrap();
    assert_eq!(whole, Reported { taken: vec![1, 2, 3], held: true, ..Reported::default() });
    assert_eq!(bench.images(&id).await[0].state, ImageState::Pending, "all or nothing");
    let rest =
        bench.report_tar(&new, &second.lease, &pictures(&second, 0..1), tar(&second, "-1")).await.unwrap();
    assert_eq!(
        rest,
        Reported { accepted: 1, known: 0, held: false, job_complete: true, taken: vec![], failed: vec![] }
    );
    let objects = bench.sql("select staged from audit_archives order by committed_at, attempt").await;
    assert_eq!(objects.len(), 2);
    bench.check_invariants().await;
}

pub async fn a_report_that_does_not_fit_its_layout_is_refused(bench: Bench) {
    submit(&bench, "tars", 2, 1).await;
    let files = bench.submit("files", 2, 2).await;
    let session = bench.session("w").await;
    let lease = bench.lease(&session).await.unwrap();
    let all = || pictures(&lease, 0..2);
    let loose = bench.try_report(&session, &lease.lease, &all()).await.unwrap_err().to_string();
    assert!(loose.contains("with the archive"), "{loose}");
    let report = async |results: &[ImageReport], archive| {
        bench.report_tar(&session, &lease.lease, results, archive).await
    };
    let good = tar(&lease, "");
    let mixed = [done(&lease.images[0]), error(&lease.images[1], ErrorClass::Prompt)];
    for (results, archive) in [
        (all(), NewArchive { object: "train-000000.tar".to_owned(), ..good.clone() }),
        (all(), NewArchive { sha256: "zz".to_owned(), ..good.clone() }),
        (mixed.to_vec(), good.clone()),
        (vec![], good.clone()),
        (vec![done(&lease.images[0]); 2], good.clone()),
    ] {
        let refused = report(&results, archive).await;
        assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    }
    let plain = bench.try_lease(&session, Some(&files)).await.unwrap().unwrap();
    let packed = bench.report_tar(&session, &plain.lease, &pictures(&plain, 0..2), tar(&plain, "")).await;
    assert!(packed.unwrap_err().to_string().contains("in no archive"));
    assert_eq!(bench.value("select sum(done + failed) from audit_jobs").await, "0");
    assert_eq!(bench.value("select count(*) from audit_archives").await, "0");
    assert_eq!(report(&all(), good).await.unwrap().accepted, 2);
}

pub async fn tars_are_numbered_without_holes_and_then_their_job_ends(bench: Bench) {
    let id = submit(&bench, "a", 30, 1).await;
    let output = spec("a").output;
    let session = bench.session("w").await;
    let publish = async || {
        let archives = bench.store.number_archives(&output, 100).await.unwrap();
        for archive in &archives {
            bench.store.archive_published(&archive.lease, bench.now).await.unwrap();
        }
        archives.iter().map(|archive| archive.number).collect::<Vec<_>>()
    };
    let mut leases = Vec::new();
    while let Some(lease) = bench.lease(&session).await {
        leases.push(lease);
    }
    assert_eq!(leases.len(), 3);
    for lease in &leases[..2] {
        bench.report_tar(&session, &lease.lease, &pictures(lease, 0..10), tar(lease, "")).await.unwrap();
    }
    assert_eq!(bench.store.outputs_to_publish().await.unwrap(), [output.as_str()]);
    // A number that was given stays, whatever comes between it and its record.
    let first = bench.store.number_archives(&output, 1).await.unwrap();
    assert_eq!((first.len(), first[0].number, first[0].name()), (1, 0, "train-000000.tar".to_owned()));
    assert_eq!(first, bench.store.number_archives(&output, 1).await.unwrap());
    assert_eq!(bench.images(&id).await[0].result.as_ref().unwrap().archive, None);
    let rows = bench.store.archive_rows(&first[0]).await.unwrap();
    let indices: Vec<u64> = rows.iter().map(|row| row.image.index).collect();
    assert_eq!(indices, (0..10).collect::<Vec<_>>());
    assert_eq!(publish().await, [0, 1]);
    let last = &leases[2];
    let done = bench.report_tar(&session, &last.lease, &pictures(last, 0..10), tar(last, "")).await.unwrap();
    assert!(done.job_complete);
    assert_eq!(bench.store.jobs_to_finish().await.unwrap(), []);
    assert!(bench.store.finish_job(&id, bench.now).await.is_err());
    assert_eq!(publish().await, [2]);
    assert_eq!(bench.store.outputs_to_publish().await.unwrap(), [""; 0]);
    assert_eq!(bench.store.jobs_to_finish().await.unwrap().len(), 1);
    assert_eq!(bench.store.finish_job(&id, bench.now).await.unwrap().state, JobState::Succeeded);
    let image = bench.images(&id).await.remove(29);
    assert_eq!(image.result.unwrap().archive.as_deref(), Some("train-000002.tar"));
    let view = "select archive from audit_images where image_index = 10";
    assert_eq!(bench.value(view).await, "train-000001.tar");
    let listed = bench.store.archives(&output, 1, 1).await.unwrap();
    assert_eq!(
        (listed[0].number, listed[0].images, listed[0].sha256.as_str()),
        (1, 10, "a".repeat(64).as_str())
    );
}

pub async fn a_cut_shard_gives_a_smaller_tar(bench: Bench) {
    let id = submit(&bench, "a", 8, 1).await;
    let (slow, idle) = (bench.session("slow").await, bench.session("idle").await);
    let lease = bench.lease(&slow).await.unwrap();
    let share = Share { shard: lease.lease.shard.clone(), attempt: 1, part: Part::Last(3) };
    let taken = bench.store.take_over(&idle, &share, LEASE, bench.now).await.unwrap().unwrap();
    assert_eq!((taken.form, taken.images.len()), (lease.form, 3));
    // The holder had finished one that was cut off before it heard of it.
    let mine = bench.report_tar(&slow, &lease.lease, &pictures(&lease, 0..6), tar(&lease, "")).await.unwrap();
    assert_eq!(mine.accepted, 6);
    let whole =
        bench.report_tar(&idle, &taken.lease, &pictures(&taken, 0..3), tar(&taken, "")).await.unwrap();
    assert_eq!(whole.taken, [5]);
    let rest =
        bench.report_tar(&idle, &taken.lease, &pictures(&taken, 1..3), tar(&taken, "-1")).await.unwrap();
    assert_eq!((rest.accepted, rest.job_complete), (2, true));
    let archives = bench.store.number_archives(&spec("a").output, 10).await.unwrap();
    let mut seen = Vec::new();
    for archive in &archives {
        let rows = bench.store.archive_rows(archive).await.unwrap();
        assert_eq!(rows.len() as u64, archive.images);
        seen.extend(rows.iter().map(|row| row.image.index));
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..8).collect::<Vec<_>>());
    assert_eq!(bench.store.job(id.as_str()).await.unwrap().done, 8);
    bench.check_invariants().await;
}

pub async fn tars_of_a_cancelled_job_get_their_names(bench: Bench) {
    let id = submit(&bench, "a", 20, 1).await;
    let session = bench.session("w").await;
    let lease = bench.lease(&session).await.unwrap();
    bench.change(&id, Change::Cancel).await;
    let late =
        bench.report_tar(&session, &lease.lease, &pictures(&lease, 0..10), tar(&lease, "")).await.unwrap();
    assert_eq!((late.accepted, late.job_complete), (10, false));
    assert_eq!(bench.store.number_archives(&spec("a").output, 10).await.unwrap().len(), 1);
}

/// Renders a job of tars to its end.
async fn render(bench: &Bench, id: &JobId, output: &str) {
    let session = bench.session("w").await;
    while let Some(lease) = bench.lease(&session).await {
        let all = pictures(&lease, 0..lease.images.len());
        bench.report_tar(&session, &lease.lease, &all, tar(&lease, "")).await.unwrap();
    }
    for archive in bench.store.number_archives(output, 100).await.unwrap() {
        bench.store.archive_published(&archive.lease, bench.now).await.unwrap();
    }
    bench.store.finish_job(id, bench.now).await.unwrap();
}

pub async fn a_job_may_be_added_to_the_output_of_ended_ones(mut bench: Bench) {
    let first = submit(&bench, "a", 12, 1).await;
    let output = spec("a").output;
    let added = |token| JobSpec { output: output.clone(), append: true, ..tars(token) };
    let rows = || (1..=5).map(row);
    let early = bench.try_submit(added("b"), rows(), 1).await.unwrap_err();
    assert!(early.to_string().contains("has not ended"), "{early}");
    render(&bench, &first, &output).await;
    let taken = bench.try_submit(JobSpec { append: false, ..added("b") }, rows(), 1).await.unwrap_err();
    assert!(matches!(&taken, Error::OutputTaken { job, .. } if *job == first), "{taken:?}");
    let files = JobSpec { form: Form::default(), ..added("b") };
    let unlike = bench.try_submit(files, rows(), 1).await.unwrap_err();
    assert!(unlike.to_string().contains("another layout"), "{unlike}");
    bench.pass(Duration::from_secs(1));
    let second = bench.submit_rows(added("b"), rows(), 1).await;
    let images = bench.images(&second).await;
    assert_eq!((images[0].index, images[0].seed, images[0].object.as_str()), (0, 100, "00000012.png"));
    assert_eq!(
        bench.value(&format!("select index_base from audit_jobs where job_id = '{second}'")).await,
        "12"
    );
    render(&bench, &second, &output).await;
    // Numbers go on.
    let numbers: Vec<u64> =
        bench.store.archives(&output, 0, 10).await.unwrap().iter().map(|archive| archive.number).collect();
    assert_eq!(numbers, [0, 1, 2]);
    let jobs: Vec<_> =
        bench.store.jobs_of_output(&output).await.unwrap().into_iter().map(|job| job.id).collect();
    assert_eq!(jobs, [first, second]);
    let third = bench.submit_rows(added("c"), rows(), 1).await;
    assert_eq!(bench.images(&third).await[0].object, "00000017.png");
}

pub async fn a_name_of_an_earlier_job_is_not_given_again(bench: Bench) {
    let named = |token: &str, template: &str| JobSpec {
        output: "/out/shared".to_owned(),
        append: true,
        name_template: template.to_owned(),
        ..spec(token)
    };
    let rows = |names: &'static [&'static str]| {
        let row = |(line, name): (u64, &&str)| Row { id: Some((*name).to_owned()), ..row(line) };
        (2u64..).zip(names).map(row)
    };
    let first = bench.submit_rows(named("a", "{id}"), rows(&["x", "2-y"]), 32).await;
    let session = bench.session("w").await;
    bench.render_all(&session).await;
    bench.store.finish_job(&first, bench.now).await.unwrap();
    let twice = bench.try_submit(named("b", "{id}"), rows(&["z", "x"]), 32).await.unwrap_err().to_string();
    assert!(twice.starts_with("line 3: ") && twice.contains("\"x.png\""), "{twice}");
    // Also by a template that counts on from 2.
    let counted =
        bench.try_submit(named("c", "{index}-{id}"), rows(&["y"]), 32).await.unwrap_err().to_string();
    assert!(counted.starts_with("line 2: ") && counted.contains("\"2-y.png\""), "{counted}");
    let second = bench.submit_rows(named("d", "{id}"), rows(&["z"]), 32).await;
    bench.render_all(&session).await;
    bench.store.finish_job(&second, bench.now).await.unwrap();
    // Thumbnails are JPEGs, whatever the pictures are.
    let form = Form { format: ImageFormat::Jpeg, thumbnails: true, ..Form::default() };
    let small = JobSpec { form, ..named("e", "{id}") };
    let met = bench.try_submit(small, rows(&["x"]), 32).await.unwrap_err();
    assert!(matches!(met, Error::NoAppend { .. }), "{met:?}");
}

pub async fn of_two_jobs_that_come_in_for_one_output_the_first_sealed_has_it(bench: Bench) {
    let shared = |token: &str| JobSpec { output: "/out/shared".to_owned(), append: true, ..spec(token) };
    let begin = async |token: &str| match bench.store.begin_job(&shared(token), bench.now).await.unwrap() {
        crate::store::records::Begun::New(job, before) => (job, before),
        there => panic!("{there:?}"),
    };
    let (slow, before) = begin("slow").await;
    assert_eq!(before, 0);
    let quick = bench.submit_rows(shared("quick"), (1..=2).map(row), 32).await;
    let late = bench.store.seal_job(&slow, &Default::default(), bench.now).await;
    assert!(matches!(&late, Err(Error::OutputTaken { job, .. }) if *job == quick), "{late:?}");
}

pub async fn a_lost_tar_is_withdrawn_whole_and_its_number_given_again(bench: Bench) {
    let id = submit(&bench, "a", 30, 1).await;
    let output = spec("a").output;
    render(&bench, &id, &output).await;
    let changed =
        bench.store.change_job(&id, &Change::Requeue(vec![14]), &by_bob(), bench.now).await.unwrap();
    assert_eq!((changed.retried, changed.job.done, changed.job.state), (10, 20, JobState::Running));
    let numbers = async || {
        let archives = bench.store.archives(&output, 0, 10).await.unwrap();
        archives.iter().map(|archive| (archive.number, archive.lease.attempt)).collect::<Vec<_>>()
    };
    assert_eq!(numbers().await, [(0, 1), (2, 1)]);
    let session = bench.session("w").await;
    let lease = bench.lease(&session).await.unwrap();
    assert_eq!((lease.lease.attempt, lease.images.len()), (2, 10));
    // What the attempt of that time packed is gone.
    let old = crate::store::records::LeaseRef { attempt: 1, ..lease.lease.clone() };
    let late = Lease { lease: old.clone(), ..lease.clone() };
    let told = bench.report_tar(&session, &old, &pictures(&late, 0..2), tar(&late, "-7")).await.unwrap();
    assert_eq!((told.accepted, told.taken), (0, vec![10, 11]));
    bench.report_tar(&session, &lease.lease, &pictures(&lease, 0..10), tar(&lease, "")).await.unwrap();
    for archive in bench.store.number_archives(&output, 10).await.unwrap() {
        bench.store.archive_published(&archive.lease, bench.now).await.unwrap();
    }
    assert_eq!(numbers().await, [(0, 1), (1, 2), (2, 1)]);
    assert_eq!(bench.store.finish_job(&id, bench.now).await.unwrap().state, JobState::Succeeded);
    bench.check_invariants().await;
}

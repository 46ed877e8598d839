//! Outputs of tars, and outputs that several jobs share.

use std::path::Path;
use std::time::Duration;

use parquet::file::reader::{FileReader, SerializedFileReader};
use sanafarm_proto::v1;
use sanafarm_proto::v1::submit_job_request::Part;
use sha2::{Digest, Sha256};

use super::support::{Farm, done, farm, part, row};

const TAR: &[u8] = b"as good as a tar";

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn submit(farm: &mut Farm, spec: v1::JobSpec, rows: u64) -> Result<v1::Job, tonic::Status> {
    let batch = v1::PromptBatch { rows: (1..=rows).map(row).collect() };
    let parts = [Part::Spec(spec), Part::Batch(batch), Part::Seal(v1::Seal { rows })];
    let answer = farm.jobs.submit_job(futures::stream::iter(parts.map(part))).await?;
    Ok(answer.into_inner().job.unwrap())
}

fn tars(farm: &Farm, token: &str) -> v1::JobSpec {
    let form = v1::Form { layout: v1::Layout::Webdataset.into(), thumbnails: true, ..v1::Form::default() };
    v1::JobSpec { form: Some(form), ..farm.spec(token) }
}

/// Renders everything that is ready: puts a tar for each lease and reports it.
async fn render(farm: &mut Farm) -> Vec<v1::Lease> {
    let session = farm.session().await;
    let mut leases = Vec::new();
    while let Some(lease) = farm.lease(&session, Duration::ZERO).await {
        let staged = farm.output().join(&lease.archive);
        std::fs::create_dir_all(staged.parent().unwrap()).unwrap();
        std::fs::write(&staged, TAR).unwrap();
        assert_eq!(report(farm, &session, &lease).await.accepted, lease.images.len() as u64);
        leases.push(lease);
    }
    leases
}

async fn report(farm: &mut Farm, session: &str, lease: &v1::Lease) -> v1::ReportResultsResponse {
    let results = lease.images.iter().map(|image| v1::ImageResult {
        index: image.index,
        outcome: Some(done(image)),
        device_id: "cpu".to_owned(),
        ..v1::ImageResult::default()
    });
    let archive = v1::Archive { object: lease.archive.clone(), bytes: TAR.len() as u64, sha256: sha256(TAR) };
    let request = v1::ReportResultsRequest {
        session_id: session.to_owned(),
        lease: lease.r#ref.clone(),
        results: results.collect(),
        archive: Some(archive),
        job_id: String::new(),
    };
    farm.workers.report_results(request).await.unwrap().into_inner()
}

fn rows(file: &Path) -> Vec<parquet::record::Row> {
    let reader = SerializedFileReader::new(std::fs::File::open(file).unwrap()).unwrap();
    reader.get_row_iter(None).unwrap().map(Result::unwrap).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn tars_get_their_names_while_the_job_runs_and_an_index_at_its_end() {
    let mut farm = farm().await;
    let spec = tars(&farm, "a");
    // Three sizes are three shards.
    let batch = (1..=6).map(|line| v1::PromptRow { width: Some(32 + 32 * (line % 3) as u32), ..row(line) });
    let parts = [
        Part::Spec(spec),
        Part::Batch(v1::PromptBatch { rows: batch.collect() }),
        Part::Seal(v1::Seal { rows: 6 }),
    ];
    let answer = farm.jobs.submit_job(futures::stream::iter(parts.map(part))).await.unwrap();
    let job = answer.into_inner().job.unwrap();
    let leases = render(&mut farm).await;
    assert_eq!(leases.len(), 3);
    assert_eq!(leases[0].images[0].object, "00000000.png");
    assert_eq!(leases[0].images[0].thumbnail, "thumbnails/00000000.jpg");
    let last = farm.watch(&job.job_id).await.pop().unwrap();
    assert_eq!((last.state(), last.output_error), (v1::JobState::Succeeded, None));
    let tars = ["train-000000.tar", "train-000001.tar", "train-000002.tar"];
    let there = names(&farm.output());
    let wanted = [".staging", "README.md", "index.json", "manifest.parquet", "manifests"];
    assert_eq!(there, wanted.iter().chain(&tars).copied().collect::<Vec<_>>());
    assert_eq!(names(&farm.output().join(".staging")), [""; 0]);
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(farm.output().join("index.json")).unwrap()).unwrap();
    assert_eq!((&index["__kind__"], &index["wids_version"]), (&"wids-shard-index-v1".into(), &1.into()));
    assert_eq!((&index["nsamples"], &index["shards"], &index["name"]), (&6.into(), &3.into(), &"a".into()));
    let entry = &index["shardlist"][1];
    assert_eq!((&entry["url"], &entry["nsamples"]), (&tars[1].into(), &2.into()));
    assert_eq!((&entry["filesize"], &entry["sha256"]), (&TAR.len().into(), &sha256(TAR).into()));
    // Each tar has its part of the manifest, and the whole tells the tar of each image.
    let told: Vec<String> = rows(&farm.output().join("manifest.parquet"))
        .iter()
        .map(|row| row.get_column_iter().find(|(name, _)| *name == "archive").unwrap().1.to_string())
        .collect();
    assert_eq!(told.len(), 6);
    for (number, tar) in tars.iter().enumerate() {
        let part = rows(&farm.output().join(format!("manifests/train-{number:06}.parquet")));
        let quoted = format!("\"{tar}\"");
        assert_eq!((part.len(), told.iter().filter(|archive| **archive == quoted).count()), (2, 2));
        assert!(part[0].get_column_iter().any(|(_, value)| value.to_string() == quoted));
    }
    let card = std::fs::read_to_string(farm.output().join("README.md")).unwrap();
    for text in ["    - \"train-*.tar\"\n", "  - name: png\n    dtype: image\n", "num_examples: 6\n"] {
        assert!(card.contains(text), "{card}");
    }
    let request = v1::ListImagesRequest { job_id: job.job_id, ..v1::ListImagesRequest::default() };
    let image = farm.jobs.list_images(request).await.unwrap().into_inner().message().await.unwrap().unwrap();
    assert_eq!(image.thumbnail, "thumbnails/00000000.jpg");
    assert!(tars.contains(&image.archive.as_str()) && image.quality.is_some() && !image.shard_id.is_empty());
}

#[tokio::test]
async fn a_tar_that_had_its_name_before_a_crash_is_known_again_and_another_is_not() {
    let mut farm = farm().await;
    std::fs::create_dir_all(farm.output()).unwrap();
    let (spec, final_name) = (tars(&farm, "a"), farm.output().join("train-000000.tar"));
    std::fs::write(&final_name, "somebody's").unwrap();
    let job = submit(&mut farm, spec, 2).await.unwrap();
    let lease = render(&mut farm).await.remove(0);
    let request = v1::WatchJobRequest { job_id: job.job_id.clone() };
    let mut watch = farm.jobs.watch_job(request).await.unwrap().into_inner();
    let trouble = loop {
        let seen = watch.message().await.unwrap().unwrap();
        if let Some(trouble) = seen.output_error {
            break trouble;
        }
    };
    assert!(trouble.contains("another file stands at train-000000.tar"), "{trouble}");
    assert_eq!(std::fs::read(&final_name).unwrap(), b"somebody's");
    // As if it had been named and nothing more; and what is left of its old name goes.
    std::fs::write(&final_name, TAR).unwrap();
    let last = farm.watch(&job.job_id).await.pop().unwrap();
    assert_eq!((last.state(), last.output_error), (v1::JobState::Succeeded, None));
    assert!(!farm.output().join(&lease.archive).exists());
}

#[tokio::test]
async fn a_job_that_is_added_goes_on_with_names_and_files_tell_of_all() {
    let mut farm = farm().await;
    let spec = tars(&farm, "a");
    let first = submit(&mut farm, spec, 2).await.unwrap();
    render(&mut farm).await;
    farm.watch(&first.job_id).await;
    let alone = tars(&farm, "b");
    let refused = submit(&mut farm, alone.clone(), 3).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::AlreadyExists);
    assert!(refused.message().contains("--append"), "{refused}");
    let added = v1::JobSpec { append: true, ..alone };
    let second = submit(&mut farm, added, 3).await.unwrap();
    let lease = render(&mut farm).await.remove(0);
    assert_eq!((lease.images[0].index, lease.images[0].object.as_str()), (0, "00000002.png"));
    farm.watch(&second.job_id).await;
    assert!(farm.output().join("train-000001.tar").exists());
    let manifest = rows(&farm.output().join("manifest.parquet"));
    let objects: Vec<_> =
        manifest.iter().map(|row| row.get_column_iter().next().unwrap().1.to_string()).collect();
    let wanted: Vec<_> = (0..5).map(|index| format!("\"{index:08}.png\"")).collect();
    assert_eq!(objects, wanted);
    let index = std::fs::read_to_string(farm.output().join("index.json")).unwrap();
    assert!(index.contains("\"shards\":2,\"nsamples\":5,"), "{index}");
    let card = std::fs::read_to_string(farm.output().join("README.md")).unwrap();
    for job in [&first.job_id, &second.job_id] {
        let line = card.lines().find(|line| line.starts_with(&format!("| {job} | "))).unwrap();
        assert!(line.contains("| succeeded |"), "{line}");
    }
}

#[tokio::test]
async fn a_form_that_cannot_be_is_refused() {
    let mut farm = farm().await;
    for (form, name_template, why) in [
        (v1::Form { quality: 90, ..v1::Form::default() }, "", "format png has no quality"),
        (v1::Form { format: 99, ..v1::Form::default() }, "", "unknown image format 99"),
        (
            v1::Form { format: v1::ImageFormat::Webp.into(), ..v1::Form::default() },
            "{index}.png",
            "has .webp",
        ),
        (v1::Form { layout: v1::Layout::Webdataset.into(), ..v1::Form::default() }, "a/{index}", "has a /"),
    ] {
        let spec =
            v1::JobSpec { form: Some(form), name_template: name_template.to_owned(), ..farm.spec("a") };
        let refused = submit(&mut farm, spec, 1).await.unwrap_err();
        assert!(
            refused.code() == tonic::Code::InvalidArgument && refused.message().contains(why),
            "{refused}"
        );
    }
    let spec = v1::JobSpec { name_template: "{colour}/{index}".to_owned(), ..farm.spec("a") };
    let refused = submit(&mut farm, spec, 1).await.unwrap_err();
    assert!(refused.message().starts_with("line 1: the name template has {colour}"), "{refused}");
}

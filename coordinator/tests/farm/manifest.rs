//! The manifest and the metadata beside the pictures.

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use sanafarm_proto::v1;

use super::support::{Farm, farm, row};

#[tokio::test]
async fn the_manifest_tells_of_every_image_and_the_metadata_of_every_picture() {
    let mut farm = farm().await;
    let rows = vec![
        v1::PromptRow {
            id: Some("one".to_owned()),
            extra: r#"{"Category":"Animals","seed":"theirs","n":1}"#.to_owned(),
            ..row(2)
        },
        v1::PromptRow { guidance: Some(1.5), width: Some(96), extra: r#"{"n":null}"#.to_owned(), ..row(3) },
        v1::PromptRow { negative_prompt: Some("blurry \"x\"".to_owned()), ..row(4) },
    ];
    let job = farm.submit("a", rows).await;
    farm.render_all(|index| index == 1).await;
    let seen = farm.watch(&job.job_id).await;
    assert_eq!(seen.last().unwrap().state(), v1::JobState::Failed);
    assert_eq!(seen.last().unwrap().error.as_deref(), Some("cannot be drawn"));

    let file = std::fs::File::open(farm.output().join("manifest.parquet")).unwrap();
    let reader = SerializedFileReader::new(file).unwrap();
    let rows: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
    let names: Vec<&str> = rows[0].get_column_iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "image_name",
            "prompt",
            "part_id",
            "seed",
            "step",
            "cfg",
            "sampler",
            "width",
            "height",
            "user_name",
            "timestamp",
            "image_nsfw",
            "prompt_nsfw",
            "index",
            "state",
            "negative_prompt",
            "model",
            "weights_sha256",
            "dtype",
            "decode",
            "sha256",
            "bytes",
            "job_id",
            "shard_id",
            "attempt",
            "worker",
            "device",
            "render_seconds",
            "decode_seconds",
            "error_class",
            "error",
            "id",
            "line",
            "format",
            "archive",
            "thumbnail",
            "entropy",
            "clipped",
            "Category",
            "input_seed",
            "n",
        ]
    );
    let cell = |row: usize, name: &str| {
        let found = rows[row].get_column_iter().find(|(column, _)| *column == name);
        found.unwrap().1.clone()
    };
    let text = |text: &str| Field::Str(text.to_owned());
    assert_eq!(rows.len(), 3);
    assert_eq!(cell(0, "image_name"), text("00000000-100.png"));
    assert_eq!((cell(0, "prompt"), cell(0, "seed")), (text("prompt 2"), Field::Long(100)));
    assert_eq!((cell(0, "user_name"), cell(0, "part_id")), (text("ann"), Field::Null));
    assert_eq!((cell(0, "weights_sha256"), cell(0, "dtype")), (text("abc"), text("f32")));
    assert_eq!((cell(0, "render_seconds"), cell(0, "bytes")), (Field::Double(1.5), Field::Long(1000)));
    assert_eq!((cell(0, "Category"), cell(0, "input_seed")), (text("Animals"), text("theirs")));
    assert_eq!((cell(0, "n"), cell(1, "n"), cell(2, "n")), (text("1"), Field::Null, Field::Null));
    assert_eq!((cell(0, "id"), cell(1, "id"), cell(1, "line")), (text("one"), Field::Null, Field::Long(3)));
    assert_eq!((cell(1, "state"), cell(1, "error_class")), (text("failed"), text("prompt")));
    assert_eq!((cell(1, "sha256"), cell(1, "render_seconds")), (Field::Null, Field::Null));
    assert_eq!((cell(1, "cfg"), cell(1, "width")), (Field::Double(1.5), Field::Long(96)));
    assert!(matches!(cell(2, "timestamp"), Field::TimestampMillis(_)));
    assert_eq!((cell(1, "format"), cell(0, "archive")), (text("png"), Field::Null));
    assert_eq!((cell(0, "entropy"), cell(1, "entropy")), (Field::Double(7.5), Field::Null));
    let part = std::fs::read(farm.output().join("manifests/part-000000.parquet")).unwrap();
    assert_eq!(part, std::fs::read(farm.output().join("manifest.parquet")).unwrap());
    let card = std::fs::read_to_string(farm.output().join("README.md")).unwrap();
    assert!(
        card.contains("    - \"*.png\"\n    - metadata.jsonl\n") && card.contains("num_examples: 2"),
        "{card}"
    );

    let metadata = std::fs::read_to_string(farm.output().join("metadata.jsonl")).unwrap();
    let lines: Vec<serde_json::Map<String, serde_json::Value>> =
        metadata.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "the failed image has no file");
    let keys = |line: usize| lines[line].keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(0)[..2], ["file_name", "text"]);
    assert_eq!(keys(0), keys(1));
    assert_eq!(lines[0]["file_name"], "00000000-100.png");
    assert_eq!((&lines[0]["n"], &lines[1]["n"]), (&"1".into(), &serde_json::Value::Null));
    assert_eq!(lines[1]["negative_prompt"], "blurry \"x\"");
    assert_eq!(lines[0]["input_seed"], "theirs");
    let mut scratch = std::fs::read_dir(farm.folder.path().join("farm.db-scratch")).unwrap();
    assert!(scratch.next().is_none(), "no temporary file is left");
}

/// All bytes of an export, and how many images were told with the last piece.
async fn exported(farm: &mut Farm, job: &str, format: v1::ExportFormat) -> (Vec<u8>, u64) {
    let request = v1::ExportJobRequest { job_id: job.to_owned(), format: format.into() };
    let mut pieces = farm.jobs.export_job(request).await.unwrap().into_inner();
    let (mut bytes, mut images) = (Vec::new(), 0);
    while let Some(piece) = pieces.message().await.unwrap() {
        assert!(piece.images >= images && piece.data.len() <= 4 << 20);
        bytes.extend(piece.data);
        images = piece.images;
    }
    (bytes, images)
}

#[tokio::test]
async fn a_job_is_exported_as_it_is() {
    let mut farm = farm().await;
    let extra = r#"{"Category":"a, \"b\"","seed":"mine"}"#.to_owned();
    let rows = vec![v1::PromptRow { extra, id: Some("x".to_owned()), ..row(1) }, row(2), row(3)];
    let job = farm.submit("a", rows).await;
    let session = farm.session().await;
    let mut lease = farm.lease(&session, std::time::Duration::ZERO).await.unwrap();
    lease.images.truncate(2);
    farm.report(&session, &lease, |index| index == 1).await;

    let (parquet, images) = exported(&mut farm, &job.job_id, v1::ExportFormat::Parquet).await;
    assert_eq!(images, 3);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.parquet");
    std::fs::write(&file, parquet).unwrap();
    let reader = SerializedFileReader::new(std::fs::File::open(&file).unwrap()).unwrap();
    let rows: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 3);

    let (jsonl, images) = exported(&mut farm, &job.job_id, v1::ExportFormat::Jsonl).await;
    let lines: Vec<serde_json::Value> = std::str::from_utf8(&jsonl)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!((lines.len(), images), (3, 3));
    let told = |line: usize, name: &str| lines[line][name].clone();
    assert_eq!(
        (told(0, "state"), told(1, "state"), told(2, "state")),
        ("done".into(), "failed".into(), "pending".into())
    );
    assert_eq!(
        (told(0, "seed"), told(0, "input_seed"), told(0, "Category")),
        (100.into(), "mine".into(), "a, \"b\"".into())
    );
    assert_eq!(
        (told(0, "sha256"), told(2, "sha256")),
        (format!("{:064x}", 0).into(), serde_json::Value::Null)
    );
    let finished = told(0, "timestamp");
    assert!(finished.as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{finished}");
    let names: Vec<String> = rows[0].get_column_iter().map(|(name, _)| name.clone()).collect();
    let keys: Vec<&String> = lines[0].as_object().unwrap().keys().collect();
    let mut sorted: Vec<&String> = names.iter().collect();
    sorted.sort();
    let mut keys = keys;
    keys.sort();
    assert_eq!(keys, sorted, "the same columns");

    let (csv, images) = exported(&mut farm, &job.job_id, v1::ExportFormat::Csv).await;
    let csv = String::from_utf8(csv).unwrap();
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!((lines.len(), images), (4, 3));
    assert_eq!(lines[0].split(',').collect::<Vec<_>>(), names);
    assert!(lines[1].contains(r#""a, ""b""""#) && lines[1].contains(",done,"), "{}", lines[1]);
}

#[tokio::test]
async fn a_long_job_is_exported_in_pieces_and_nobody_waits_for_who_stops_reading() {
    let mut farm = farm().await;
    let rows =
        (1..=9000).map(|line| v1::PromptRow { prompt: "p".repeat(500), line, ..v1::PromptRow::default() });
    let job = farm.submit("a", rows.collect()).await;
    let (jsonl, images) = exported(&mut farm, &job.job_id, v1::ExportFormat::Jsonl).await;
    assert_eq!((jsonl.iter().filter(|byte| **byte == b'\n').count(), images), (9000, 9000));
    let request = v1::ExportJobRequest { job_id: job.job_id.clone(), format: v1::ExportFormat::Jsonl.into() };
    let mut pieces = farm.jobs.export_job(request).await.unwrap().into_inner();
    assert!(pieces.message().await.unwrap().unwrap().data.len() < jsonl.len() / 4);
    drop(pieces);
    let Farm { coordinator, folder: _folder, .. } = farm;
    coordinator.close().await;
}

#[tokio::test]
async fn what_an_output_may_hold_is_listed() {
    let mut farm = farm().await;
    let job = farm.submit("a", vec![row(1), row(2)]).await;
    farm.render_all(|index| index == 1).await;
    farm.watch(&job.job_id).await;
    let request = v1::ListObjectsRequest { output: farm.output().display().to_string() };
    let mut pages = farm.jobs.list_objects(request).await.unwrap().into_inner();
    let mut told = Vec::new();
    while let Some(page) = pages.message().await.unwrap() {
        told.extend(page.objects.into_iter().map(|object| (object.name, object.state, object.index)));
    }
    let manifest = |name: &str| (name.to_owned(), "manifest".to_owned(), None);
    let image = |name: &str, state: &str, index| (name.to_owned(), state.to_owned(), Some(index));
    assert_eq!(
        told,
        [
            image("00000000-100.png", "done", 0),
            image("00000001-101.png", "dead", 1),
            manifest("README.md"),
            manifest("manifest.parquet"),
            manifest("manifests/part-000000.parquet"),
            manifest("metadata.jsonl"),
        ]
    );
    let nowhere = v1::ListObjectsRequest { output: "/nowhere".to_owned() };
    let refused = farm.jobs.list_objects(nowhere).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (tonic::Code::NotFound, "no job with output /nowhere"));
}

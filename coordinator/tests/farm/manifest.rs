//! The manifest and the metadata beside the pictures.

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use sanafarm_proto::v1;

use super::support::{farm, row};

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

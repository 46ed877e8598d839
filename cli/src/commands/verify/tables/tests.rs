use std::sync::Arc;

use parquet::basic::{Repetition, Type as Physical};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;
use sanafarm_proto::v1::ImageState;

use super::*;

/// A manifest with these rows: job, index, name and hash of pictures.
fn manifest(rows: &[(&str, i64, &str, &str)]) -> File {
    let names = ["job_id", "index", "state", "image_name", "sha256", "archive"];
    let fields = names.map(|name| {
        let physical = if name == "index" { Physical::INT64 } else { Physical::BYTE_ARRAY };
        let logical = (name != "index").then_some(parquet::basic::LogicalType::String);
        let field = Type::primitive_type_builder(name, physical).with_repetition(Repetition::REQUIRED);
        Arc::new(field.with_logical_type(logical).build().unwrap())
    });
    let schema = Type::group_type_builder("images").with_fields(fields.to_vec()).build().unwrap();
    let mut file = tempfile::tempfile().unwrap();
    let mut writer =
        SerializedFileWriter::new(file.try_clone().unwrap(), Arc::new(schema), Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for name in names {
        let mut column = group.next_column().unwrap().unwrap();
        if name == "index" {
            let indices: Vec<i64> = rows.iter().map(|row| row.1).collect();
            column.typed::<Int64Type>().write_batch(&indices, None, None).unwrap();
        } else {
            let text = |row: &(&str, i64, &str, &str)| match name {
                "job_id" => row.0.to_owned(),
                "state" => "done".to_owned(),
                "image_name" => row.2.to_owned(),
                "sha256" => row.3.to_owned(),
                _ => String::new(),
            };
            let texts: Vec<ByteArray> = rows.iter().map(|row| text(row).as_str().into()).collect();
            column.typed::<ByteArrayType>().write_batch(&texts, None, None).unwrap();
        }
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
    file.rewind().unwrap();
    file
}

fn image(index: u64, object: &str, sha256: &str) -> Image {
    let (object, sha256) = (object.to_owned(), sha256.to_owned());
    Image { index, state: ImageState::Done.into(), object, sha256, ..Image::default() }
}

fn odd(rows: &[(&str, i64, &str, &str)], history: &[Image]) -> Option<String> {
    let (send, received) = mpsc::channel(AHEAD);
    history.iter().for_each(|image| send.try_send(image.clone()).unwrap());
    drop(send);
    compare(&manifest(rows), "mine", received).unwrap().1
}

#[test]
fn a_manifest_is_held_against_the_history_row_by_row() {
    let history = [image(0, "0.png", "aa"), image(1, "1.png", "bb")];
    let rows = [("before", 7, "7.png", "cc"), ("mine", 0, "0.png", "aa"), ("mine", 1, "1.png", "bb")];
    assert_eq!(odd(&rows, &history), None);
    let with = |row| [rows[0], rows[1], row];
    for (row, told) in [
        (("mine", 1, "1.png", "aa"), "its row of image 1 has another sha256"),
        (("mine", 1, "0.png", "bb"), "its row of image 1 has another image_name"),
        (("mine", 2, "1.png", "bb"), "its row of image 1 has another index"),
    ] {
        assert_eq!(odd(&with(row), &history).as_deref(), Some(told));
    }
    let told = "it has a row of image 1 that the history does not know";
    assert_eq!(odd(&rows, &history[..1]).as_deref(), Some(told));
}

#[test]
fn metadata_and_parts_are_held_against_the_manifest() {
    let rows = [("a", 0, "0.png", "aa"), ("b", 0, "x/1.png", "bb")];
    let lines = |text: &str| {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        file.rewind().unwrap();
        odd_line(file, &manifest(&rows))
    };
    let line = |index: u64, name: &str| format!("{{\"file_name\": \"{name}\", \"index\": {index}}}\n");
    let (first, second) = (line(0, "0.png"), line(0, "x/1.png"));
    assert_eq!(lines(&format!("{first}{second}")).unwrap(), None);
    for (text, told) in [
        (format!("{second}{first}"), "its line 1 does not tell of 0.png"),
        (format!("{first}{{}}\n"), "its line 2 does not tell of x/1.png"),
        (first.clone(), "it ends before x/1.png, its line 2"),
        (format!("{first}{second}{second}"), "it has more than 2 lines, one for each picture"),
    ] {
        assert_eq!(lines(&text).unwrap().as_deref(), Some(told));
    }
    assert!(lines("no line\n").is_err());

    let part = |part: &[(&str, i64, &str, &str)]| {
        let mut rows = Rows::open(manifest(&rows)).unwrap();
        (odd_row(manifest(part), &mut rows).unwrap(), rows.count())
    };
    assert_eq!(part(&rows[..1]), (None, 1));
    assert_eq!(part(&rows), (None, 0));
    let told = "its row of image 0 is none of manifest.parquet's next";
    assert_eq!(part(&rows[1..]).0.as_deref(), Some(told));
    assert_eq!(part(&[]).0.as_deref(), Some("it has no rows"));
}

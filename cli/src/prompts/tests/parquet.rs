//! Parquet files as other programs write them.

use std::path::PathBuf;
use std::sync::Arc;

use ::parquet::basic::{Compression, GzipLevel, ZstdLevel};
use ::parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FixedLenByteArrayType, FloatType, Int32Type,
    Int64Type,
};
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use ::parquet::schema::parser::parse_message_type;
use tempfile::TempDir;

use super::*;

type Group<'g> = SerializedRowGroupWriter<'g, File>;

/// Writes a file of these columns with so many row groups, each written by `group`.
fn file(
    schema: &str,
    compression: Compression,
    groups: usize,
    group: impl Fn(&mut Group<'_>),
) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
    let mut writer = SerializedFileWriter::new(File::create(&path).unwrap(), schema, properties).unwrap();
    for _ in 0..groups {
        let mut row_group = writer.next_row_group().unwrap();
        group(&mut row_group);
        row_group.close().unwrap();
    }
    writer.close().unwrap();
    (folder, path)
}

/// Writes the next column; `None` is null.
fn column<T: DataType>(group: &mut Group<'_>, cells: &[Option<T::T>]) {
    let levels: Vec<i16> = cells.iter().map(|cell| i16::from(cell.is_some())).collect();
    let values: Vec<T::T> = cells.iter().flatten().cloned().collect();
    let mut writer = group.next_column().unwrap().unwrap();
    writer.typed::<T>().write_batch(&values, Some(&levels), None).unwrap();
    writer.close().unwrap();
}

fn texts(group: &mut Group<'_>, cells: &[Option<&str>]) {
    let cells: Vec<Option<ByteArray>> = cells.iter().map(|cell| cell.map(ByteArray::from)).collect();
    column::<ByteArrayType>(group, &cells);
}

#[test]
fn cells_of_all_flat_types_are_read_and_null_is_absent() {
    let schema = "message list {
        required binary prompt (UTF8); optional int64 seed; optional int32 width; optional double guidance;
        optional float score; optional boolean ok; optional binary note (UTF8); optional binary bare;
        optional int64 at (TIMESTAMP(MICROS,true)); optional int64 local (TIMESTAMP(NANOS,false));
        optional int32 day (DATE); optional int32 price (DECIMAL(9,2)); optional int32 part (INTEGER(16,false));
        optional fixed_len_byte_array(4) fixed (DECIMAL(9,1)); }";
    let (_folder, path) = file(schema, Compression::SNAPPY, 1, |group| {
        texts(group, &[Some("a"), Some("b")]);
        column::<Int64Type>(group, &[Some(7), None]);
        column::<Int32Type>(group, &[Some(512), None]);
        column::<DoubleType>(group, &[Some(4.5), None]);
        column::<FloatType>(group, &[Some(0.1), Some(f32::NAN)]);
        column::<BoolType>(group, &[Some(true), None]);
        texts(group, &[Some("x\"y"), None]);
        texts(group, &[Some("é"), None]);
        column::<Int64Type>(group, &[Some(1_660_978_441_000_000), None]);
        column::<Int64Type>(group, &[Some(1), None]);
        column::<Int32Type>(group, &[Some(-1), None]);
        column::<Int32Type>(group, &[Some(-5), Some(12_345)]);
        column::<Int32Type>(group, &[Some(65_535), None]);
        column::<FixedLenByteArrayType>(
            group,
            &[Some(ByteArray::from(vec![255, 255, 255, 245]).into()), None],
        );
    });
    assert_eq!(
        read_path(&path, None, Chosen::default()),
        [
            concat!(
                r#"1| a; seed=7; width=512; guidance=4.5; extra={"score":0.1,"ok":true,"note":"x\"y","bare":"é","#,
                r#""at":"2022-08-20T06:54:01Z","local":"1970-01-01T00:00:00.000000001","day":"1969-12-31","#,
                r#""price":-0.05,"part":65535,"fixed":-1.1}"#
            ),
            concat!(
                r#"2| b; extra={"score":null,"ok":null,"note":null,"bare":null,"at":null,"local":null,"#,
                r#""day":null,"price":123.45,"part":null,"fixed":null}"#
            ),
        ]
    );
}

#[test]
fn every_compression_and_many_row_groups_are_read_in_order() {
    let gzip = Compression::GZIP(GzipLevel::try_new(6).unwrap());
    let zstd = Compression::ZSTD(ZstdLevel::try_new(3).unwrap());
    for compression in
        [Compression::UNCOMPRESSED, Compression::SNAPPY, gzip, zstd, Compression::LZ4_RAW, Compression::LZ4]
    {
        let schema = "message list { required binary prompt (UTF8); optional binary kind (UTF8); }";
        let prompts: Vec<String> = (0..3000).map(|number| format!("prompt {number}")).collect();
        let (_folder, path) = file(schema, compression, 2, |group| {
            texts(group, &prompts.iter().map(|prompt| Some(prompt.as_str())).collect::<Vec<_>>());
            // Few values: a dictionary.
            let kinds = (0..3000).map(|number| [Some("dog"), Some("cat"), None][number % 3]);
            texts(group, &kinds.collect::<Vec<_>>());
        });
        let rows = read_path(&path, None, Chosen::default());
        assert_eq!(rows.len(), 6000, "{compression:?}");
        for (index, row) in rows.iter().enumerate() {
            let kind = [r#""dog""#, r#""cat""#, "null"][index % 3000 % 3];
            let number = index % 3000;
            let line = index + 1;
            assert_eq!(*row, format!(r#"{line}| prompt {number}; extra={{"kind":{kind}}}"#));
        }
    }
}

#[test]
fn bad_rows_are_named_and_the_next_are_read() {
    let schema = "message list { optional binary caption (UTF8); optional int64 seed; optional binary raw; }";
    let (_folder, path) = file(schema, Compression::SNAPPY, 1, |group| {
        texts(group, &[Some("a"), None, Some("c"), Some("d")]);
        column::<Int64Type>(group, &[Some(1), None, Some(-4), None]);
        let bytes = Some(ByteArray::from(vec![0xff, 0xfe]));
        column::<ByteArrayType>(group, &[None, None, None, bytes]);
    });
    let rows = read_path(&path, None, Chosen::default());
    assert_eq!(
        rows,
        [
            r#"1| a; seed=1; extra={"raw":null}"#,
            "a.parquet: row 2: empty prompt",
            "a.parquet: row 3: `seed` is -4, expected a whole number from 0 to 9223372036854775807",
            "a.parquet: row 4: column `raw` holds bytes that are no UTF-8",
        ]
    );
    let chosen = Chosen { seed: Some("luck".to_owned()), ..Chosen::default() };
    assert_eq!(
        read_path(&path, None, chosen),
        ["a.parquet: no column `luck`; found `caption`, `seed`, `raw`"]
    );
}

#[test]
fn columns_that_have_no_place_in_a_row_are_named_and_can_be_left_out() {
    let nested = "message list { required binary prompt (UTF8);
        required group image { required binary bytes; required int32 size; } required binary id (UTF8); }";
    let (_folder, path) = file(nested, Compression::SNAPPY, 1, |group| {
        let mut plain = |texts: &[&str]| {
            let values: Vec<ByteArray> = texts.iter().map(|text| ByteArray::from(*text)).collect();
            let mut writer = group.next_column().unwrap().unwrap();
            writer.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
            writer.close().unwrap();
        };
        plain(&["a", "b"]);
        plain(&["\u{1}", "\u{2}"]);
        let mut writer = group.next_column().unwrap().unwrap();
        writer.typed::<Int32Type>().write_batch(&[1, 2], None, None).unwrap();
        writer.close().unwrap();
        let values: Vec<ByteArray> = ["x", "y"].into_iter().map(ByteArray::from).collect();
        let mut writer = group.next_column().unwrap().unwrap();
        writer.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
        writer.close().unwrap();
    });
    let refused = "a.parquet: column `image` holds nested values; leave it out with --drop-column image";
    assert_eq!(read_path(&path, None, Chosen::default()), [refused]);
    let chosen = Chosen { dropped: vec!["image".to_owned()], ..Chosen::default() };
    assert_eq!(read_path(&path, None, chosen), ["1| a; id=x", "2| b; id=y"]);
}

#[test]
fn what_is_no_parquet_or_cut_short_is_refused() {
    let broken = |text: &[u8]| read("a.parquet", text, Chosen::default()).pop().unwrap();
    let start = "a.parquet: no Parquet file that can be read: ";
    assert!(broken(b"").starts_with(start) && broken(b"prompt\na\n").starts_with(start));
    let schema = "message list { required binary prompt (UTF8); }";
    let (_folder, path) = file(schema, Compression::SNAPPY, 1, |group| texts(group, &[Some("a")]));
    let whole = std::fs::read(path).unwrap();
    assert!(broken(&whole[..whole.len() - 9]).starts_with(start));
    // The same file is known by its first letters under any name.
    assert_eq!(read("list", &whole, Chosen::default()), ["1| a"]);
}

#[test]
fn a_damaged_file_is_an_error_or_other_rows_but_no_crash() {
    let schema = "message list { required binary prompt (UTF8); optional int64 seed; }";
    let (folder, path) = file(schema, Compression::SNAPPY, 1, |group| {
        texts(group, &[Some("red dots"), Some("blue dots"), Some("red dots")]);
        column::<Int64Type>(group, &[Some(7), None, Some(9)]);
    });
    let whole = std::fs::read(path).unwrap();
    let path = folder.path().join("damaged.parquet");
    for at in 0..whole.len() {
        for flip in [0x01, 0x80] {
            let mut damaged = whole.clone();
            damaged[at] ^= flip;
            std::fs::write(&path, damaged).unwrap();
            let rows = read_path(&path, Some(Format::Parquet), Chosen::default());
            assert!(rows.len() <= 4, "{rows:?}");
        }
    }
}

//! Compressed lists, whatever they are called.

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn zstd(text: &str) -> Vec<u8> {
    ::zstd::encode_all(text.as_bytes(), 1).unwrap()
}

#[test]
fn compressed_lists_are_read_as_what_is_in_them() {
    assert_eq!(plain("a.csv.gz", gzip("prompt,id\na,1\n")), ["2| a; id=1"]);
    assert_eq!(plain("a.jsonl.zst", zstd("{\"prompt\":\"a\"}\n")), ["1| a"]);
    assert_eq!(plain("a.json.gz", gzip("[\"a\"]")), ["1| a"]);
    // Files of several parts, as `cat a.gz b.gz` makes them.
    assert_eq!(plain("a.txt.gz", [gzip("a\nb"), gzip("c\n")].concat()), ["1| a", "2| bc"]);
    assert_eq!(plain("a.txt.zst", [zstd("a\nb"), zstd("c\n")].concat()), ["1| a", "2| bc"]);
}

#[test]
fn bytes_tell_the_compression_and_not_the_name() {
    assert_eq!(plain("a.txt", gzip("a\n")), ["1| a"]);
    assert_eq!(plain("list", zstd("{\"prompt\":\"a\"}\n")), ["1| a"]);
    assert_eq!(plain("a.txt.gz", "plain\n"), ["1| plain"]);
    assert_eq!(plain("a.txt.gz", "("), ["1| ("]);
}

#[test]
fn a_compressed_list_that_is_cut_or_broken_is_an_error() {
    let text = (0..20_000).map(|number| format!("prompt {number}\n")).collect::<String>();
    for whole in [gzip(&text), zstd(&text)] {
        let name = "a.txt.gz";
        let cut = plain(name, &whole[..whole.len() / 2]);
        assert_eq!(cut.last().unwrap(), "read prompt list a.txt.gz");
        assert!(cut.len() < 20_000);
        let mut broken = whole.clone();
        for byte in &mut broken[whole.len() / 2..] {
            *byte ^= 0x5a;
        }
        assert_eq!(plain(name, broken).last().unwrap(), "read prompt list a.txt.gz");
    }
}

#[test]
fn names_that_no_list_has_are_refused() {
    for name in ["a.xlsx", "a.tar.gz", "a.zip"] {
        let extension = name.split('.').nth(1).unwrap();
        let start =
            format!("{name}: a .{extension} file is no prompt list that can be read; make it .parquet, ");
        assert!(plain(name, "x").pop().unwrap().starts_with(&start));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.xlsx");
    std::fs::write(&path, "a\n").unwrap();
    assert_eq!(read_path(&path, Some(Format::Txt), Chosen::default()), ["1| a"]);
}

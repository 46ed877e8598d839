//! Files that are broken, lie about themselves or change while they are open.

use super::*;

/// A file with this header and so many bytes behind it.
fn file(dir: &TempDir, header: &str, data: usize) -> PathBuf {
    let path = dir.path().join("model.safetensors");
    let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; data]].concat();
    std::fs::write(&path, bytes).unwrap();
    path
}

/// One tensor of a header.
fn tensor(name: &str, dtype: &str, shape: &str, span: &str) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{span}}}"#)
}

#[test]
fn a_file_cut_at_any_place_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(&dir, "model.safetensors", &[("a", &[1.0; 40])]);
    let whole = std::fs::read(&path).unwrap();
    for length in 0..whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        let error = text(open(&dir, None));
        assert!(error.contains("model.safetensors is broken"), "{length}: {error}");
    }
    std::fs::write(&path, [whole.as_slice(), b"x"].concat()).unwrap();
    assert!(text(open(&dir, None)).contains("broken"));
}

#[test]
fn a_header_that_lies_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let f32 = |shape: &str, span: &str| format!("{{{}}}", tensor("a", "F32", shape, span));
    let two = |first: &str, second: &str| {
        format!("{{{},{}}}", tensor("a", "F32", "[2]", first), tensor("b", "F32", "[2]", second))
    };
    let twice = [tensor("a", "F32", "[1]", "[0,4]"), tensor("a", "F32", "[1]", "[4,8]")].join(",");
    for (header, data, told) in [
        (f32("[4]", "[0,8]"), 8, "does not fit bytes 0..8"),
        (f32("[2]", "[8,0]"), 8, "does not fit bytes 8..0"),
        (f32("[2]", "[0,18446744073709551615]"), 8, "does not fit"),
        (f32("[2]", "[18446744073709551608,18446744073709551615]"), 8, "does not fit"),
        (f32("[2]", "[0,18446744073709551616]"), 8, "tensor a"),
        (f32("[2]", "[-8,0]"), 8, "tensor a"),
        (f32("[2]", "[0]"), 8, "tensor a"),
        (f32("[2.5]", "[0,8]"), 8, "tensor a"),
        (f32("[-2]", "[0,8]"), 8, "tensor a"),
        (f32("null", "[0,8]"), 8, "tensor a"),
        // Products that overflow, also behind a zero.
        (f32("[4294967296,4294967296]", "[0,8]"), 8, "does not fit"),
        (f32("[0,4294967296,4294967296]", "[0,0]"), 0, "does not fit"),
        (f32("[4294967296,4294967296,0]", "[0,0]"), 0, "does not fit"),
        (f32("[4611686018427387904]", "[0,0]"), 0, "does not fit"),
        (f32("[18446744073709551615]", "[0,8]"), 8, "does not fit"),
        (format!("{{{}}}", tensor("a", "WAT", "[2]", "[0,8]")), 8, "WAT"),
        (format!("{{{}}}", tensor("a", "F4", "[3]", "[0,1]")), 1, "does not fit"),
        // Each byte belongs to one tensor.
        (two("[0,8]", "[0,8]"), 8, "overlap"),
        (two("[0,8]", "[4,12]"), 12, "overlap"),
        (two("[0,8]", "[12,20]"), 20, "gap"),
        (f32("[2]", "[4,12]"), 12, "gap"),
        (two("[0,8]", "[8,16]"), 20, "need 16 bytes"),
        (two("[0,8]", "[8,16]"), 12, "need 16 bytes"),
        (format!("{{{twice}}}"), 8, "tensor a stands in it twice"),
        (r#"{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#.into(), 4, "duplicate"),
        (r#"{"a":{"dtype":"F32","shape":[1]}}"#.into(), 4, "data_offsets"),
        (format!("{{{}}}", tensor("a", &"x".repeat(100_000), "[2]", "[0,8]")), 8, "tensor a"),
        (format!("{{{}}}", tensor(&"x".repeat(100_000), "WAT", "[2]", "[0,8]")), 8, "tensor xxx"),
        (format!("\"{}\"", "x".repeat(100_000)), 0, "read header"),
        ("nonsense".into(), 0, "read header"),
        ("[]".into(), 0, "an object of tensors"),
        ("{} {}".into(), 0, "read header"),
        (String::new(), 0, "read header"),
        (format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)), 0, "read header"),
        (format!(r#"{{"a":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000)), 0, "tensor a"),
    ] {
        file(&dir, &header, data);
        let error = text(open(&dir, None));
        let start: String = header.chars().take(200).collect();
        assert!(error.contains("broken") && error.contains(told), "{start}: {error}");
        assert!(error.len() < 1000, "{start}: an error of {} bytes", error.len());
    }
}

#[test]
fn a_length_of_the_header_that_lies_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    for length in [9, 1 << 20, 1 << 40, u64::MAX / 2, u64::MAX - 7, u64::MAX] {
        std::fs::write(&path, [length.to_le_bytes().as_slice(), b"{}      "].concat()).unwrap();
        assert!(text(open(&dir, None)).contains("its header should have"), "{length}");
    }
    // A header of a hundred megabytes is not read, although the file has it.
    let sparse = std::fs::File::create(&path).unwrap();
    std::io::Write::write_all(&mut &sparse, &100_000_000_u64.to_le_bytes()).unwrap();
    sparse.set_len(100_000_008).unwrap();
    assert!(text(open(&dir, None)).contains("at most 16777216 are read"));
}

#[test]
fn metadata_of_any_kind_and_padding_are_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    for extra in [r#"{"format":"pt"}"#, "null", "[[[[1]]]]"] {
        let header = format!(r#"{{"__metadata__":{extra},{}}}   "#, tensor("a", "F32", "[1]", "[0,4]"));
        file(&dir, &header, 4);
        assert_eq!(open(&dir, None).unwrap().names().collect::<Vec<_>>(), ["a"]);
    }
}

#[test]
fn tensors_without_values_and_at_odd_places_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let tensors = [
        tensor("a", "U8", "[3]", "[0,3]"),
        tensor("b", "F32", "[2]", "[3,11]"),
        tensor("none", "F32", "[0,7]", "[11,11]"),
        tensor("one", "BF16", "[]", "[11,13]"),
    ];
    let path = file(&dir, &format!("{{{}}}", tensors.join(",")), 0);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.extend([1, 2, 3]);
    bytes.extend([1.5_f32, -2.0].map(f32::to_le_bytes).concat());
    bytes.extend(half::bf16::from_f32(3.0).to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let weights = open(&dir, None).unwrap();
    assert_eq!(weights.get("b", &[2]).unwrap().to_vec1::<f32>().unwrap(), [1.5, -2.0]);
    assert_eq!(weights.get("none", &[0, 7]).unwrap().dims(), [0, 7]);
    assert_eq!(weights.get("one", &[]).unwrap().to_scalar::<f32>().unwrap(), 3.0);
    assert_eq!(weights.view("none", &[0, 7]).unwrap().bytes(), [0; 0]);
    assert_eq!(weights.table("none", 0, 7).unwrap().gather(&[]).unwrap().dims(), [0, 7]);
}

#[test]
fn a_file_that_changes_its_length_while_it_is_open_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(&dir, "model.safetensors", &[("a", &[1.0; 6000])]);
    let weights = open(&dir, None).unwrap();
    let view = weights.view("a", &[6000]).unwrap();
    let table = weights.table("a", 6000, 1).unwrap_err().to_string();
    assert!(table.contains("[6000, 1]"), "{table}");
    let whole = path.metadata().unwrap().len();
    for length in [whole - 1, whole + 1, 100, 0] {
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(length).unwrap();
        let told = format!("it had {whole} bytes when it was opened and has {length} now");
        for error in [
            text(weights.get("a", &[6000])),
            text(weights.view("a", &[6000])),
            text(view.check().map(|()| "whole")),
        ] {
            assert!(error.contains("model.safetensors") && error.contains(&told), "{error}");
        }
    }
    // Fetching pages that are gone is an error too, and no signal.
    #[cfg(target_os = "linux")]
    {
        let error = text(weights.files[0].fetch(&(8192..16384)));
        assert!(error.contains("fetch bytes 8192..16384"), "{error}");
    }
}

#[test]
fn a_folder_of_hostile_names_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let index = "model.safetensors.index.json";
    write(&dir, "model-1.safetensors", &[("a", &[1.0])]);
    for name in ["../x", "/etc/passwd", "..", ".", "", "a/b", "a/", "\0", "x\0/y"] {
        write_index(&dir, index, &[("a", name)]);
        let error = text(open(&dir, None));
        assert!(error.contains(index), "{name:?}: {error}");
    }
    for (bytes, told) in [
        ("{", "EOF"),
        ("[]", "invalid length 0"),
        (r#"{"weight_map":[]}"#, "map"),
        (r#"{"weight_map":{"a":1}}"#, "string"),
        (r#"{"weight_map":null}"#, "map"),
        ("", "EOF"),
    ] {
        std::fs::write(dir.path().join(index), bytes).unwrap();
        let error = text(open(&dir, None));
        assert!(error.contains(index) && error.contains(told), "{bytes}: {error}");
    }
    let long = "x".repeat(1_000_000);
    std::fs::write(dir.path().join(index), format!(r#"{{"weight_map":"{long}"}}"#)).unwrap();
    assert!(text(open(&dir, None)).len() < 1000);
    write_index(&dir, index, &[("a", &format!("{long}/"))]);
    assert!(text(open(&dir, None)).len() < 1000);
    std::fs::write(dir.path().join(index), " ".repeat(20_000_000)).unwrap();
    assert!(text(open(&dir, None)).contains("16777216 bytes"));
}

#[cfg(unix)]
#[test]
fn links_are_followed_but_not_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    // Download caches keep a folder of links to their files.
    let target = write(&elsewhere, "blob", &[("a", &[4.0])]);
    let link = dir.path().join("model.safetensors");
    std::os::unix::fs::symlink(target, &link).unwrap();
    assert_eq!(first(&open(&dir, None).unwrap()), 4.0);
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(&link, &link).unwrap();
    assert!(text(open(&dir, None)).contains("model.safetensors"));
    write_index(&dir, "other.safetensors.index.json", &[("a", "model.safetensors")]);
    assert!(text(Weights::open(dir.path(), "other", None)).contains("model.safetensors is missing"));
}

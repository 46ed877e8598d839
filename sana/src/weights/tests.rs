use std::collections::HashMap;

use candle_core::DType;
use safetensors::tensor::{Dtype, TensorView};
use tempfile::TempDir;

use super::*;

mod malformed;

fn write(dir: &TempDir, name: &str, tensors: &[(&str, &[f32])]) -> PathBuf {
    let path = dir.path().join(name);
    let tensors: HashMap<_, _> =
        tensors.iter().map(|(name, v)| (*name, Tensor::new(*v, &Device::Cpu).unwrap())).collect();
    candle_core::safetensors::save(&tensors, &path).unwrap();
    path
}

fn write_index(dir: &TempDir, name: &str, map: &[(&str, &str)]) {
    let map: HashMap<_, _> = map.iter().copied().collect();
    let text = serde_json::json!({ "metadata": { "total_size": 1 }, "weight_map": map }).to_string();
    std::fs::write(dir.path().join(name), text).unwrap();
}

fn open(dir: &TempDir, variant: Option<&str>) -> Result<Weights, Error> {
    Weights::open(dir.path(), "model", variant)
}

fn first(weights: &Weights) -> f32 {
    weights.get("a", &[1]).unwrap().to_vec1::<f32>().unwrap()[0]
}

fn text<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result.unwrap_err() {
        Error::Model(text) => text,
        other => panic!("not a model error: {other}"),
    }
}

#[test]
fn every_float_type_is_read_as_f32() {
    let dir = tempfile::tempdir().unwrap();
    let values = [0.0, 1.5, -2.0, 65504.0, 0.000_061_035_156];
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64] {
        let want = Tensor::new(&values, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        let path = dir.path().join("model.safetensors");
        candle_core::safetensors::save(&HashMap::from([("a", want.clone())]), &path).unwrap();
        let got = open(&dir, None).unwrap().get("a", &[5]).unwrap();
        assert_eq!(got.dtype(), DType::F32);
        let want = want.to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(got.to_vec1::<f32>().unwrap(), want, "{dtype:?}");
    }
}

#[test]
fn a_tensor_larger_than_a_chunk_is_read_whole() {
    let dir = tempfile::tempdir().unwrap();
    let values: Vec<f32> = (0..700_001).map(|i| i as f32).collect();
    let weights = Weights::from_file(&write(&dir, "x", &[("a", &[9.0]), ("b", &values)])).unwrap();
    assert_eq!(weights.get("b", &[700_001]).unwrap().to_vec1::<f32>().unwrap(), values);
}

#[test]
fn other_types_are_refused_only_when_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let view = TensorView::new(Dtype::I64, vec![1], &[0; 8]).unwrap();
    safetensors::serialize_to_file([("steps", view)], None, &path).unwrap();
    let weights = open(&dir, None).unwrap();
    let error = text(weights.get("steps", &[1]));
    assert!(
        error.contains("steps") && error.contains("I64") && error.contains("model.safetensors"),
        "{error}"
    );
}

#[test]
fn a_missing_tensor_and_a_wrong_shape_name_tensor_file_and_shapes() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir, "model.safetensors", &[("a", &[1.0, 2.0])]);
    let weights = open(&dir, None).unwrap();
    let error = text(weights.get("b.weight", &[3, 4]));
    assert!(
        error.contains("b.weight") && error.contains("[3, 4]") && error.contains("model.safetensors"),
        "{error}"
    );
    let error = text(weights.get("a", &[3]));
    assert!(error.contains("[2]") && error.contains("[3]") && error.contains("model.safetensors"), "{error}");
}

#[test]
fn a_tensor_is_seen_as_it_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let values = [0.0, 1.5, -2.0, 65504.0, 0.000_061_035_156, 7.25];
    for (dtype, size) in [(DType::F32, 4), (DType::F16, 2), (DType::BF16, 2), (DType::F64, 8)] {
        let want = Tensor::new(&values, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        let want = want.reshape((3, 2)).unwrap();
        let path = dir.path().join("model.safetensors");
        candle_core::safetensors::save(&HashMap::from([("a", want.clone())]), &path).unwrap();
        let weights = open(&dir, None).unwrap();
        let view = weights.view("a", &[3, 2]).unwrap();
        assert_eq!((view.dtype(), view.shape(), view.bytes().len()), (dtype, [3, 2].as_slice(), 6 * size));
        let copy = Tensor::from_raw_buffer(view.bytes(), dtype, &[3, 2], &Device::Cpu).unwrap();
        let want = want.to_dtype(DType::F32).unwrap();
        let rows = |tensor: &Tensor| tensor.to_dtype(DType::F32).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(rows(&copy), rows(&want));
        let all: Vec<f32> = (0..6).map(|i| view.values().get(i)).collect();
        assert_eq!(all, rows(&want).concat());
        view.check().unwrap();

        let table = weights.table("a", 3, 2).unwrap();
        drop(view);
        drop(weights);
        let want = rows(&want);
        let got = table.gather(&[2, 0, 2]).unwrap();
        assert_eq!(rows(&got), [want[2].clone(), want[0].clone(), want[2].clone()], "{dtype:?}");
        let error = text(table.gather(&[0, 3]));
        assert!(error.contains("row 3 is outside the 3 rows of tensor a"), "{error}");
    }
}

/// Bytes of a mapped file that count as memory of this process.
#[cfg(target_os = "linux")]
fn resident(path: &Path) -> usize {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut of_file = maps.split(path.to_str().unwrap()).skip(1);
    let after = of_file.next().expect("the file is mapped");
    assert!(of_file.next().is_none(), "the file is mapped once");
    let line = after.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[cfg(target_os = "linux")]
#[test]
fn what_was_read_does_not_stay_in_the_memory_of_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let values: Vec<f32> = (0..3 << 20).map(|i| i as f32).collect();
    let path = write(&dir, "model.safetensors", &[("a", &values), ("b", &[1.0; 8192])]);
    let weights = open(&dir, None).unwrap();
    assert_eq!(weights.get("a", &[3 << 20]).unwrap().to_vec1::<f32>().unwrap(), values);
    // Neighbours' pages may come along with the last.
    assert!(resident(&path) < 200_000, "{}", resident(&path));
    let view = weights.view("a", &[3 << 20]).unwrap();
    assert!(resident(&path) >= values.len() * 4);
    drop(view);
    assert!(resident(&path) < 200_000, "{}", resident(&path));
    weights.table("b", 4096, 2).unwrap_err();
    weights.view("b", &[8192]).unwrap();
    assert!(resident(&path) < 200_000, "{}", resident(&path));
}

#[cfg(target_os = "linux")]
#[test]
fn of_a_table_of_the_size_of_gemmas_only_the_rows_asked_for_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let (rows, width) = (256_000, 2304);
    let bytes = rows * width * 4;
    let header = format!(r#"{{"a":{{"dtype":"F32","shape":[{rows},{width}],"data_offsets":[0,{bytes}]}}}}"#);
    let path = dir.path().join("model.safetensors");
    std::fs::write(&path, [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat()).unwrap();
    // A hole: it takes no place on the disk.
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len((8 + header.len() + bytes) as u64).unwrap();
    std::os::unix::fs::FileExt::write_at(&file, &2.5_f32.to_le_bytes(), (4 + header.len() + bytes) as u64)
        .unwrap();
    let table = open(&dir, None).unwrap().table("a", rows, width).unwrap();
    let got = table.gather(&[0, 255_999, 100_000]).unwrap();
    let sums = got.sum(1).unwrap().to_vec1::<f32>().unwrap();
    assert_eq!((got.dims(), sums.as_slice()), ([3, width].as_slice(), [0.0, 2.5, 0.0].as_slice()));
    assert_eq!(resident(&path), 0);
}

#[test]
fn the_plain_name_wins_over_variants_unless_one_is_wanted() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir, "model.safetensors", &[("a", &[1.0])]);
    write(&dir, "model.fp16.safetensors", &[("a", &[2.0])]);
    assert_eq!(first(&open(&dir, None).unwrap()), 1.0);
    assert_eq!(first(&open(&dir, Some("fp16")).unwrap()), 2.0);
    assert_eq!(first(&open(&dir, Some("bf16")).unwrap()), 1.0);
}

#[test]
fn the_only_variant_is_taken_and_several_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir, "model.bf16.safetensors", &[("a", &[3.0])]);
    assert_eq!(first(&open(&dir, None).unwrap()), 3.0);
    write(&dir, "model.fp16.safetensors", &[("a", &[2.0])]);
    let error = text(open(&dir, None));
    assert!(error.contains("bf16, fp16"), "{error}");
}

#[test]
fn shards_are_one_set_of_tensors() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir, "model.bf16-00001-of-00002.safetensors", &[("a", &[1.0])]);
    write(&dir, "model.bf16-00002-of-00002.safetensors", &[("b", &[2.0]), ("extra", &[0.0])]);
    let map =
        [("a", "model.bf16-00001-of-00002.safetensors"), ("b", "model.bf16-00002-of-00002.safetensors")];
    write_index(&dir, "model.safetensors.index.bf16.json", &map);
    let weights = open(&dir, None).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["a", "b", "extra"]);
    assert_eq!(weights.files().len(), 2);
    let sizes = weights.files().iter().map(|path| path.metadata().unwrap().len());
    assert_eq!(weights.bytes(), sizes.sum::<u64>());
}

#[test]
fn an_index_that_does_not_fit_its_folder_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let index = "model.safetensors.index.json";
    write(&dir, "model-00001-of-00002.safetensors", &[("a", &[1.0])]);
    write_index(&dir, index, &[("b", "model-00002-of-00002.safetensors")]);
    let error = text(open(&dir, None));
    assert!(
        error.contains(index) && error.contains("model-00002-of-00002.safetensors is missing"),
        "{error}"
    );

    write_index(&dir, index, &[("b", "model-00001-of-00002.safetensors")]);
    assert!(text(open(&dir, None)).contains("tensor b is not in"));
    write_index(&dir, index, &[("a", "../model-00001-of-00002.safetensors")]);
    assert!(text(open(&dir, None)).contains("no plain file name"));
    write_index(&dir, index, &[]);
    assert!(text(open(&dir, None)).contains("names no tensor"));
}

#[test]
fn an_empty_and_a_missing_folder_are_named() {
    let dir = tempfile::tempdir().unwrap();
    assert!(text(open(&dir, None)).contains("model.safetensors.index.json"));
    let error = text(Weights::open(&dir.path().join("nowhere"), "model", None));
    assert!(error.contains("nowhere"), "{error}");
}

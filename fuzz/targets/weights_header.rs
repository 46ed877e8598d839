//! Bytes of a safetensors file: open it and read every tensor in every way there is.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sana::weights::Weights;
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(sana_fuzz::scratch);

fuzz_target!(|bytes: &[u8]| {
    let path = FOLDER.path().join("x.safetensors");
    std::fs::write(&path, bytes).expect("the scratch folder can be written");
    let Ok(weights) = Weights::from_file(&path) else { return };
    let mut stored = 0;
    for name in weights.names() {
        let shape = weights.shape(name).expect("a name has a shape").to_vec();
        if let Ok(tensor) = weights.get(name, &shape) {
            assert_eq!(tensor.dims(), shape);
        }
        if let Ok(view) = weights.view(name, &shape) {
            stored += view.bytes().len();
        }
        if let [rows, width] = shape[..]
            && let Ok(table) = weights.table(name, rows, width)
            && rows > 0
        {
            assert_eq!(table.gather(&[0, rows as u32 - 1]).expect("both are rows of it").dims(), [2, width]);
        }
    }
    assert!(stored <= bytes.len(), "tensors overlap");
});

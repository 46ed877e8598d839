//! An index of shards and the names of the files beside it: choose and open the weights.
//!
//! The input is text cut at NUL: the wanted variant, the index, then file names.
#![no_main]

use std::ffi::OsStr;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use sana::weights::Weights;

/// A file with the one tensor `a`.
fn small_file() -> Vec<u8> {
    let header = br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    [&(header.len() as u64).to_le_bytes(), header.as_slice(), &[0; 4]].concat()
}

fuzz_target!(|text: &str| {
    let mut parts = text.split('\0');
    let variant = parts.next().filter(|variant| !variant.is_empty());
    let index = parts.next().unwrap_or_default();
    let folder = sana_fuzz::scratch();
    let dir = folder.path().join("part");
    std::fs::create_dir(&dir).expect("the scratch folder can be written");
    // Outside of the part's folder: nothing may reach it.
    std::fs::write(folder.path().join("model.safetensors"), small_file())
        .expect("the scratch folder can be written");
    std::fs::write(dir.join("model.safetensors.index.json"), index)
        .expect("the scratch folder can be written");
    for name in parts.take(8) {
        if Path::new(name).file_name() == Some(OsStr::new(name)) && name.len() < 200 {
            std::fs::write(dir.join(name), small_file()).expect("the scratch folder can be written");
        }
    }
    for stem in ["model", "diffusion_pytorch_model"] {
        if let Ok(weights) = Weights::open(&dir, stem, variant) {
            assert!(weights.files().iter().all(|file| file.parent() == Some(&dir)), "{:?}", weights.files());
        }
    }
});

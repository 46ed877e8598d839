//! The bundled model with one configuration replaced: inspect the folder, as a worker does before it loads.
//!
//! The first byte chooses the configuration, the rest is its text.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

const CONFIGS: [&str; 5] = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "transformer/config.json",
    "vae/config.json",
];

static MODEL: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = sana_fuzz::scratch();
    sana_fuzz::mirror(&sana_fuzz::bundled_model(), folder.path());
    folder
});

fuzz_target!(|input: &[u8]| {
    let Some((choice, text)) = input.split_first() else { return };
    let name = CONFIGS[usize::from(*choice) % CONFIGS.len()];
    let path = MODEL.path().join(name);
    std::fs::write(&path, text).expect("the scratch folder can be written");
    let _ = sana::inspect(MODEL.path());
    std::fs::copy(sana_fuzz::bundled_model().join(name), &path).expect("the scratch folder can be written");
});

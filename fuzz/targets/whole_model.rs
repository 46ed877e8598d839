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

/// The model, and what its configurations were.
static MODEL: LazyLock<(TempDir, Vec<Vec<u8>>)> = LazyLock::new(|| {
    let folder = sana_fuzz::scratch();
    sana_fuzz::mirror(&sana_fuzz::bundled_model(), folder.path());
    let whole =
        CONFIGS.map(|name| std::fs::read(folder.path().join(name)).expect("the bundled model is whole"));
    (folder, whole.into())
});

fuzz_target!(|input: &[u8]| {
    let Some((choice, text)) = input.split_first() else { return };
    let choice = usize::from(*choice) % CONFIGS.len();
    let (model, whole) = &*MODEL;
    let path = model.path().join(CONFIGS[choice]);
    std::fs::write(&path, text).expect("the scratch folder can be written");
    let _ = sana::inspect(model.path());
    // Not a copy of the file: that does not go on after the fuzzer's timer.
    std::fs::write(&path, &whole[choice]).expect("the scratch folder can be written");
});

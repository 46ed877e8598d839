//! Bytes of a configuration: every parser, then whatever is computed from what it accepts.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sana::autoencoder::{Decoder, Encoder};
use sana::config::{AutoencoderConfig, ModelIndex, SchedulerConfig, TextEncoderConfig, TransformerConfig};
use sana::scheduler::scheduler;
use sana::text_encoder::TextEncoder;
use sana::transformer::Transformer;
use sana::weights::Weights;
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(sana_fuzz::scratch);
/// A file without tensors: loading from it ends at the first one.
static NO_WEIGHTS: LazyLock<Weights> = LazyLock::new(|| {
    let path = FOLDER.path().join("x.safetensors");
    std::fs::write(&path, [&2_u64.to_le_bytes(), b"{}".as_slice()].concat())
        .expect("the scratch folder can be written");
    Weights::from_file(&path).expect("a file without tensors is whole")
});

fuzz_target!(|bytes: &[u8]| {
    let path = FOLDER.path().join("model_index.json");
    std::fs::write(&path, bytes).expect("the scratch folder can be written");
    let _ = ModelIndex::open(FOLDER.path());
    if let Ok(config) = TextEncoderConfig::open(&path) {
        assert!(TextEncoder::load(&config, &NO_WEIGHTS).is_err());
    }
    if let Ok(config) = TransformerConfig::open(&path) {
        assert!(config.width() > 0);
        assert!(Transformer::load(&config, &NO_WEIGHTS).is_err());
    }
    if let Ok(config) = AutoencoderConfig::open(&path) {
        assert!(Decoder::load(&config, &NO_WEIGHTS).is_err());
        assert!(Encoder::load(&config, &NO_WEIGHTS).is_err());
    }
    if let Ok(config) = SchedulerConfig::open(&path) {
        for steps in [0, 1, 2, 20, u32::MAX] {
            if let Ok(scheduler) = scheduler(&config, steps) {
                assert_eq!(scheduler.timesteps().len(), steps as usize);
                assert_eq!(scheduler.levels().len(), steps as usize + 1);
                assert!(scheduler.levels().iter().all(|level| level.is_finite()), "{config:?}");
            }
        }
    }
});

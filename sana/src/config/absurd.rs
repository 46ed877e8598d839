//! Configurations that no model has: each is refused by the key, or at the latest by the first missing tensor.

use std::path::PathBuf;

use serde_json::json;

use super::*;
use crate::autoencoder::Decoder;
use crate::text_encoder::TextEncoder;
use crate::transformer::Transformer;
use crate::weights::Weights;

fn bundled(name: &str) -> Value {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/sana-tiny");
    read_json(&model.join(name)).unwrap()
}

/// Weights without a tensor.
fn nothing(dir: &Path) -> Weights {
    let path: PathBuf = dir.join("x.safetensors");
    std::fs::write(&path, [2_u64.to_le_bytes().as_slice(), b"{}"].concat()).unwrap();
    Weights::from_file(&path).unwrap()
}

/// Reads a part's configuration and loads the part as far as it goes.
fn load(part: &str, config: Value, weights: &Weights) -> Result<(), Error> {
    let origin = Path::new("config.json");
    match part {
        "text_encoder" => {
            TextEncoder::load(&TextEncoderConfig::from_value(config, origin)?, weights).map(drop)
        }
        "transformer" => {
            Transformer::load(&TransformerConfig::from_value(config, origin)?, weights).map(drop)
        }
        "vae" => Decoder::load(&AutoencoderConfig::from_value(config, origin)?, weights).map(drop),
        _ => panic!("no part {part}"),
    }
}

#[test]
fn any_value_for_any_key_is_an_error_and_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    let weights = nothing(dir.path());
    let values = [
        json!(0),
        json!(-1),
        json!(1.5),
        json!(1_u64 << 40),
        json!(u64::MAX),
        json!(1e308),
        json!(-1e308),
        json!(5e-324),
        json!(true),
        json!("x"),
        json!("x".repeat(100_000)),
        json!([]),
        json!([0]),
        json!([u64::MAX]),
        json!([[]]),
        json!([[u64::MAX]]),
        json!(vec![1; 100_000]),
        json!(vec!["ResBlock"; 100_000]),
        json!({}),
        json!(null),
    ];
    for part in ["text_encoder", "transformer", "vae"] {
        let config = bundled(&format!("{part}/config.json"));
        for key in config.as_object().unwrap().keys() {
            for value in &values {
                let mut config = config.clone();
                config[key] = value.clone();
                let error = load(part, config, &weights).unwrap_err().to_string();
                assert!(error.len() < 2000, "{part} {key}: {} bytes", error.len());
            }
        }
    }
}

#[test]
fn a_key_of_any_length_is_told_in_short() {
    for part in ["text_encoder", "transformer", "vae"] {
        let mut config = bundled(&format!("{part}/config.json"));
        config["x".repeat(100_000)] = json!(1);
        let dir = tempfile::tempdir().unwrap();
        let error = load(part, config, &nothing(dir.path())).unwrap_err().to_string();
        assert!(error.contains("unknown key xxx") && error.len() < 1000, "{part}: {} bytes", error.len());
    }
}

#[test]
fn absurd_counts_and_numbers_name_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let weights = nothing(dir.path());
    let zero_huge = [json!(0), json!(-1), json!((1_u64 << 20) + 1), json!(1_u64 << 40), json!(u64::MAX)];
    let no_number = [json!(0.0), json!(-1.0), json!("1"), json!([1.0])];
    let cases: [(&str, &[&str], &[Value]); 5] = [
        (
            "text_encoder",
            &[
                "vocab_size",
                "hidden_size",
                "intermediate_size",
                "num_hidden_layers",
                "num_attention_heads",
                "num_key_value_heads",
                "head_dim",
                "sliding_window",
            ],
            &zero_huge,
        ),
        ("text_encoder", &["rms_norm_eps", "query_pre_attn_scalar"], &no_number),
        (
            "transformer",
            &[
                "in_channels",
                "out_channels",
                "num_attention_heads",
                "attention_head_dim",
                "num_layers",
                "num_cross_attention_heads",
                "cross_attention_head_dim",
                "caption_channels",
                "sample_size",
            ],
            &zero_huge,
        ),
        ("transformer", &["mlp_ratio", "norm_eps", "timestep_scale", "interpolation_scale"], &no_number),
        ("vae", &["latent_channels", "attention_head_dim"], &zero_huge),
    ];
    for (part, keys, values) in cases {
        for key in keys {
            for value in values {
                let mut config = bundled(&format!("{part}/config.json"));
                config[key] = value.clone();
                let error = load(part, config, &weights).unwrap_err().to_string();
                assert!(
                    error.contains(key) && error.contains("config.json"),
                    "{part} {key} {value}: {error}"
                );
            }
        }
    }
    for (key, value) in [
        ("mlp_ratio", json!(1e18)),
        ("decoder_block_out_channels", json!([])),
        ("decoder_block_out_channels", json!([0])),
        ("decoder_block_out_channels", json!([1_u64 << 40])),
        ("decoder_block_out_channels", json!(vec![8; 65])),
        ("decoder_layers_per_block", json!([1, 1, 1, 1, 1, 1_u64 << 40])),
        ("decoder_qkv_multiscales", json!([[], [], [], [5], [5], [u64::MAX]])),
    ] {
        let part = if key.starts_with("decoder") { "vae" } else { "transformer" };
        let mut config = bundled(&format!("{part}/config.json"));
        config[key] = value.clone();
        let error = load(part, config, &weights).unwrap_err().to_string();
        assert!(error.contains(key), "{key} {value}: {error}");
    }
}

#[test]
fn a_file_that_is_no_configuration_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for text in ["", "{", "null", "7", "\"{}\"", "{}{}", "\u{feff}{}", "{\"a\": NaN", nested.as_str()] {
        std::fs::write(&path, text).unwrap();
        for error in [
            TextEncoderConfig::open(&path).unwrap_err(),
            TransformerConfig::open(&path).unwrap_err(),
            AutoencoderConfig::open(&path).unwrap_err(),
            SchedulerConfig::open(&path).unwrap_err(),
        ] {
            let error = error.to_string();
            assert!(error.contains("config.json") && error.len() < 1000, "{error}");
        }
    }
    std::fs::write(&path, " ".repeat((1 << 20) + 1)).unwrap();
    let error = TransformerConfig::open(&path).unwrap_err().to_string();
    assert!(error.contains("1048576 bytes"), "{error}");
}

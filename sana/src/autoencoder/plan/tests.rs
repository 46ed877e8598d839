use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde_json::json;

use super::*;
use crate::autoencoder::{Decoder, decoder_tensors, encoder_tensors};
use crate::config::AutoencoderConfig;
use crate::ops::count;
use crate::weights::Weights;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The configuration of the released f32c32 models, sana-1.0 and sana-1.1.
fn released() -> AutoencoderConfig {
    let blocks =
        ["ResBlock", "ResBlock", "ResBlock", "EfficientViTBlock", "EfficientViTBlock", "EfficientViTBlock"];
    let value = json!({
        "encoder_block_types": blocks,
        "decoder_block_types": blocks,
        "encoder_layers_per_block": [2, 2, 2, 3, 3, 3],
        "decoder_layers_per_block": [3, 3, 3, 3, 3, 3],
        "downsample_block_type": "Conv",
        "upsample_block_type": "interpolate",
        "scaling_factor": 0.41407,
    });
    AutoencoderConfig::from_value(value, Path::new("released")).unwrap()
}

fn fixture(name: &str) -> (AutoencoderConfig, Decoder) {
    let dir = root("tests/fixtures").join(name);
    let mut value = crate::config::read_json(&dir.join("config.json")).unwrap();
    let config = AutoencoderConfig::from_value(value["vae"].take(), &dir).unwrap();
    let decoder =
        Decoder::load(&config, &Weights::from_file(&dir.join("weights.safetensors")).unwrap()).unwrap();
    (config, decoder)
}

fn tiny() -> (AutoencoderConfig, Decoder) {
    let dir = root("models/sana-tiny/vae");
    let config = AutoencoderConfig::open(&dir.join("config.json")).unwrap();
    let weights = Weights::open(&dir, "diffusion_pytorch_model", None).unwrap();
    let decoder = Decoder::load(&config, &weights).unwrap();
    (config, decoder)
}

#[test]
fn the_released_model_has_all_its_parameters() {
    let count = |tensors: Vec<(String, Vec<usize>)>| -> usize {
        tensors.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    };
    assert_eq!(count(decoder_tensors(&released())), 159_223_171);
    assert_eq!(count(encoder_tensors(&released())), 153_027_104);
}

#[test]
fn every_tensor_of_a_checkpoint_is_listed() {
    let dir = root("models/sana-tiny/vae");
    let weights = Weights::open(&dir, "diffusion_pytorch_model", None).unwrap();
    let mut listed = [decoder_tensors(&tiny().0), encoder_tensors(&tiny().0)].concat();
    listed.sort();
    for (name, shape) in &listed {
        weights.require(name, shape).unwrap();
    }
    assert!(listed.iter().map(|(name, _)| name.as_str()).eq(weights.names()));
}

#[test]
fn what_is_planned_is_what_is_computed() {
    for (name, (config, decoder)) in [
        ("tiny", tiny()),
        ("square", fixture("dcae_decode_square")),
        ("mix", fixture("dcae_decode_mix_style")),
        ("lite", fixture("dcae_decode_lite_style")),
    ] {
        let (height, width) = (3, 7);
        let values = (0..height * width * config.latent_channels).map(|i| (i % 13) as f32 / 6.0 - 1.0);
        let latent =
            Tensor::from_vec(values.collect(), (height, width, config.latent_channels), &Device::Cpu);
        let latent = latent.unwrap();
        for tiling in [
            Tiling::Whole,
            Tiling::Bands(None),
            Tiling::Bands(Some(8)),
            Tiling::Bands(Some(24)),
            Tiling::Tiles(8),
            Tiling::Tiles(40),
            Tiling::Tiles(64),
            Tiling::Tiles(1000),
            Tiling::Blend { tile: 64, stride: 32 },
            Tiling::Blend { tile: 96, stride: 64 },
            Tiling::Blend { tile: 512, stride: 448 },
        ] {
            let mut rows = 0;
            let (result, counted) = count::counted(|| {
                decoder.decode(&latent, tiling, &mut |band: &Tensor| -> Result<(), Error> {
                    rows += band.dim(0)?;
                    Ok(())
                })
            });
            result.unwrap();
            assert_eq!(rows, height * 32);
            let plan = Plan::of(&config, (width * 32, height * 32), tiling).unwrap();
            assert_eq!(u128::from(counted), plan.multiply_adds(), "{name}, {tiling:?}");
            let exact = matches!(tiling, Tiling::Whole | Tiling::Bands(_) | Tiling::Tiles(1000));
            assert_eq!(
                plan.multiply_adds() == plan.whole(),
                exact || tiling == Tiling::BLEND,
                "{name}, {tiling:?}"
            );
        }
    }
}

#[test]
fn little_is_computed_twice() {
    let config = released();
    let share = |side: usize, tiling| Plan::of(&config, (side, side), tiling).unwrap().recomputed();
    // No row at the border of a band either: a convolution waits for the rows below and keeps those above.
    assert_eq!(share(4096, Tiling::Bands(None)), 0.0);
    assert_eq!(share(4096, Tiling::Bands(Some(64))), 0.0);
    let tiles = share(4096, Tiling::Tiles(1024));
    assert!((0.01..0.10).contains(&tiles), "{tiles}");
    let blend = share(4096, Tiling::BLEND);
    assert!((0.27..0.33).contains(&blend), "{blend}");
    println!("4096: tiles of 1024 {tiles:.4}, blend {blend:.4}");
    for side in [256, 512, 2048] {
        println!("4096: tiles of {side} {:.4}", share(4096, Tiling::Tiles(side)));
    }
}

#[test]
fn work_of_the_released_model_is_that_of_the_reference() {
    let plan = Plan::of(&released(), (1024, 1024), Tiling::Whole).unwrap();
    // The reference counts the convolutions behind nearest upsampling with all nine taps.
    let widths = [128, 256, 512, 512, 1024, 1024];
    let saved: u128 = (0..5).map(|i| 5 * widths[i] * widths[i + 1] * (1 << (20 - 2 * i as u32))).sum();
    let pixel = (plan.multiply_adds() + saved) as f64 / f64::from(1 << 20) / 1e6;
    assert!((3.97..4.01).contains(&pixel), "{pixel} M for a pixel");
}

#[test]
fn memory_follows_the_band() {
    let config = released();
    let mib = |side: usize, tiling| {
        Plan::of(&config, (side, side), tiling).unwrap().activations as f64 / f64::from(1 << 20)
    };
    for side in [512, 1024, 2048, 4096] {
        println!(
            "{side}: whole {:.0} MiB, bands {:.0}, bands of 64 {:.0}, tiles of 512 {:.0}, of 1024 {:.0}, blend {:.0}",
            mib(side, Tiling::Whole),
            mib(side, Tiling::Bands(None)),
            mib(side, Tiling::Bands(Some(64))),
            mib(side, Tiling::Tiles(512)),
            mib(side, Tiling::Tiles(1024)),
            mib(side, Tiling::BLEND),
        );
    }
    assert!(mib(4096, Tiling::Whole) > 20_000.0);
    assert!(mib(4096, Tiling::Bands(None)) < 1_200.0);
    assert!(mib(4096, Tiling::Bands(Some(64))) < mib(4096, Tiling::Bands(Some(128))));
    assert!(mib(4096, Tiling::Tiles(512)) < mib(4096, Tiling::Tiles(1024)));
}

#[test]
fn sizes_that_cannot_be_decoded_are_refused() {
    for (width, height) in [(0, 32), (32, 0), (33, 32), (32, usize::MAX), (usize::MAX - 31, 32)] {
        let error = Plan::of(&released(), (width, height), Tiling::Whole).unwrap_err();
        assert!(matches!(error, Error::Size(_)), "{error}");
    }
    let blend = Tiling::Blend { tile: 64, stride: 96 };
    assert!(matches!(Plan::of(&released(), (1024, 1024), blend), Err(Error::Setting(_))));
}

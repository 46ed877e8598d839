//! What a picture may depend on: its recipe and the weights, and nothing else.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ops::ControlFlow;
use std::path::Path;

use candle_core::{Device, Tensor};
use sana::autoencoder::{Encoder, Tiling, round_trip};
use sana::config::AutoencoderConfig;
use sana::noise::Generator;
use sana::weights::Weights;
use sana::{BinMode, DecodeMode, Error, Pipeline, Recipe};

fn tiny() -> Pipeline {
    Pipeline::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/sana-tiny")).unwrap()
}

fn latent(height: usize, width: usize) -> Tensor {
    let values = Generator::new(7).randn(height * width * 32);
    Tensor::from_vec(values, (height, width, 32), &Device::Cpu).unwrap()
}

/// The decoded picture's values as bits, and the number of pieces they came in.
fn decode(pipeline: &Pipeline, latent: &Tensor, tiling: Tiling) -> (Vec<u32>, usize) {
    let (mut bits, mut pieces) = (Vec::new(), 0);
    let mut take = |rows: &Tensor| -> Result<(), Error> {
        bits.extend(rows.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f32::to_bits));
        pieces += 1;
        Ok(())
    };
    pipeline.decoder().unwrap().decode(latent, tiling, &mut take).unwrap();
    (bits, pieces)
}

fn recipe(prompt: &str, seed: u64, width: u32, height: u32) -> Recipe {
    Recipe {
        prompt: prompt.into(),
        negative_prompt: String::new(),
        seed,
        width,
        height,
        steps: 3,
        guidance: 4.5,
        bin: BinMode::Auto,
        decode: DecodeMode::Exact,
    }
}

fn render(pipeline: &Pipeline, recipe: &Recipe) -> Vec<u8> {
    let text = pipeline.encode(recipe).unwrap();
    let latent = pipeline.denoise(recipe, &text, &mut |_| ControlFlow::Continue(())).unwrap();
    let mut bytes = Vec::new();
    pipeline
        .decode(recipe, &latent, &mut |rows| {
            bytes.extend_from_slice(rows);
            Ok(())
        })
        .unwrap();
    assert_eq!(bytes.len() as u32, recipe.width * recipe.height * 3);
    bytes
}

#[test]
fn every_band_gives_the_bits_of_the_whole_decode() {
    let pipeline = tiny();
    for (height, width) in [(1, 1), (1, 3), (3, 1), (3, 2), (5, 4)] {
        let latent = latent(height, width);
        let (whole, _) = decode(&pipeline, &latent, Tiling::Whole);
        assert_eq!(whole.len(), height * width * 32 * 32 * 3);
        let mut most = 0;
        for band in [1, 8, 24, 32, 33, 40, 64, 96, 1000] {
            let (bits, pieces) = decode(&pipeline, &latent, Tiling::Bands(Some(band)));
            assert!(bits == whole, "{height}x{width} in bands of {band}");
            most = most.max(pieces);
        }
        assert!(most > height, "{height} latent rows came in {most} pieces");
        assert!(decode(&pipeline, &latent, Tiling::Bands(None)).0 == whole);
    }
}

#[test]
fn tiles_of_any_size_have_the_same_bits() {
    let pipeline = tiny();
    for (height, width) in [(1, 1), (3, 7), (5, 4)] {
        let latent = latent(height, width);
        let (whole, _) = decode(&pipeline, &latent, Tiling::Whole);
        for side in [1, 8, 16, 24, 32, 56, 64, 96, 104, 1000, usize::MAX] {
            let (bits, _) = decode(&pipeline, &latent, Tiling::Tiles(side));
            assert!(bits == whole, "{height}x{width} in tiles of {side}");
        }
    }
}

#[test]
fn tiles_leave_in_rows_of_tiles() {
    let pipeline = tiny();
    let (_, pieces) = decode(&pipeline, &latent(8, 3), Tiling::Tiles(64));
    assert!(pieces >= 4, "256 rows in {pieces} pieces");
    let mut seen = 0;
    let mut take = |rows: &Tensor| -> Result<(), Error> {
        assert_eq!(rows.dims()[1..], [96, 3]);
        assert!(rows.dim(0)? <= 64, "{:?}", rows.dims());
        seen += rows.dim(0)?;
        Ok(())
    };
    pipeline.decoder().unwrap().decode(&latent(8, 3), Tiling::Tiles(64), &mut take).unwrap();
    assert_eq!(seen, 256);
}

#[test]
fn a_picture_is_encoded_to_the_same_bits_in_any_pieces() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/sana-tiny/vae");
    let config = AutoencoderConfig::open(&dir.join("config.json")).unwrap();
    let weights = Weights::open(&dir, "diffusion_pytorch_model", None).unwrap();
    let encoder = Encoder::load(&config, &weights).unwrap();
    let (height, width) = (160, 96);
    let values = Generator::new(3).randn(height * width * 3);
    let picture = Tensor::from_vec(values, (height, width, 3), &Device::Cpu).unwrap();
    let bits = |latent: Tensor| -> Vec<u32> {
        assert_eq!(latent.dims(), [5, 3, 32]);
        latent.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
    };
    let whole = bits(encoder.encode_picture(&picture, Tiling::Whole, None).unwrap());
    for band in [None, Some(1), Some(7), Some(32), Some(64)] {
        let latent = encoder.encode_picture(&picture, Tiling::Bands(band), None).unwrap();
        assert!(bits(latent) == whole, "in bands of {band:?}");
    }
    // Pieces of any height.
    let (mut y, mut heights) = (0, [1, 2, 3, 50, 5].into_iter().cycle());
    let mut rows = || {
        let count = heights.next().unwrap_or(1).min(height - y);
        y += count;
        (count > 0).then(|| picture.narrow(0, y - count, count)).transpose()
    };
    assert!(bits(encoder.encode(width, Tiling::Bands(None), None, &mut rows).unwrap()) == whole);

    for (height, width) in [(160, 95), (159, 96), (0, 96)] {
        let picture = Tensor::zeros((height, width, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        let error = encoder.encode_picture(&picture, Tiling::Whole, None).unwrap_err().to_string();
        assert!(error.contains("multiple of 32"), "{error}");
    }
}

#[test]
fn a_rendered_picture_survives_a_round_trip() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/sana-tiny/vae");
    let config = AutoencoderConfig::open(&dir.join("config.json")).unwrap();
    let weights = Weights::open(&dir, "diffusion_pytorch_model", None).unwrap();
    let encoder = Encoder::load(&config, &weights).unwrap();
    let pipeline = tiny();
    let mut recipe = recipe("yellow waves on black", 1, 96, 64);
    recipe.steps = 20;
    let picture = render(&pipeline, &recipe);
    let psnr = round_trip(&encoder, pipeline.decoder().unwrap(), (96, 64), &picture).unwrap();
    println!("{psnr:.2} dB");
    assert!(psnr > 18.0, "{psnr} dB");
    // What is no picture of the model's kind comes back worse, and sides need not be multiples of 32.
    let noise: Vec<u8> =
        Generator::new(1).randn(70 * 50 * 3).iter().map(|x| (x * 60.0 + 128.0) as u8).collect();
    let noise = round_trip(&encoder, pipeline.decoder().unwrap(), (70, 50), &noise).unwrap();
    assert!(noise.is_finite() && noise < psnr, "{noise} dB");
    assert!(round_trip(&encoder, pipeline.decoder().unwrap(), (96, 65), &picture).is_err());
}

#[test]
fn a_band_needs_little_memory_beside_the_whole_picture() {
    // Rows leave while the last ones have not been computed: the largest piece follows the band.
    let pipeline = tiny();
    let latent = latent(16, 4);
    let mut largest = 0;
    let mut take = |rows: &Tensor| -> Result<(), Error> {
        largest = largest.max(rows.dim(0)?);
        Ok(())
    };
    pipeline.decoder().unwrap().decode(&latent, Tiling::Bands(Some(32)), &mut take).unwrap();
    assert!(largest <= 32, "{largest} rows of 512 at once");
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let pipeline = tiny();
    let recipe = recipe("large green and white diagonal stripes", 3, 96, 160);
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| render(&pipeline, &recipe))
    };
    let one = with(1);
    for threads in [2, 3, 7] {
        assert!(with(threads) == one, "{threads} threads");
    }
}

#[test]
fn order_and_company_do_not_change_a_bit() {
    let recipes = [
        recipe("small red dots on a blue background", 1, 64, 64),
        recipe("yellow waves on black", 2, 96, 64),
        recipe("small red dots on a blue background", 9, 100, 60),
    ];
    let pipeline = tiny();
    let alone: Vec<_> = recipes.iter().map(|recipe| render(&tiny(), recipe)).collect();
    let backwards: Vec<_> = recipes.iter().rev().map(|recipe| render(&pipeline, recipe)).collect();
    assert!(alone.iter().eq(backwards.iter().rev()));
    assert!(alone[0] != render(&pipeline, &recipe("small red dots on a blue background", 2, 64, 64)));
}

#[test]
fn decode_modes_agree_where_they_must() {
    let pipeline = tiny();
    let mut recipe = recipe("cyan bricks on a pink background", 5, 128, 96);
    let exact = render(&pipeline, &recipe);
    recipe.decode = DecodeMode::Whole;
    assert!(render(&pipeline, &recipe) == exact);
    // A picture below the size of a tile is not tiled.
    recipe.decode = DecodeMode::Blend;
    assert!(render(&pipeline, &recipe) == exact);
}

#[test]
fn a_cancelled_picture_is_no_result() {
    let pipeline = tiny();
    let recipe = recipe("white dots on green", 1, 64, 64);
    let text = pipeline.encode(&recipe).unwrap();
    let stopped = pipeline.denoise(&recipe, &text, &mut |step| {
        if step == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(stopped, Err(Error::Cancelled)));
}

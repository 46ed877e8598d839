//! Autoencoder: the picture or the latent and the result of each module, whole, in bands, in exact and in blended tiles.

use std::cell::RefCell;
use std::collections::BTreeMap;

use candle_core::{IndexOp, Tensor};

use super::case::{Case, values};
use super::report::Report;
use crate::Error;
use crate::autoencoder::{Decoder, Encoder, Observer, Tiling};
use crate::config::{ActivationKind, AutoencoderConfig};
use crate::ops::Activation;

pub(super) fn check(case: &Case, report: &mut Report) -> Result<(), Error> {
    let config = AutoencoderConfig::from_value(case.config("vae")?, &case.config_path())?;
    if case.has("in.image") {
        return check_encoder(case, report, &config);
    }
    let decoder = Decoder::load(&config, &case.weights()?)?;
    let latents = pictures(case.tensor("in.z")?)?;
    let whole = observed(case, report, &config, &latents, |latent, observer| {
        decoder.decode_whole(latent, Some(observer))
    })?;

    let untiled = if case.has("out.untiled") { "out.untiled" } else { "out.image" };
    let (want, tolerance) = (case.tensor(untiled)?, case.tolerance(&untiled[4..]));
    report.compare(untiled, &whole, want, tolerance)?;
    // Bands and exact tiles must give the same bits as the whole.
    let expected = Tensor::from_slice(&whole, want.dims(), want.device())?;
    for band in [1, 24, 64] {
        let got = decode(&decoder, &latents, Tiling::Bands(Some(band)))?;
        report.compare(&format!("{untiled} in bands of {band}"), &got, &expected, 0.0)?;
    }
    for side in [24, 64] {
        let got = decode(&decoder, &latents, Tiling::Tiles(side))?;
        report.compare(&format!("{untiled} in tiles of {side}"), &got, &expected, 0.0)?;
    }
    if case.has("out.tiled") {
        let tiling = Tiling::Blend {
            tile: case.config("tile_sample_min")?,
            stride: case.config("tile_sample_stride")?,
        };
        let got = decode(&decoder, &latents, tiling)?;
        report.compare("out.tiled", &got, case.tensor("out.tiled")?, case.tolerance("tiled"))?;
    }
    Ok(())
}

fn check_encoder(case: &Case, report: &mut Report, config: &AutoencoderConfig) -> Result<(), Error> {
    let encoder = Encoder::load(config, &case.weights()?)?;
    let images = pictures(case.tensor("in.image")?)?;
    let whole = observed(case, report, config, &images, |image, observer| {
        encoder.encode_picture(image, Tiling::Whole, Some(observer))
    })?;
    let want = case.tensor("out.latent")?;
    report.compare("out.latent", &whole, want, case.tolerance("latent"))?;
    let expected = Tensor::from_slice(&whole, want.dims(), want.device())?;
    for band in [1, 24, 64] {
        let mut got = Vec::new();
        for image in &images {
            let latent = encoder.encode_picture(image, Tiling::Bands(Some(band)), None)?;
            got.extend(channels_first(&latent)?);
        }
        report.compare(&format!("out.latent in bands of {band}"), &got, &expected, 0.0)?;
    }
    Ok(())
}

/// Runs `work` on each input and compares what its modules give; returns the results with the channels first.
fn observed(
    case: &Case,
    report: &mut Report,
    config: &AutoencoderConfig,
    inputs: &[Tensor],
    work: impl Fn(&Tensor, Observer<'_>) -> candle_core::Result<Tensor>,
) -> Result<Vec<f32>, Error> {
    let (mut whole, mut modules) = (Vec::new(), BTreeMap::<String, Vec<f32>>::new());
    for input in inputs {
        // A module's rows come in pieces, from top to bottom.
        let seen = RefCell::new(BTreeMap::<String, Vec<Tensor>>::new());
        let observe = |name: &str, rows: &Tensor| {
            seen.borrow_mut().entry(name.to_owned()).or_default().push(rows.clone());
            Ok(())
        };
        whole.extend(channels_first(&work(input, &observe)?)?);
        for (name, rows) in seen.into_inner() {
            let rows = Tensor::cat(&rows, 0)?;
            // The library has the channels first, but for the last norm.
            let rows = if name == "decoder.norm_out" { values(&rows)? } else { channels_first(&rows)? };
            modules.entry(name).or_default().extend(rows);
        }
    }
    for name in case.names_between("mid.", "") {
        let full = format!("mid.{name}");
        let Some(got) = modules.get(name) else {
            return Err(Error::Model(format!("{full}: no module of this name was seen")));
        };
        let mut want = case.tensor(&full)?.clone();
        if name == "decoder.norm_out" {
            // The activation behind the last norm is part of it here.
            let mut activated = values(&want)?;
            match config.decoder_conv_act_fn {
                ActivationKind::Relu => Activation::Relu.apply(&mut activated),
                ActivationKind::Silu => Activation::Silu.apply(&mut activated),
            }
            want = Tensor::from_vec(activated, want.dims(), want.device())?;
        }
        report.compare(&full, got, &want, case.tolerance_inside(name, &want)?)?;
    }
    Ok(whole)
}

/// A batch with the channels first as single pictures with the channels last.
fn pictures(batch: &Tensor) -> Result<Vec<Tensor>, Error> {
    let last = batch.permute((0, 2, 3, 1))?.contiguous()?;
    Ok((0..last.dim(0)?).map(|index| last.i(index)).collect::<Result<_, _>>()?)
}

/// Pictures with the channels first, one after the other.
fn decode(decoder: &Decoder, latents: &[Tensor], tiling: Tiling) -> Result<Vec<f32>, Error> {
    let mut pictures = Vec::new();
    for latent in latents {
        let mut bands = Vec::new();
        decoder.decode(latent, tiling, &mut |band: &Tensor| -> Result<(), Error> {
            bands.push(band.clone());
            Ok(())
        })?;
        pictures.extend(channels_first(&Tensor::cat(&bands, 0)?)?);
    }
    Ok(pictures)
}

/// Values of `[rows, width, channels]` with the channels first.
fn channels_first(rows: &Tensor) -> Result<Vec<f32>, Error> {
    values(&rows.permute((2, 0, 1))?.contiguous()?)
}

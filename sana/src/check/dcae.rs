//! Autoencoder: the picture and the result of each module, decoded whole, in bands and in blended tiles.

use std::cell::RefCell;
use std::collections::BTreeMap;

use candle_core::{IndexOp, Tensor};

use super::case::{Case, values};
use super::report::Report;
use crate::Error;
use crate::autoencoder::{Decoder, Tiling};
use crate::config::AutoencoderConfig;

pub(super) fn check(case: &Case, report: &mut Report) -> Result<(), Error> {
    let config = AutoencoderConfig::from_value(case.config("vae")?, &case.config_path())?;
    let decoder = Decoder::load(&config, &case.weights()?)?;
    let latents = case.tensor("in.z")?.permute((0, 2, 3, 1))?.contiguous()?;
    let latents = (0..latents.dim(0)?).map(|index| latents.i(index)).collect::<Result<Vec<_>, _>>()?;

    let (mut whole, mut modules) = (Vec::new(), BTreeMap::<String, Vec<f32>>::new());
    for latent in &latents {
        // A module's rows come in pieces, from top to bottom.
        let seen = RefCell::new(BTreeMap::<String, Vec<Tensor>>::new());
        let observe = |name: &str, rows: &Tensor| {
            seen.borrow_mut().entry(name.to_owned()).or_default().push(rows.clone());
            Ok(())
        };
        let picture = decoder.decode_whole(latent, Some(&observe))?;
        whole.extend(channels_first(&picture)?);
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
        let want = case.tensor(&full)?;
        // The activation behind the last norm is part of it here.
        let want = if name == "decoder.norm_out" { want.relu()? } else { want.clone() };
        report.compare(&full, got, &want, case.tolerance_inside(name, &want)?)?;
    }

    let untiled = if case.has("out.untiled") { "out.untiled" } else { "out.image" };
    let (want, tolerance) = (case.tensor(untiled)?, case.tolerance(&untiled[4..]));
    report.compare(untiled, &whole, want, tolerance)?;
    // Bands must give the same bits as the whole.
    let expected = Tensor::from_slice(&whole, want.dims(), want.device())?;
    for band in [1, 24, 64] {
        let got = decode(&decoder, &latents, Tiling::Bands(Some(band)))?;
        report.compare(&format!("{untiled} in bands of {band}"), &got, &expected, 0.0)?;
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

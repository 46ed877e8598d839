//! Transformer: the output and the result of each module.

use std::cell::RefCell;
use std::collections::BTreeMap;

use candle_core::{DType, IndexOp, Tensor};

use super::case::{Case, values};
use super::report::Report;
use crate::Error;
use crate::config::TransformerConfig;
use crate::transformer::{Sequence, Transformer, positions};

pub(super) fn check(case: &Case, report: &mut Report) -> Result<(), Error> {
    let config = TransformerConfig::from_value(case.config("transformer")?, &case.config_path())?;
    let transformer = Transformer::load(&config, &case.weights()?)?;
    let latents = case.tensor("in.hidden_states")?.permute((0, 2, 3, 1))?.contiguous()?;
    let texts = case.tensor("in.encoder_hidden_states")?;
    let mask = case.tensor("in.encoder_attention_mask")?.to_dtype(DType::U32)?.to_vec2::<u32>()?;
    let times = values(case.tensor("in.timestep")?)?;
    let (count, height, width, _) = latents.dims4()?;
    let guidance = match case.has("in.guidance") {
        true => values(case.tensor("in.guidance")?)?.into_iter().map(Some).collect(),
        false => vec![None; count],
    };

    // What each module gave, sequence after sequence.
    let seen = RefCell::new(BTreeMap::<String, Vec<f32>>::new());
    let observe = |name: &str, value: &Tensor| {
        seen.borrow_mut().entry(name.to_owned()).or_default().extend(crate::ops::to_vec(value)?);
        Ok(())
    };
    let (mut prepared, mut inputs) = (Vec::new(), Vec::new());
    for (index, mask) in mask.iter().enumerate() {
        let rows = real(&texts.i(index)?, mask)?;
        prepared.push(transformer.prepare(&rows, Some(&observe))?);
        inputs.push(latents.i(index)?);
    }
    let sequences: Vec<_> = inputs
        .iter()
        .zip(&prepared)
        .zip(times.iter().zip(guidance))
        .map(|((latent, text), (&timestep, guidance))| Sequence { latent, text, timestep, guidance })
        .collect();
    let outputs = transformer.forward(&sequences, Some(&observe))?;

    let seen = seen.into_inner();
    for name in case.names_between("mid.", "") {
        let full = format!("mid.{name}");
        let want = case.tensor(&full)?;
        let tolerance = case.tolerance_inside(name, want)?;
        if name == "pos_embed_for_grid" || name == "pos_embed_base_grid" {
            // The stored table is of the trained grid.
            let base = config.sample_size;
            let grid = if name == "pos_embed_base_grid" { (base, base) } else { (height, width) };
            let scale = config.interpolation_scale.unwrap_or(1.0);
            report.compare(&full, &positions(config.width(), grid, base, scale), want, tolerance)?;
            continue;
        }
        let Some(got) = seen.get(name) else {
            return Err(Error::Model(format!("{full}: no module of this name was seen")));
        };
        let want = match name {
            "caption_projection" | "caption_norm" => {
                let rows = (0..count)
                    .map(|index| real(&want.i(index)?, &mask[index]))
                    .collect::<Result<Vec<_>, _>>()?;
                Tensor::cat(&rows, 0)?
            }
            // The library works on pictures here.
            _ if name.ends_with(".ff") && want.dims().len() == 4 => {
                want.permute((0, 2, 3, 1))?.contiguous()?
            }
            _ => want.clone(),
        };
        report.compare(&full, got, &want, tolerance)?;
    }
    let got = Tensor::stack(&outputs, 0)?.permute((0, 3, 1, 2))?.contiguous()?;
    report.compare("out.sample", &values(&got)?, case.tensor("out.sample")?, case.tolerance("sample"))
}

/// The rows that are no padding.
fn real(rows: &Tensor, mask: &[u32]) -> Result<Tensor, Error> {
    let count = mask.iter().filter(|bit| **bit == 1).count();
    Ok(rows.narrow(0, 0, count)?.contiguous()?)
}

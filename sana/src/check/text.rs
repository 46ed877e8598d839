//! Text encoder: the input of each layer and the last hidden state, at the positions that are no padding.

use candle_core::{DType, IndexOp, Tensor};

use super::case::{Case, values};
use super::report::Report;
use crate::Error;
use crate::config::TextEncoderConfig;
use crate::text_encoder::TextEncoder;

pub(super) fn check(case: &Case, report: &mut Report) -> Result<(), Error> {
    let config = TextEncoderConfig::from_value(case.config("text_encoder")?, &case.config_path())?;
    let encoder = TextEncoder::load(&config, &case.weights()?)?;
    let ids = case.tensor("in.input_ids")?.to_dtype(DType::U32)?.to_vec2::<u32>()?;
    let mask = case.tensor("in.attention_mask")?.to_dtype(DType::U32)?.to_vec2::<u32>()?;
    let lengths: Vec<usize> =
        mask.iter().map(|row| row.iter().take_while(|bit| **bit == 1).count()).collect();

    let mut inputs = vec![Vec::new(); config.num_hidden_layers];
    let mut last = Vec::new();
    for (ids, length) in ids.iter().zip(&lengths) {
        let hidden = encoder.encode_observed(&ids[..*length], &mut |layer, x| {
            inputs[layer].extend(values(x)?);
            Ok(())
        })?;
        last.extend(values(&hidden)?);
    }

    let tolerance = |name: &str| case.tolerance(name);
    for (layer, got) in inputs.iter().enumerate() {
        let name = format!("mid.hidden_states.{layer}");
        if case.has(&name) {
            report.compare(
                &name,
                got,
                &real_rows(case.tensor(&name)?, &lengths)?,
                tolerance("hidden_states"),
            )?;
        }
    }
    let name = "out.last_hidden_state";
    report.compare(name, &last, &real_rows(case.tensor(name)?, &lengths)?, tolerance("last_hidden_state"))
}

/// The first `lengths[i]` rows of each sequence `i` of `[batch, tokens, hidden]`.
fn real_rows(batch: &Tensor, lengths: &[usize]) -> Result<Tensor, Error> {
    let rows = lengths.iter().enumerate().map(|(i, length)| batch.i((i, ..*length)));
    Ok(Tensor::cat(&rows.collect::<Result<Vec<_>, _>>()?, 0)?)
}

//! Gemma-2 as a text encoder: the last hidden state, one sequence at a time.
//!
//! Padding is never computed: it stands on the right of a causal model and is masked afterwards, so it cannot
//! reach a kept row. One sequence for each call also means that a result depends on nothing but its tokens.

use candle_core::Tensor;

use crate::config::TextEncoderConfig;
use crate::denoise::finite;
use crate::ops::{RmsNorm, Rotation};
use crate::prompt::PromptTokens;
use crate::weights::{RowTable, Weights};
use crate::{Error, Placement};
use layer::Layer;
pub use tensors::tensors;

mod attention;
mod layer;
mod tensors;

/// A loaded text encoder.
#[derive(Debug)]
pub struct TextEncoder {
    config: TextEncoderConfig,
    /// Hundreds of thousands of rows, of which a prompt needs a few hundred.
    table: RowTable,
    layers: Vec<Layer>,
    norm: RmsNorm,
    placement: Placement,
}

/// What the transformer sees of one prompt.
#[derive(Clone, Debug)]
pub struct Embedding {
    /// `[n, hidden]`: the selected positions that are no padding.
    pub rows: Tensor,
}

impl TextEncoder {
    /// Takes the weights of the `text_encoder` folder.
    pub fn load(config: &TextEncoderConfig, weights: &Weights) -> Result<Self, Error> {
        Ok(Self {
            table: weights.table("embed_tokens.weight", config.vocab_size, config.hidden_size)?,
            layers: (0..config.num_hidden_layers)
                .map(|layer| Layer::load(config, weights, layer))
                .collect::<Result<_, _>>()?,
            norm: layer::norm(config, weights, "norm")?,
            placement: weights.placement().clone(),
            config: config.clone(),
        })
    }

    /// Its configuration.
    pub fn config(&self) -> &TextEncoderConfig {
        &self.config
    }

    /// Bytes of weights held; the table of embeddings stays in its file.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(Layer::bytes).sum::<usize>()
    }

    /// Last hidden state `[ids, hidden]` of one sequence without padding.
    pub fn encode(&self, ids: &[u32]) -> Result<Tensor, Error> {
        self.encode_observed(ids, &mut |_, _| Ok(()))
    }

    /// Like [`Self::encode`]; `observe` sees the number and the input of each layer.
    pub fn encode_observed(
        &self,
        ids: &[u32],
        observe: &mut dyn FnMut(usize, &Tensor) -> Result<(), Error>,
    ) -> Result<Tensor, Error> {
        let vocabulary = self.config.vocab_size;
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocabulary) {
            return Err(Error::Model(format!(
                "token {id} is outside the {vocabulary} tokens of the text encoder; \
                 the tokenizer is of another model"
            )));
        }
        let rotation = Rotation::new(self.config.head_dim, self.config.rope_theta as f32, ids.len());
        let x = (self.table.gather(ids)? * (self.config.hidden_size as f64).sqrt())?;
        let mut x = self.placement.put(&x)?;
        for (number, layer) in self.layers.iter().enumerate() {
            observe(number, &x)?;
            x = layer.forward(&x, &rotation)?;
        }
        Ok(self.norm.forward(&x)?)
    }

    /// The rows of a prompt that reach the transformer.
    pub fn embed(&self, tokens: &PromptTokens) -> Result<Embedding, Error> {
        let real = tokens.real();
        let selected: Vec<u32> =
            tokens.selected.iter().filter(|at| **at < real.len()).map(|at| *at as u32).collect();
        let hidden = self.encode(real)?;
        let rows = hidden.index_select(&Tensor::new(selected, hidden.device())?, 0)?;
        if !finite(&rows)? {
            return Err(Error::NotFinite { step: None, group: self.culprit(real)? });
        }
        Ok(Embedding { rows })
    }

    /// Encodes again to find the first part whose result is not finite.
    fn culprit(&self, ids: &[u32]) -> Result<String, Error> {
        let mut first = None;
        self.encode_observed(ids, &mut |number, input| {
            if first.is_none() && !finite(input)? {
                first = Some(number);
            }
            Ok(())
        })?;
        Ok(match first {
            Some(0) => "the text encoder's embed_tokens".to_owned(),
            Some(number) => format!("the text encoder's layers.{}", number - 1),
            // The last layer, which nobody sees alone, or the norm after it.
            None => format!("the text encoder's layers.{}", self.layers.len() - 1),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::prompt::{MAX_SEQUENCE_LENGTH, PromptTokenizer};

    fn tiny() -> (PromptTokenizer, TextEncoder) {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/sana-tiny");
        let config = TextEncoderConfig::open(&model.join("text_encoder/config.json")).unwrap();
        let weights = Weights::open(&model.join("text_encoder"), "model", None).unwrap();
        let tokenizer = PromptTokenizer::open(&model.join("tokenizer")).unwrap();
        (tokenizer, TextEncoder::load(&config, &weights).unwrap())
    }

    fn bits(embedding: &Embedding) -> Vec<u32> {
        let values = embedding.rows.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    }

    #[test]
    fn only_real_selected_rows_are_kept() {
        let (tokenizer, encoder) = tiny();
        let tokens = tokenizer.with_instruction("a red circle", MAX_SEQUENCE_LENGTH).unwrap();
        let kept = tokens.selected.iter().filter(|at| tokens.mask[**at] == 1).count();
        let rows = encoder.embed(&tokens).unwrap().rows;
        assert_eq!(rows.dims(), [kept, 64]);
        assert!(kept < 20, "{kept}");
        let empty = encoder.embed(&tokenizer.plain("", MAX_SEQUENCE_LENGTH).unwrap()).unwrap();
        assert_eq!(empty.rows.dims(), [1, 64]);
    }

    #[test]
    fn bits_do_not_depend_on_the_number_of_threads() {
        let (tokenizer, encoder) = tiny();
        let tokens = tokenizer.with_instruction("two blue stripes", MAX_SEQUENCE_LENGTH).unwrap();
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| bits(&encoder.embed(&tokens).unwrap()))
        };
        let one = with(1);
        assert!(!one.is_empty());
        assert_eq!(one, with(3));
        assert_eq!(one, with(8));
    }

    #[test]
    fn a_token_of_another_model_is_refused() {
        let (_, encoder) = tiny();
        let error = encoder.encode(&[2, 1_000_000]).unwrap_err();
        assert!(matches!(&error, Error::Model(text) if text.contains("1000000")), "{error}");
    }
}

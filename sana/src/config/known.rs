//! Keys of configurations that do not change what is computed here.

/// Of `DPMSolverMultistepScheduler`: noise levels of models that are no flow models, which flow levels replace, and
/// settings of parts that are refused when they are on.
pub(super) const FLOW_DPM: &[&str] = &[
    "beta_end",
    "beta_schedule",
    "beta_start",
    "dynamic_thresholding_ratio",
    "euler_at_final",
    "lambda_min_clipped",
    "lower_order_final",
    "rescale_betas_zero_snr",
    "sample_max_value",
    "steps_offset",
    "time_shift_type",
    "timestep_spacing",
    "trained_betas",
];

/// Of `FlowMatchEulerDiscreteScheduler`: settings of parts that are refused when they are on.
pub(super) const FLOW_EULER: &[&str] =
    &["base_image_seq_len", "base_shift", "max_image_seq_len", "max_shift", "time_shift_type"];

/// Of `Gemma2Config` and of the configurations that all models of the transformers library share, in its older and
/// newer versions: training, text generation, classification, the library's own way to run.
pub(super) const TEXT_ENCODER: &[&str] = &[
    "add_cross_attention",
    "architectures",
    "attention_dropout",
    "attn_implementation",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "cache_implementation",
    "chunk_size_feed_forward",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "final_logit_softcapping",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    // The model reads hidden_activation where both are there.
    "hidden_act",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_encoder_decoder",
    "label2id",
    "length_penalty",
    "max_length",
    "max_position_embeddings",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    "problem_type",
    "pruned_heads",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    // An older name that the model does not read.
    "sliding_window_size",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tie_word_embeddings",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "use_bfloat16",
    "use_cache",
];

/// Longest key that is compared with others.
const LONGEST: usize = 64;

/// The name that `key` was probably meant to be.
pub(super) fn nearest<'a>(key: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if key.len() > LONGEST {
        return None;
    }
    let most = key.chars().count() / 4 + 1;
    names.map(|name| (edits(key, name), name)).filter(|(edits, _)| *edits <= most).min().map(|(_, name)| name)
}

/// Letters to add, remove or replace to make one word of the other.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, letter) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, other) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted() {
        for (from, to, count) in
            [("", "abc", 3), ("abc", "", 3), ("hiden_size", "hidden_size", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!(edits(from, to), count, "{from} {to}");
        }
    }

    #[test]
    fn only_a_near_name_is_suggested() {
        let nearest = |key| nearest(key, TEXT_ENCODER.iter().copied());
        assert_eq!(nearest("use_chache"), Some("use_cache"));
        assert_eq!(nearest("quantization_config"), None);
        assert_eq!(nearest(&"use_cache".repeat(50)), None);
    }
}

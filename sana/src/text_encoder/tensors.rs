use crate::config::TextEncoderConfig;

/// Name and shape of every tensor of a text encoder of this configuration, layer after layer (reference section 3).
pub fn tensors(config: &TextEncoderConfig) -> impl Iterator<Item = (String, Vec<usize>)> {
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let queries = config.num_attention_heads * config.head_dim;
    let keys = config.num_key_value_heads * config.head_dim;
    let layer = [
        ("self_attn.q_proj", vec![queries, hidden]),
        ("self_attn.k_proj", vec![keys, hidden]),
        ("self_attn.v_proj", vec![keys, hidden]),
        ("self_attn.o_proj", vec![hidden, queries]),
        ("mlp.gate_proj", vec![inner, hidden]),
        ("mlp.up_proj", vec![inner, hidden]),
        ("mlp.down_proj", vec![hidden, inner]),
        ("input_layernorm", vec![hidden]),
        ("post_attention_layernorm", vec![hidden]),
        ("pre_feedforward_layernorm", vec![hidden]),
        ("post_feedforward_layernorm", vec![hidden]),
    ];
    let layers = (0..config.num_hidden_layers).flat_map(move |index| {
        layer.clone().map(|(name, shape)| (format!("layers.{index}.{name}.weight"), shape))
    });
    let outside = [("embed_tokens.weight", vec![config.vocab_size, hidden]), ("norm.weight", vec![hidden])];
    outside.map(|(name, shape)| (name.to_owned(), shape)).into_iter().chain(layers)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::weights::Weights;

    #[test]
    fn gemma_2_2b_has_its_parameters() {
        let config = TextEncoderConfig::from_value(json!({"model_type": "gemma2"}), Path::new("x")).unwrap();
        let sizes: Vec<usize> = tensors(&config).map(|(_, shape)| shape.iter().product()).collect();
        // 11 tensors in each of 26 layers; the head is the table itself and is not stored.
        assert_eq!((sizes.len(), sizes.iter().sum()), (288, 2_614_341_888_usize));
    }

    #[test]
    fn the_tensors_of_the_bundled_model_are_listed() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/sana-tiny/text_encoder");
        let config = TextEncoderConfig::open(&dir.join("config.json")).unwrap();
        let weights = Weights::open(&dir, "model", None).unwrap();
        let mut listed: Vec<String> = tensors(&config).map(|(name, _)| name).collect();
        listed.sort();
        assert_eq!(listed, weights.names().collect::<Vec<_>>());
        for (name, shape) in tensors(&config) {
            weights.require(&name, &shape).unwrap();
        }
    }
}

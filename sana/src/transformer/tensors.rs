use crate::config::TransformerConfig;

/// Name and shape of every tensor of a transformer of this configuration, block after block (reference section 3).
pub fn tensors(config: &TransformerConfig) -> impl Iterator<Item = (String, Vec<usize>)> {
    let width = config.width();
    let embedders: &[&str] = if config.guidance_scale.is_some() {
        &["time_embed.timestep_embedder", "time_embed.guidance_embedder"]
    } else {
        &["time_embed.emb.timestep_embedder"]
    };
    let mut outside = vec![("scale_shift_table".to_owned(), vec![2, width])];
    layer(&mut outside, "patch_embed.proj", &[width, config.in_channels, 1, 1], true);
    for embedder in embedders {
        layer(&mut outside, &format!("{embedder}.linear_1"), &[width, 256], true);
        layer(&mut outside, &format!("{embedder}.linear_2"), &[width, width], true);
    }
    layer(&mut outside, "time_embed.linear", &[6 * width, width], true);
    layer(&mut outside, "caption_projection.linear_1", &[width, config.caption_channels], true);
    layer(&mut outside, "caption_projection.linear_2", &[width, width], true);
    layer(&mut outside, "caption_norm", &[width], false);
    layer(&mut outside, "proj_out", &[config.out_channels, width], true);

    let (hidden, qk_norm) = (config.hidden_width(), config.qk_norm);
    let blocks = (0..config.num_layers).flat_map(move |index| block(index, width, hidden, qk_norm));
    outside.into_iter().chain(blocks)
}

fn block(index: usize, width: usize, hidden: usize, qk_norm: bool) -> Vec<(String, Vec<usize>)> {
    let name = format!("transformer_blocks.{index}");
    let mut tensors = vec![(format!("{name}.scale_shift_table"), vec![6, width])];
    // Only the cross-attention has biases on queries, keys and values.
    for (attention, bias) in [("attn1", false), ("attn2", true)] {
        for part in ["to_q", "to_k", "to_v"] {
            layer(&mut tensors, &format!("{name}.{attention}.{part}"), &[width, width], bias);
        }
        layer(&mut tensors, &format!("{name}.{attention}.to_out.0"), &[width, width], true);
        if qk_norm {
            layer(&mut tensors, &format!("{name}.{attention}.norm_q"), &[width], false);
            layer(&mut tensors, &format!("{name}.{attention}.norm_k"), &[width], false);
        }
    }
    layer(&mut tensors, &format!("{name}.ff.conv_inverted"), &[2 * hidden, width, 1, 1], true);
    layer(&mut tensors, &format!("{name}.ff.conv_depth"), &[2 * hidden, 1, 3, 3], true);
    layer(&mut tensors, &format!("{name}.ff.conv_point"), &[width, hidden, 1, 1], false);
    tensors
}

/// Weight and, where it has one, bias.
fn layer(tensors: &mut Vec<(String, Vec<usize>)>, name: &str, shape: &[usize], bias: bool) {
    tensors.push((format!("{name}.weight"), shape.to_vec()));
    if bias {
        tensors.push((format!("{name}.bias"), shape[..1].to_vec()));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::weights::Weights;

    /// A row of the reference's table of checkpoints (section 1): sizes, and the counted tensors and parameters.
    struct Checkpoint {
        name: &'static str,
        layers: usize,
        heads: usize,
        cross: (usize, usize),
        sample_size: usize,
        scale: Option<f64>,
        qk_norm: bool,
        guidance: bool,
        counted: (usize, usize),
    }

    impl Checkpoint {
        /// `transformer/config.json` as released.
        fn config(&self) -> TransformerConfig {
            let mut config = json!({
                "_class_name": "SanaTransformer2DModel", "_diffusers_version": "0.32.0.dev0",
                "attention_bias": false, "attention_head_dim": 32, "caption_channels": 2304,
                "cross_attention_dim": self.heads * 32, "cross_attention_head_dim": self.cross.1, "dropout": 0.0,
                "in_channels": 32, "interpolation_scale": self.scale, "mlp_ratio": 2.5,
                "norm_elementwise_affine": false, "norm_eps": 1e-6, "num_attention_heads": self.heads,
                "num_cross_attention_heads": self.cross.0, "num_layers": self.layers, "out_channels": 32,
                "patch_size": 1, "sample_size": self.sample_size,
            });
            // The first checkpoints are older than these keys.
            if self.qk_norm {
                config["qk_norm"] = json!("rms_norm_across_heads");
                config["timestep_scale"] = json!(1.0);
                config["guidance_embeds"] = json!(self.guidance);
                config["guidance_embeds_scale"] = json!(0.1);
            }
            TransformerConfig::from_value(config, Path::new(self.name)).unwrap()
        }
    }

    #[test]
    fn every_released_checkpoint_has_the_counted_tensors_and_parameters() {
        let small = (28, 36, (16, 72));
        let large = (20, 70, (20, 112));
        let (plain, normed) = ((false, false), (true, false));
        let sprint = (true, true);
        let counted = |tensors, parameters| (tensors, parameters);
        let checkpoints = [
            ("Sana_600M_512px", small, 16, None, plain, counted(548, 591_747_872)),
            ("Sana_600M_1024px", small, 32, None, plain, counted(548, 591_747_872)),
            ("Sana_1600M_512px", large, 16, None, plain, counted(396, 1_604_462_752)),
            ("Sana_1600M_1024px", large, 32, None, plain, counted(396, 1_604_462_752)),
            ("Sana_1600M_2Kpx_BF16", large, 64, Some(1.0), plain, counted(396, 1_604_462_752)),
            ("Sana_1600M_4Kpx_BF16", large, 128, Some(2.0), plain, counted(396, 1_604_462_752)),
            ("SANA1.5_1.6B_1024px", large, 32, None, normed, counted(476, 1_604_641_952)),
            ("SANA1.5_4.8B_1024px", (60, 70, (20, 112)), 32, None, normed, counted(1396, 4_721_825_952)),
            ("Sana_Sprint_0.6B_1024px", small, 32, None, sprint, counted(664, 593_501_216)),
            ("Sana_Sprint_1.6B_1024px", large, 32, None, sprint, counted(480, 1_610_237_472)),
        ];
        for (name, (layers, heads, cross), sample_size, scale, (qk_norm, guidance), counted) in checkpoints {
            let checkpoint =
                Checkpoint { name, layers, heads, cross, sample_size, scale, qk_norm, guidance, counted };
            let config = checkpoint.config();
            assert_eq!((config.width(), config.sample_size), (heads * 32, sample_size), "{name}");
            assert_eq!((config.interpolation_scale, config.qk_norm), (scale, qk_norm), "{name}");
            assert_eq!(config.guidance_scale, guidance.then_some(0.1), "{name}");
            let mut seen = (0, 0);
            for (_, shape) in tensors(&config) {
                seen = (seen.0 + 1, seen.1 + shape.iter().product::<usize>());
            }
            assert_eq!(seen, checkpoint.counted, "{name}");
        }
    }

    #[test]
    fn the_tensors_of_the_fixtures_are_listed() {
        for name in ["dit_10", "dit_15_qk_norm", "dit_sprint"] {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name);
            let mut file: serde_json::Value =
                serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap();
            let config = TransformerConfig::from_value(file["transformer"].take(), &dir).unwrap();
            let weights = Weights::from_file(&dir.join("weights.safetensors")).unwrap();
            let listed: BTreeSet<String> = tensors(&config).map(|(name, _)| name).collect();
            assert_eq!(listed, weights.names().map(str::to_owned).collect(), "{name}");
            for (name, shape) in tensors(&config) {
                weights.require(&name, &shape).unwrap();
            }
        }
    }
}

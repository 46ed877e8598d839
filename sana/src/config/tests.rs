use serde_json::json;

use super::*;

fn origin() -> &'static Path {
    Path::new("part/config.json")
}

fn refused<T: std::fmt::Debug>(result: Result<T, Error>, words: &[&str]) {
    let text = match result.unwrap_err() {
        Error::Model(text) => text,
        other => panic!("not a model error: {other}"),
    };
    for word in words {
        assert!(text.contains(word), "{word} in: {text}");
    }
}

fn scheduler(change: Value) -> Result<SchedulerConfig, Error> {
    let mut config = json!({
        "_class_name": "DPMSolverMultistepScheduler",
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": true,
        "flow_shift": 3.0,
    });
    let (Value::Object(map), Value::Object(change)) = (&mut config, change) else { panic!("no objects") };
    map.extend(change);
    SchedulerConfig::from_value(config, origin())
}

#[test]
fn bare_numbers_of_python_are_read_but_not_inside_strings() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    let text = r#"{"a": -Infinity, "b": [NaN, Infinity], "c": "NaN \" -Infinity \\", "d": 1}"#;
    std::fs::write(&path, text).unwrap();
    let want = json!({"a": null, "b": [null, null], "c": "NaN \" -Infinity \\", "d": 1});
    assert_eq!(read_json(&path).unwrap(), want);
    std::fs::write(&path, "{").unwrap();
    refused(read_json(&path), &["config.json", "no JSON"]);
    refused(read_json(&dir.path().join("gone.json")), &["gone.json"]);
    refused(TransformerConfig::from_value(json!([]), origin()), &["part/config.json", "object"]);
}

#[test]
fn an_absent_key_is_the_default_of_the_library() {
    let config = TransformerConfig::from_value(json!({}), origin()).unwrap();
    assert_eq!((config.width(), config.hidden_width()), (2240, 5600));
    assert_eq!((config.qk_norm, config.timestep_scale, config.interpolation_scale), (false, 1.0, None));
    let text = TextEncoderConfig::from_value(json!({"model_type": "gemma2"}), origin()).unwrap();
    assert_eq!((text.hidden_size, text.windows[..2].to_vec()), (2304, vec![Some(4096), None]));
    assert_eq!(text.attn_logit_softcapping, Some(50.0));
}

#[test]
fn an_unknown_key_is_refused_with_file_and_nearest_key() {
    let transformer = |value| TransformerConfig::from_value(value, origin());
    let text = |value| TextEncoderConfig::from_value(value, origin());
    let autoencoder = |value| AutoencoderConfig::from_value(value, origin());
    // Notes of the library and keys without effect are none.
    let plain = transformer(json!({})).unwrap();
    assert_eq!(transformer(json!({"_name_or_path": "x", "dropout": 0.1})).unwrap(), plain);

    refused(transformer(json!({"colour": "green"})), &["unknown key colour", "part/config.json"]);
    refused(transformer(json!({"num_layer": 2})), &["num_layer in", "did you mean num_layers?"]);
    refused(
        text(json!({"model_type": "gemma2", "rope_thetas": 1.0})),
        &["rope_thetas", "did you mean rope_theta?"],
    );
    let quantized = json!({"model_type": "gemma2", "quantization_config": {"bits": 4}});
    refused(text(quantized), &["quantization_config", "part/config.json"]);
    let part = json!({"model_type": "gemma2", "rope_parameters": {"partial_rotary_factor": 0.5}});
    refused(text(part), &["partial_rotary_factor"]);
    let interpolated = json!({"upsample_block_type": "interpolate", "decoder_in_shorcut": true});
    refused(autoencoder(interpolated), &["did you mean decoder_in_shortcut?"]);
    refused(scheduler(json!({"flowshift": 3.0})), &["did you mean flow_shift?"]);
    refused(scheduler(json!({"sigma_data": 0.5})), &["sigma_data"]);
}

#[test]
fn a_transformer_that_would_compute_otherwise_is_refused() {
    for (key, value) in [
        ("patch_size", json!(2)),
        ("attention_bias", json!(true)),
        ("norm_elementwise_affine", json!(true)),
        ("_class_name", json!("FluxTransformer2DModel")),
        ("qk_norm", json!("layer_norm")),
        ("num_layers", json!(0)),
        ("num_layers", json!("many")),
        ("num_layers", json!(1_u64 << 40)),
        ("in_channels", json!(1_u64 << 40)),
        ("mlp_ratio", json!(1e300)),
        ("cross_attention_head_dim", json!(111)),
        ("interpolation_scale", json!(0.0)),
        ("cross_attention_dim", json!(7)),
        ("norm_eps", json!(-1.0)),
    ] {
        let config = TransformerConfig::from_value(json!({ key: value }), origin());
        refused(config, &[key, &value.to_string(), "part/config.json"]);
    }
    let sprint = |value| TransformerConfig::from_value(value, origin());
    let scale = sprint(json!({"guidance_embeds": true})).unwrap().guidance_scale;
    assert_eq!(scale, Some(0.1));
    assert_eq!(sprint(json!({"guidance_embeds_scale": 0.1})).unwrap().guidance_scale, None);
    refused(sprint(json!({"guidance_embeds": true, "timestep_scale": 2.0})), &["timestep_scale"]);
    let normed = json!({"qk_norm": "rms_norm_across_heads"});
    assert!(TransformerConfig::from_value(normed, origin()).unwrap().qk_norm);
}

#[test]
fn a_scheduler_that_would_compute_otherwise_is_refused() {
    for (key, value) in [
        ("algorithm_type", json!("sde-dpmsolver++")),
        ("solver_order", json!(3)),
        ("solver_type", json!("heun")),
        ("prediction_type", json!("epsilon")),
        ("use_flow_sigmas", json!(false)),
        ("use_karras_sigmas", json!(true)),
        ("final_sigmas_type", json!("sigma_min")),
        ("thresholding", json!(true)),
        ("_class_name", json!("EulerDiscreteScheduler")),
        ("flow_shift", json!(0.0)),
        ("variance_type", json!("learned")),
    ] {
        refused(scheduler(json!({ key: value })), &[key, "part/config.json"]);
    }
    for (key, value) in [
        ("use_dynamic_shifting", json!(true)),
        ("shift_terminal", json!(0.1)),
        ("invert_sigmas", json!(true)),
        ("stochastic_sampling", json!(true)),
        ("shift", json!(-1.0)),
        ("flow_shift", json!(3.0)),
    ] {
        let euler = json!({"_class_name": "FlowMatchEulerDiscreteScheduler", key: value});
        refused(SchedulerConfig::from_value(euler, origin()), &[key, "part/config.json"]);
    }
    let scm = json!({"_class_name": "SCMScheduler", "prediction_type": "epsilon"});
    refused(SchedulerConfig::from_value(scm, origin()), &["prediction_type", "trigflow"]);
}

#[test]
fn each_scheduler_is_read() {
    let open = |value| SchedulerConfig::from_value(value, origin()).unwrap();
    let flow = |shift| FlowConfig { shift, num_train_timesteps: 1000 };
    assert_eq!(scheduler(json!({})).unwrap(), SchedulerConfig::FlowDpm(flow(3.0)));
    let euler = json!({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 6.0});
    assert_eq!(open(euler), SchedulerConfig::FlowEuler(flow(6.0)));
    let scm = SchedulerConfig::Scm(ScmConfig { sigma_data: 0.5, num_train_timesteps: 1000 });
    assert_eq!(open(json!({"_class_name": "SCMScheduler"})), scm);
    // As a fixture writes it, without the class.
    assert_eq!(open(json!({"prediction_type": "trigflow", "sigma_data": 0.5})), scm);
}

#[test]
fn text_encoder_keys_have_two_spellings() {
    let open = |value| TextEncoderConfig::from_value(value, origin());
    let older = json!({"model_type": "gemma2", "rope_theta": 500.0, "hidden_act": "gelu_pytorch_tanh"});
    assert_eq!(open(older).unwrap().rope_theta, 500.0);
    let newer = json!({
        "model_type": "gemma2",
        "num_hidden_layers": 3,
        "rope_parameters": {"rope_theta": 700.0, "rope_type": "default"},
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        "sliding_window": 9,
        "attn_logit_softcapping": null,
    });
    let newer = open(newer).unwrap();
    assert_eq!((newer.rope_theta, newer.attn_logit_softcapping), (700.0, None));
    assert_eq!(newer.windows, [None, Some(9), None]);

    for (key, value) in [
        ("model_type", json!("gemma3")),
        ("hidden_activation", json!("silu")),
        ("attention_bias", json!(true)),
        ("rope_parameters", json!({"rope_type": "yarn"})),
        ("rope_scaling", json!({"factor": 2.0})),
        ("layer_types", json!(["full_attention"])),
        ("head_dim", json!(7)),
        ("num_key_value_heads", json!(3)),
    ] {
        let mut config = json!({"model_type": "gemma2"});
        config[key] = value;
        refused(open(config), &["part/config.json"]);
    }
}

fn autoencoder(change: Value) -> Result<AutoencoderConfig, Error> {
    let mut config = json!({
        "latent_channels": 4,
        "attention_head_dim": 4,
        "upsample_block_type": "interpolate",
        "decoder_block_types": "ResBlock",
        "decoder_norm_types": ["rms_norm", "batch_norm"],
        "decoder_act_fns": "silu",
        "decoder_block_out_channels": [4, 8],
        "decoder_layers_per_block": [1, 2],
        "decoder_qkv_multiscales": [[], [5]],
        "encoder_block_types": ["ResBlock", "EfficientViTBlock"],
        "encoder_block_out_channels": [4, 8],
        "encoder_layers_per_block": [0, 1],
        "encoder_qkv_multiscales": [[], []],
        "scaling_factor": 0.5,
    });
    let (Value::Object(map), Value::Object(change)) = (&mut config, change) else { panic!("no objects") };
    map.extend(change);
    AutoencoderConfig::from_value(config, origin())
}

#[test]
fn autoencoder_stages_may_be_one_value_or_a_list() {
    let parsed = autoencoder(json!({})).unwrap();
    assert_eq!(parsed.decoder.iter().map(|stage| stage.block).collect::<Vec<_>>(), [BlockKind::ResBlock; 2]);
    assert_eq!((parsed.decoder[0].norm, parsed.decoder[1].norm), (NormKind::RmsNorm, NormKind::BatchNorm));
    assert_eq!((parsed.decoder[1].scale, parsed.encoder[1].block), (Some(5), BlockKind::EfficientViTBlock));
    let other = autoencoder(json!({
        "decoder_block_types": ["ResBlock", "EfficientViTBlock"],
        "decoder_act_fns": ["relu", "swish"],
        "decoder_layers_per_block": [0, 2],
        "upsample_block_type": "pixel_shuffle",
    }));
    let other = other.unwrap();
    assert_eq!((other.decoder[1].block, other.decoder[0].layers), (BlockKind::EfficientViTBlock, 0));
    assert_eq!(other.decoder[0].activation, ActivationKind::Relu);
    assert!(other.pixel_shuffle && !parsed.pixel_shuffle && parsed.pixel_unshuffle);
}

#[test]
fn an_autoencoder_that_would_compute_otherwise_or_be_absurd_is_refused() {
    for (key, value) in [
        ("decoder_block_types", json!(["ResBlock"])),
        ("decoder_block_types", json!("Transformer")),
        ("encoder_block_types", json!("Transformer")),
        ("decoder_layers_per_block", json!([1, 2, 3])),
        ("decoder_layers_per_block", json!([1, 1_u64 << 60])),
        ("decoder_norm_types", json!(["layer_norm", "rms_norm"])),
        ("decoder_act_fns", json!("gelu")),
        ("decoder_conv_act_fn", json!("tanh")),
        ("decoder_qkv_multiscales", json!([[], [3, 5]])),
        ("decoder_qkv_multiscales", json!([[], [4]])),
        ("encoder_qkv_multiscales", json!([[], [1_u64 << 40]])),
        ("upsample_block_type", json!("bicubic")),
        ("downsample_block_type", json!("pool")),
        ("scaling_factor", json!(0)),
        ("in_channels", json!(4)),
        ("attention_head_dim", json!(0)),
        ("attention_head_dim", json!(1_u64 << 40)),
        ("latent_channels", json!(0)),
        ("latent_channels", json!(-1)),
        ("decoder_block_out_channels", json!([])),
        ("decoder_block_out_channels", json!([4, 0])),
        ("decoder_block_out_channels", json!([4, 1_u64 << 40])),
        ("decoder_block_out_channels", json!([4, 24])),
        ("encoder_block_out_channels", json!([4, 6])),
        ("encoder_block_out_channels", json!(vec![4; 64])),
    ] {
        refused(autoencoder(json!({ key: value })), &[key, "part/config.json"]);
    }
    let empty = json!({"decoder_block_out_channels": [4, 4, 4], "decoder_layers_per_block": [1, 0, 1]});
    refused(autoencoder(empty), &["decoder_layers_per_block", "without blocks"]);
    refused(autoencoder(json!({"latent_channels": 3})), &["block_out_channels", "latent's 3"]);
    autoencoder(json!({"latent_channels": 3, "decoder_in_shortcut": false, "encoder_out_shortcut": false}))
        .unwrap();
    let heads = autoencoder(json!({"attention_head_dim": 3}));
    refused(heads, &["encoder_block_out_channels", "attention_head_dim"]);
}

#[test]
fn the_bundled_model_is_read() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/sana-tiny");
    assert_eq!(ModelIndex::open(&model).unwrap().family, Family::Sana);
    assert_eq!(TransformerConfig::open(&model.join("transformer/config.json")).unwrap().sample_size, 16);
    assert_eq!(AutoencoderConfig::open(&model.join("vae/config.json")).unwrap().latent_channels, 32);
    let scheduler = SchedulerConfig::open(&model.join("scheduler/scheduler_config.json")).unwrap();
    assert_eq!(
        (scheduler.name(), scheduler.class_name()),
        ("flow-dpm-solver++", "DPMSolverMultistepScheduler")
    );
}

#[test]
fn a_folder_of_another_pipeline_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    refused(ModelIndex::open(dir.path()), &["model_index.json is missing"]);
    let write =
        |value: Value| std::fs::write(dir.path().join("model_index.json"), value.to_string()).unwrap();
    write(json!({"_class_name": "FluxPipeline"}));
    refused(ModelIndex::open(dir.path()), &["_class_name", "FluxPipeline", "model_index.json"]);
    write(json!({}));
    refused(ModelIndex::open(dir.path()), &["_class_name", "no Sana model"]);
    write(json!({"_class_name": "SanaPipeline", "transformer": ["diffusers", "SanaTransformer2DModel"]}));
    refused(ModelIndex::open(dir.path()), &["vae"]);
    let sana = json!({
        "_class_name": "SanaPipeline",
        "scheduler": ["diffusers", "SCMScheduler"],
        "transformer": ["diffusers", "SanaTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderDC"],
    });
    write(sana.clone());
    refused(ModelIndex::open(dir.path()), &["scheduler", "only DPMSolverMultistepScheduler or Flow"]);
    let mut sprint = sana;
    sprint["_class_name"] = json!("SanaSprintPipeline");
    write(sprint.clone());
    let index = ModelIndex::open(dir.path()).unwrap();
    assert_eq!((index.family, index.scheduler.as_str()), (Family::Sprint, "SCMScheduler"));
    sprint["controlnet"] = json!(["diffusers", "SanaControlNetModel"]);
    write(sprint);
    refused(ModelIndex::open(dir.path()), &["unknown key controlnet", "model_index.json"]);
}

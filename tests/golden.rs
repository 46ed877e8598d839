//! The sana crate against the fixtures of the reference library, with the checks that `sana-check` runs.

use std::path::Path;

use sana::check::{Report, State, fixtures, run};

/// Checks a fixture of `tests/fixtures`; it must compare something and nothing may be off.
fn check(name: &str) -> Report {
    let report = run(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name));
    if let State::Failed(error) = &report.state {
        panic!("{name}: {error}");
    }
    let off: Vec<_> = report.rows.iter().filter(|row| !row.ok).collect();
    assert!(off.is_empty(), "{name}: {off:#?}");
    assert!(report.passed(), "{name}: {:?} with {} rows", report.state, report.rows.len());
    report
}

#[test]
fn noise_is_that_of_torch_to_the_bit() {
    for row in check("randn").rows {
        assert_eq!(row.difference, 0.0, "{row:?}");
    }
}

#[test]
fn schedulers() {
    for name in ["sched_dpm_flow", "sched_flow_euler", "sched_scm"] {
        assert!(check(name).rows.iter().any(|row| row.name.ends_with(".samples")));
    }
}

#[test]
fn resolution_bins() {
    check("resolution_bins");
}

#[test]
fn resize_and_8_bit() {
    check("resize_uint8");
}

#[test]
fn prompts() {
    check("prompts");
}

#[test]
fn text_encoder() {
    for name in ["gemma2", "gemma2_bf16"] {
        let report = check(name);
        assert!(report.rows.iter().any(|row| row.name == "out.last_hidden_state"));
        assert!(report.rows.iter().filter(|row| row.name.starts_with("mid.")).count() >= 4);
    }
}

#[test]
fn a_fixture_that_says_nothing_is_unknown() {
    let dir = tempfile::tempdir().unwrap();
    assert!(fixtures(dir.path()).is_err());
    let case = dir.path().join("mystery");
    std::fs::create_dir(&case).unwrap();
    assert!(matches!(run(&case).state, State::Failed(_)));
    std::fs::write(case.join("config.json"), "{}").unwrap();
    // An empty header.
    std::fs::write(case.join("io.safetensors"), [&2_u64.to_le_bytes()[..], b"{}"].concat()).unwrap();
    assert_eq!(fixtures(dir.path()).unwrap(), std::slice::from_ref(&case));
    let report = run(&case);
    assert!(matches!(report.state, State::Unknown), "{:?}", report.state);
    assert!(!report.passed());
}

#[test]
fn transformer() {
    for name in
        ["dit_10", "dit_10_bf16", "dit_pos_embed", "dit_pos_embed_base_grid", "dit_15_qk_norm", "dit_sprint"]
    {
        assert!(check(name).rows.iter().any(|row| row.name == "out.sample"));
    }
}

#[test]
fn decoder() {
    for name in ["square", "rect", "batch", "quadratic", "bf16", "mix_style", "lite_style", "odd_style"] {
        let report = check(&format!("dcae_decode_{name}"));
        assert!(report.rows.iter().any(|row| row.name == "out.image"));
        let bands: Vec<_> = report.rows.iter().filter(|row| row.name.contains("in bands of")).collect();
        assert!(bands.len() == 3 && bands.iter().all(|row| row.difference == 0.0), "{bands:#?}");
        let tiles: Vec<_> = report.rows.iter().filter(|row| row.name.contains("in tiles of")).collect();
        assert!(tiles.len() == 2 && tiles.iter().all(|row| row.difference == 0.0), "{tiles:#?}");
    }
}

#[test]
fn encoder() {
    for (name, modules) in [("dcae_encode", 17), ("dcae_encode_mix_style", 6)] {
        let report = check(name);
        assert!(report.rows.iter().any(|row| row.name == "out.latent"));
        let seen = report.rows.iter().filter(|row| row.name.starts_with("mid.encoder.")).count();
        assert_eq!(seen, modules, "{name}");
        let bands: Vec<_> = report.rows.iter().filter(|row| row.name.contains("in bands of")).collect();
        assert!(bands.len() == 3 && bands.iter().all(|row| row.difference == 0.0), "{bands:#?}");
    }
}

#[test]
fn blended_tiles_are_those_of_the_library() {
    for name in ["dcae_tiled_decode", "dcae_tiled_decode_exact_fit"] {
        assert!(check(name).rows.iter().any(|row| row.name == "out.tiled"));
    }
}

#[test]
fn pipelines_end_in_the_same_picture() {
    for name in ["pipeline_sana", "pipeline_sana_bf16", "pipeline_sprint"] {
        let report = check(name);
        let images = report.rows.iter().filter(|row| row.name.ends_with(".image"));
        assert!(images.clone().count() >= 2 && images.clone().all(|row| row.difference <= 1.0));
    }
}

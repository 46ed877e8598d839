//! The fixtures of the reference, with every layer on emulated kernels: all of this module but the driver and cuBLAS.

use std::path::Path;

use candle_core::DType;

use crate::Placement;
use crate::check::{Report, Slack, State, run_on};
use crate::placement::emulation::forced;

fn run(name: &str, placement: &Placement) -> Report {
    let report =
        run_on(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name), placement);
    if let State::Failed(error) = &report.state {
        panic!("{name}: {error}");
    }
    report
}

fn check(name: &str, placement: &Placement) {
    let report = run(name, placement);
    let off: Vec<_> = report.rows.iter().filter(|row| !row.ok).collect();
    assert!(off.is_empty(), "{name}: {off:#?}");
    assert!(report.passed(), "{name}: {:?}", report.state);
}

/// One part of a model.
const PARTS: [&str; 14] = [
    "gemma2",
    "gemma2_bf16",
    "dit_10",
    "dit_10_bf16",
    "dit_pos_embed",
    "dit_15_qk_norm",
    "dcae_decode_square",
    "dcae_decode_rect",
    "dcae_decode_quadratic",
    "dcae_decode_bf16",
    "dcae_decode_mix_style",
    "dcae_decode_lite_style",
    "dcae_encode",
    "dcae_tiled_decode",
];

#[test]
fn parts_in_f32() {
    for name in PARTS {
        // Everything of these runs on this thread.
        forced(|| check(name, &Placement::emulated(DType::F32)));
    }
}

#[test]
fn parts_in_bf16() {
    for name in PARTS {
        check(name, &Placement::emulated(DType::BF16));
    }
}

#[test]
fn pipelines_in_bf16() {
    for name in ["pipeline_sana", "pipeline_sana_bf16"] {
        check(name, &Placement::emulated(DType::BF16));
    }
}

#[test]
fn a_device_is_compared_less_strictly_than_the_cpu() {
    assert_eq!(Slack::of(&Placement::cpu()), Slack::default());
    let bf16 = Slack::of(&Placement::emulated(DType::BF16));
    assert!(bf16.relative > forced(|| Slack::of(&Placement::emulated(DType::F32))).relative);
}

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

macro_rules! fixtures {
    ($($module:ident($dtype:ident, $run:expr): $($name:ident)*;)*) => {
        $(mod $module {
            use super::*;
            $(#[test]
            fn $name() {
                $run(|| check(stringify!($name), &Placement::emulated(DType::$dtype)));
            })*
        })*
    };
}

fixtures! {
    // Everything of these runs on one thread.
    parts_in_f32(F32, forced):
        gemma2 dit_10 dit_pos_embed dit_15_qk_norm dit_sprint
        dcae_decode_square dcae_decode_mix_style dcae_decode_lite_style dcae_encode;
    in_bf16(BF16, |work: fn()| work()):
        gemma2 dit_10 dcae_decode_mix_style pipeline_sprint;
}

#[test]
fn a_device_is_compared_less_strictly_than_the_cpu() {
    assert_eq!(Slack::of(&Placement::cpu()), Slack::default());
    let bf16 = Slack::of(&Placement::emulated(DType::BF16));
    assert!(bf16.relative > forced(|| Slack::of(&Placement::emulated(DType::F32))).relative);
}

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

/// Half the bits of a value are lost at every layer, so this one is held against the library's own decode in bf16: the two
/// tensors' largest distance to the f32 fixture in diffusers 0.42.1 on a CPU.
#[test]
fn a_decode_in_bf16_is_as_near_as_the_librarys() {
    let report = run("dcae_decode_square", &Placement::emulated(DType::BF16));
    for (name, of_library) in [("mid.decoder.norm_out", 0.481), ("out.image", 0.218)] {
        let row = report.rows.iter().find(|row| row.name == name).expect("the fixture has this tensor");
        assert!(row.difference <= of_library, "{row:?}");
    }
}

#[test]
fn a_device_is_compared_less_strictly_than_the_cpu() {
    assert_eq!(Slack::of(&Placement::cpu()), Slack::default());
    let bf16 = Slack::of(&Placement::emulated(DType::BF16));
    assert!(bf16.relative > forced(|| Slack::of(&Placement::emulated(DType::F32))).relative);
}

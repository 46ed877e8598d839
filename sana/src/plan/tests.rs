use super::*;

fn request(size: u32, precision: Precision, mode: Memory, memory: u64) -> Request {
    let reserve = 500_000_000;
    Request { size: (size, size), precision, mode, tokens: 512, pictures: 4, memory, reserve }
}

#[test]
fn every_released_model_has_the_counted_parameters() {
    let counted = [
        591_747_872,
        591_747_872,
        1_604_462_752,
        1_604_462_752,
        1_604_462_752,
        1_604_462_752,
        1_604_641_952,
        4_721_825_952,
        593_501_216,
        1_610_237_472,
    ];
    assert_eq!(names().count(), counted.len());
    for (name, transformer) in names().zip(counted) {
        let model = Model::named(name).unwrap();
        let plan = Plan::of(&model, &request(1024, Precision::Bf16, Memory::Resident, u64::MAX)).unwrap();
        let parameters = plan.weights.map(|part| part.parameters);
        assert_eq!(parameters, [2_614_341_888, transformer, 159_223_171], "{name}");
    }
    let error = Model::named("Sana_3B").unwrap_err().to_string();
    assert!(error.contains("Sana_3B") && error.contains("Sana_1600M_4Kpx_BF16"), "{error}");
}

#[test]
fn the_4k_model_fits_8_gb_one_part_after_the_other_and_not_all_at_once() {
    let model = Model::named("Sana_1600M_4Kpx_BF16_diffusers").unwrap();
    let memory = 8_000_000_000;
    let plan = Plan::of(&model, &request(4096, Precision::Bf16, Memory::Sequential, memory)).unwrap();
    assert!(plan.fits, "{plan:?}");
    assert_eq!(plan.decode, Tiling::Bands(None));
    let [encode, denoise, _] = plan.phases;
    // The text encoder's weights, without its table, are half of the memory.
    assert_eq!(encode.weights, 2 * (2_614_341_888 - 256_000 * 2304));
    // Two sequences of 16384 tokens, 8.5 times the width each, in 2 bytes.
    assert!(denoise.activations > 2 * 16384 * 17 * 2240, "{denoise:?}");
    assert!(plan.pictures_a_call >= 1);

    let plan = Plan::of(&model, &request(4096, Precision::Bf16, Memory::Resident, memory)).unwrap();
    assert!(!plan.fits && plan.phases.iter().all(|phase| phase.peak() > memory), "{plan:?}");
}

#[test]
fn weights_of_the_bundled_model_are_planned_as_they_are_held() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/sana-tiny");
    let model = Model::open(&dir).unwrap();
    let request = request(512, Precision::F32, Memory::Resident, u64::MAX);
    let planned: u64 = Plan::of(&model, &request).unwrap().weights.iter().map(|part| part.bytes).sum();
    let held = crate::Pipeline::load(&dir).unwrap().resident_bytes() as u64;
    // Columns of packed matrices are rounded up, and vectors such as biases of norms are not counted as held.
    let ratio = held as f64 / planned as f64;
    assert!((0.98..1.05).contains(&ratio), "held {held}, planned {planned}");
}

#[test]
fn less_memory_takes_smaller_tiles_and_at_last_does_not_fit() {
    let model = Model::named("Sana_600M_1024px").unwrap();
    let plan = |memory| {
        let request = Request { reserve: 0, ..request(4096, Precision::F32, Memory::Sequential, memory) };
        Plan::of(&model, &request).unwrap()
    };
    let full = plan(u64::MAX);
    assert!(full.fits && full.decodes.iter().all(|decode| decode.fits));
    assert_eq!(full.decodes[0].recomputed, 0.0);
    // Between the least and the next, only the least fits, and the whole does not.
    let decoder = full.phases[2].peak() - full.phases[2].activations;
    let least = full.decodes.iter().map(|decode| decode.activations).min().unwrap();
    let tight = plan(decoder + least);
    assert!(!tight.fits);
    let chosen = tight.decodes.iter().find(|decode| decode.tiling == tight.decode).unwrap();
    assert!(chosen.fits && chosen.activations == least, "{tight:?}");
    assert!(plan(decoder).decodes.iter().all(|decode| !decode.fits));
}

#[test]
fn sprint_needs_one_sequence() {
    let plan = |name| {
        let request = request(1024, Precision::Bf16, Memory::Sequential, 8_000_000_000);
        Plan::of(&Model::named(name).unwrap(), &request).unwrap()
    };
    let (sprint, guided) = (plan("Sana_Sprint_0.6B_1024px"), plan("Sana_600M_1024px"));
    assert_eq!((sprint.sequences, guided.sequences), (1, 2));
    assert_eq!(2 * sprint.phases[1].activations, guided.phases[1].activations);
    assert!(sprint.pictures_a_call > guided.pictures_a_call);
}

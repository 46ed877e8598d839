//! The kernels, run on the host with the launches of this module, against the CPU layers.
//!
//! Inputs and weights are rounded to the precision first, so what differs is the order of sums (f32: 2e-5 of the largest value)
//! and the rounding of results and of what lies between two kernels (bf16: 2^-7, f16: 2^-10 of it).

mod attention;
mod pictures;

use candle_core::{DType, Device, Result, Tensor};

use super::*;
use crate::ops::{self, RowOp};

const PRECISIONS: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

fn tolerance(dtype: DType) -> f32 {
    match dtype {
        DType::F32 => 2e-5,
        DType::BF16 => 1.0 / 128.0,
        _ => 1.0 / 1024.0,
    }
}

/// Made-up values, rounded to a precision: in f32 for the CPU, and as they are stored.
fn given(shape: impl Into<Shape>, seed: usize, dtype: DType) -> (Tensor, Tensor) {
    let shape = shape.into();
    let value = |i: usize| (((i + 31 * seed) * 7919 % 10_007) as f32 - 5003.0) / 4000.0;
    let values: Vec<f32> = (0..shape.elem_count()).map(value).collect();
    let stored = Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
    // A copy even in f32: kernels may change the other.
    (stored.to_dtype(DType::F32).unwrap().copy().unwrap(), stored)
}

fn close(what: &str, got: &Tensor, want: &Tensor, dtype: DType) {
    assert_eq!((got.dims(), got.dtype()), (want.dims(), dtype), "{what}");
    let values = |tensor: &Tensor| ops::to_vec(&tensor.to_dtype(DType::F32).unwrap()).unwrap();
    let (got, want) = (values(got), values(want));
    let largest = want.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
    for (place, (got, want)) in got.iter().zip(&want).enumerate() {
        let off = (got - want).abs();
        assert!(off <= tolerance(dtype) * largest, "{what} {dtype:?} at {place}: {got} {want} of {largest}");
    }
}

#[test]
fn linear_layers_with_every_activation_and_chosen_rows() {
    for dtype in PRECISIONS {
        for (rows, input, out) in [(1, 1, 1), (7, 5, 33), (19, 40, 8)] {
            let ((x, gx), (w, gw), (b, gb)) =
                (given((rows, input), 1, dtype), given((out, input), 2, dtype), given(out, 3, dtype));
            for activation in [Activation::None, Activation::Relu, Activation::Silu, Activation::GeluTanh] {
                let want = ops::Linear::new(w.clone(), Some(b.clone())).unwrap().with(activation);
                let got = Linear::new(&gw, Some(&gb), None).unwrap().with(activation);
                close("linear", &got.forward(&gx).unwrap(), &want.forward(&x).unwrap(), dtype);
            }
            let chosen: Vec<usize> = (0..out).rev().step_by(2).collect();
            let want = ops::Linear::of_rows(&w, None, Some(&chosen)).unwrap().forward(&x).unwrap();
            let got = Linear::new(&gw, None, Some(&chosen)).unwrap();
            close("chosen rows", &got.forward(&gx).unwrap(), &want, dtype);
            assert_eq!(got.bytes(), chosen.len() * input * dtype.size_in_bytes());
            assert!(got.forward(&gx.t().unwrap()).is_err() || input == rows);
        }
    }
}

#[test]
fn norms_of_any_width() {
    for dtype in PRECISIONS {
        for (rows, n) in [(1, 1), (9, 7), (17, 32), (3, 100), (8, 1152)] {
            let ((x, gx), (w, gw), (b, gb), (r, gr)) = (
                given((rows, n), 1, dtype),
                given(n, 2, dtype),
                given(n, 3, dtype),
                given((rows, n), 4, dtype),
            );
            for activation in [Activation::None, Activation::Relu] {
                let want = ops::RmsNorm::new(&w, Some(&b), 1e-5, activation).unwrap();
                let got = RmsNorm::new(&gw, Some(&gb), 1e-5, activation).unwrap();
                close("rms norm", &got.forward(&gx, None).unwrap(), &want.forward(&x).unwrap(), dtype);
                let want = want.forward_add(&x, &r).unwrap();
                close("rms norm and residual", &got.forward(&gx, Some(&gr)).unwrap(), &want, dtype);
            }
            let plain = ops::RmsNorm::new(&w, None, 1e-6, Activation::None).unwrap().forward(&x).unwrap();
            let got = RmsNorm::new(&gw, None, 1e-6, Activation::None).unwrap().forward(&gx, None).unwrap();
            close("rms norm without bias", &got, &plain, dtype);
        }
    }
}

#[test]
fn modulated_norms_and_gated_sums_of_several_sequences() {
    for dtype in PRECISIONS {
        for (sequences, tokens, n) in [(1, 1, 3), (2, 9, 40), (3, 4, 32)] {
            let ((x, gx), (y, gy)) =
                (given((sequences * tokens, n), 1, dtype), given((sequences * tokens, n), 2, dtype));
            let (modulation, _) = given((sequences, 6 * n), 3, DType::F32);
            let rows: Vec<Vec<f32>> = modulation.to_vec2().unwrap();
            let on_cpu = ops::Modulation::new(rows, n, &x).unwrap();
            let want = ops::layer_norm_modulated(&x, &on_cpu, 4, 3, 1e-6).unwrap();
            close("layer norm", &layer_norm_modulated(&gx, &modulation, 4, 3, 1e-6).unwrap(), &want, dtype);

            ops::add_gated(&x, &y, &on_cpu, 5).unwrap();
            add_gated(&gx, &gy, &modulation, 5).unwrap();
            close("gated sum", &gx, &x, dtype);
            let x = gx.to_dtype(DType::F32).unwrap().copy().unwrap();
            ops::add(&x, &y).unwrap();
            add(&gx, &gy).unwrap();
            close("sum", &gx, &x, dtype);
            assert!(add_gated(&gx, &gy, &modulation, 6).is_err());
            assert!(layer_norm_modulated(&gx, &modulation, 0, 6, 1e-6).is_err());
        }
    }
}

#[test]
fn bytes_are_those_of_the_cpu() {
    for dtype in PRECISIONS {
        let (x, gx) = given((5, 37, 3), 1, dtype);
        // In the reference the picture is scaled in the decoder's precision.
        let scaled =
            ((&x * 0.5).unwrap() + 0.5).unwrap().to_dtype(dtype).unwrap().to_dtype(DType::F32).unwrap();
        let want: Vec<u8> = ops::to_vec(&scaled)
            .unwrap()
            .iter()
            .map(|value| (value.clamp(0.0, 1.0) * 255.0).round_ties_even() as u8)
            .collect();
        let got = to_rgb8(&gx, 0..37).unwrap();
        assert_eq!(got.dims(), [5, 37, 3]);
        assert_eq!(got.flatten_all().unwrap().to_vec1::<u8>().unwrap(), want);
        let crop = to_rgb8(&gx, 4..30).unwrap().to_vec3::<u8>().unwrap();
        for (y, row) in crop.iter().enumerate() {
            for (x, pixel) in row.iter().enumerate() {
                assert_eq!(pixel[..], want[(y * 37 + x + 4) * 3..][..3]);
            }
        }
        assert!(to_rgb8(&gx, 4..38).is_err());
    }
    let mut bytes = Vec::new();
    let row: Vec<f32> = (0..300).map(|i| (i as f32 - 150.0) / 127.5).collect();
    crate::postprocess::to_bytes(&row, &mut bytes);
    let got = to_rgb8(&Tensor::from_vec(row, (1, 100, 3), &Device::Cpu).unwrap(), 0..100).unwrap();
    assert_eq!(got.flatten_all().unwrap().to_vec1::<u8>().unwrap(), bytes);
}

#[test]
fn the_first_value_that_is_not_finite_is_found() {
    for dtype in PRECISIONS {
        for (values, want) in [
            (vec![0.0, -1e4, 6e4], None),
            (vec![0.0, f32::INFINITY, f32::NAN], Some(1)),
            (vec![f32::NAN; 700], Some(0)),
            ([vec![1.0; 513], vec![f32::NEG_INFINITY]].concat(), Some(513)),
        ] {
            let x = Tensor::new(values, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
            assert_eq!(first_not_finite(&x).unwrap(), want);
        }
    }
}

#[test]
fn a_launch_that_does_not_fit_is_refused() -> Result<()> {
    let (x, gx) = given((4, 8), 1, DType::BF16);
    let launch = || Launch::over_rows(&table::SOFTMAX, DType::BF16, 4).target();
    let told = |result: Result<()>, what: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains("softmax") && error.contains(what), "{error}");
    };
    told(launch().ints([4, 8]).change(&gx), "4 arguments, not 3");
    told(launch().ints([4, 8, 1]).change(&gx), "argument 3 (r)");
    told(launch().ints([4, 1 << 40]).float(1.0).change(&gx), "argument 2 (i)");
    told(launch().ints([4, 8]).float(1.0).change(&x), "argument 0 (S)");
    told(launch().ints([4, 8]).float(1.0).change(&gx.t()?), "not contiguous");
    let empty = Launch::over_rows(&table::SOFTMAX, DType::BF16, 0).target();
    told(empty.ints([0, 8]).float(1.0).change(&gx), "grid");
    launch().ints([4, 8]).float(1.0).change(&gx)
}

#[test]
fn half_precisions_round_as_the_rest_of_the_world_does() {
    // Through a kernel that changes nothing, every bit pattern of a float that matters.
    for dtype in [DType::BF16, DType::F16] {
        let patterns: Vec<u32> = (0..=u16::MAX)
            .flat_map(|high| {
                let high = u32::from(high) << 16;
                [
                    high,
                    high | 0x7fff,
                    high | 0x8000,
                    high | 0x8001,
                    high | 0x1fff,
                    high | 0x1000,
                    high | 0x1001,
                ]
            })
            .collect();
        let values: Vec<f32> =
            patterns.into_iter().map(f32::from_bits).filter(|value| value.is_finite()).collect();
        // A plain bias is exact: 0 + value.
        let n = values.len();
        let zeros = Tensor::zeros((1, n), dtype, &Device::Cpu).unwrap();
        let bias = Tensor::from_vec(values.clone(), n, &Device::Cpu).unwrap();
        Launch::over_values(&table::BIAS_ACTIVATION, dtype, n)
            .target()
            .tensor(&bias)
            .ints([1, n, 0])
            .change(&zeros)
            .unwrap();
        let want = bias.to_dtype(dtype).unwrap().to_dtype(DType::F32).unwrap();
        let got = zeros.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
        assert_eq!(ops::to_vec(&got).unwrap(), ops::to_vec(&want).unwrap(), "{dtype:?}");
    }
}

#[test]
fn values_that_do_not_lie_on_whole_words_come_out_the_same() -> Result<()> {
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        for n in [1, 7, 8, 2051] {
            let (_, x) = given((5, n), 1, dtype);
            let bias = Tensor::arange(0f32, n as f32, &Device::Cpu)?;
            let run = |target: &Tensor| {
                Launch::over_values(&table::BIAS_ACTIVATION, dtype, 3 * n)
                    .target()
                    .tensor(&bias)
                    .ints([3, n, 2])
                    .change(target)
            };
            let alone = x.narrow(0, 1, 3)?.copy()?;
            let (first, last) = (x.get(0)?.copy()?, x.get(4)?.copy()?);
            run(&alone)?;
            run(&x.narrow(0, 1, 3)?)?;
            let values = |tensor: &Tensor| ops::to_vec(&tensor.to_dtype(DType::F32)?.flatten_all()?);
            assert_eq!(values(&x.narrow(0, 1, 3)?)?, values(&alone)?, "{dtype:?} {n}");
            // Nothing beside it was touched.
            assert_eq!(values(&x.get(0)?)?, values(&first)?, "{dtype:?} {n}");
            assert_eq!(values(&x.get(4)?)?, values(&last)?, "{dtype:?} {n}");
        }
    }
    Ok(())
}

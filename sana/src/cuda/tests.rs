//! The kernels, run on the host with the launches of this module, against the CPU layers.
//!
//! Inputs and weights are rounded to the precision first, so what differs is the order of sums (f32: 2e-5 of the largest value)
//! and the rounding of results and of what lies between two kernels (bf16: 2^-7, f16: 2^-10 of it).

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

/// Rows kept from before and new ones, in both forms.
fn pieces(kept: usize, rows: usize, width: usize, channels: usize, dtype: DType) -> [(Tensor, Tensor); 2] {
    [given((kept, width, channels), 11, dtype), given((rows, width, channels), 12, dtype)]
}

#[test]
fn convolutions_of_bands() {
    for dtype in PRECISIONS {
        for (kept, rows, width, input, out) in
            [(1, 2, 1, 1, 1), (2, 1, 7, 8, 5), (2, 3, 33, 20, 64), (1, 4, 6, 16, 3)]
        {
            let [(a, ga), (b, gb)] = pieces(kept, rows, width, input, dtype);
            let ((w, gw), (bias, gbias)) = (given((out, input, 3, 3), 1, dtype), given(out, 2, dtype));
            let want = ops::Conv::new(&w, Some(&bias), Activation::Silu).unwrap();
            let got = Conv::new(&gw, Some(&gbias), Activation::Silu, ConvShape::FRAMED_3X3).unwrap();
            let want = want.run(&[a, b], 0).unwrap();
            close("conv", &got.forward(&[ga.clone(), gb.clone()]).unwrap(), &want, dtype);
            // A view that begins in the middle of its tensor, at an odd place.
            let shifted = Tensor::cat(&[&ga.narrow(0, 0, 1).unwrap(), &gb], 0).unwrap();
            let view = shifted.narrow(0, 1, rows).unwrap();
            close("conv of a view", &got.forward(&[ga.clone(), view]).unwrap(), &want, dtype);
        }
    }
}

#[test]
fn upsampling_convolutions_with_their_shortcut() {
    for dtype in PRECISIONS {
        // Of the shortcut: 4, 2 and 8 repeats.
        for (kept, rows, width, input, out) in
            [(1, 2, 1, 4, 4), (2, 1, 5, 8, 4), (2, 3, 9, 40, 20), (1, 2, 3, 4, 8)]
        {
            let [(a, ga), (b, gb)] = pieces(kept, rows, width, input, dtype);
            let ((w, gw), (bias, gbias)) = (given((out, input, 3, 3), 1, dtype), given(out, 2, dtype));
            let want = ops::UpsampleConv::new(&w, Some(&bias)).unwrap();
            let got = UpsampleConv::new(&gw, Some(&gbias)).unwrap();
            let want = want.run(&[a, b], 0).unwrap();
            close("upsample", &got.forward(&[ga.clone(), gb.clone()]).unwrap(), &want, dtype);
        }
    }
}

#[test]
fn pixel_shuffles_with_and_without_their_shortcut() {
    for dtype in PRECISIONS {
        for (rows, width, channels, input) in [(1, 1, 1, 1), (2, 3, 5, 20), (3, 5, 33, 66), (1, 9, 4, 16)] {
            let (x, gx) = given((rows, width, 4 * channels), 1, dtype);
            let want = ops::shuffle(&x, None).unwrap();
            close("shuffle", &shuffle(&gx, None).unwrap(), &want, dtype);
            let (added, gadded) = given((rows, width, input), 2, dtype);
            let want = ops::shuffle(&x, Some(&added)).unwrap();
            close("shuffle and shortcut", &shuffle(&gx, Some(&gadded)).unwrap(), &want, dtype);
        }
    }
}

#[test]
fn strided_convolutions() {
    for dtype in PRECISIONS {
        for (rows, width, input, out) in [(2, 2, 1, 1), (4, 10, 8, 5), (2, 34, 20, 7)] {
            let [(a, ga), (b, gb)] = pieces(1, rows, width, input, dtype);
            let ((w, gw), (bias, gbias)) = (given((out, input, 3, 3), 1, dtype), given(out, 2, dtype));
            let want = ops::StridedConv::new(&w, Some(&bias), false).unwrap().forward(&a, &b).unwrap();
            let got = Conv::new(&gw, Some(&gbias), Activation::None, ConvShape::STRIDED_3X3).unwrap();
            close("strided conv", &got.forward(&[ga, gb]).unwrap(), &want, dtype);
        }
    }
}

#[test]
fn convolutions_of_many_pieces_and_of_many_parts() {
    let (x, gx) = given((9, 5, 8), 1, DType::BF16);
    let (w, gw) = given((6, 8, 3, 3), 2, DType::BF16);
    let want = ops::Conv::new(&w, None, Activation::None).unwrap().run(&[x], 0).unwrap();
    let got = Conv::new(&gw, None, Activation::None, ConvShape::FRAMED_3X3).unwrap();
    let cuts = [(0, 1), (1, 3), (4, 1), (5, 4)].map(|(first, count)| gx.narrow(0, first, count).unwrap());
    close("pieces", &got.forward(&cuts).unwrap(), &want, DType::BF16);
    let parts = conv::in_parts(7, WINDOW_BYTES / 2, |first, count| {
        Tensor::arange(first as f32, (first + count) as f32, &Device::Cpu)
    });
    assert_eq!(parts.unwrap().to_vec1::<f32>().unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
}

#[test]
fn gated_depthwise_of_bands_and_of_pictures() {
    for dtype in PRECISIONS {
        for (kept, rows, width, half) in [(1, 2, 1, 1), (2, 1, 8, 3), (2, 3, 19, 70), (1, 3, 9, 130)] {
            let [(a, ga), (b, gb)] = pieces(kept, rows, width, 2 * half, dtype);
            let ((w, gw), (bias, gbias)) = (given((2 * half, 1, 3, 3), 1, dtype), given(2 * half, 2, dtype));
            let want = ops::GatedDepthwise::new(&w, Some(&bias)).unwrap();
            let got = GatedDepthwise::new(&gw, Some(&gbias)).unwrap();
            let banded = want.run(&[a, b], 0).unwrap();
            close("gated depthwise", &got.forward(&[ga.clone(), gb.clone()]).unwrap(), &banded, dtype);
            let (height, pictures) = (rows, 3);
            let (x, gx) = given((pictures * height * width, 2 * half), 5, dtype);
            let want = want.pictures(&x, height, width).unwrap();
            close("pictures", &got.pictures(&gx, height, width).unwrap(), &want, dtype);
        }
    }
}

#[test]
fn second_scale_of_chosen_groups() {
    for dtype in PRECISIONS {
        for (rows, width, groups, group, size) in
            [(1, 1, 3, 2, 5), (3, 9, 6, 8, 5), (2, 70, 3, 32, 5), (4, 5, 3, 16, 3)]
        {
            let pad = size / 2;
            let ((w_in, g_in), (w_out, g_out)) = (
                given((groups * group, 1, size, size), 1, dtype),
                given((groups * group, group, 1, 1), 2, dtype),
            );
            let chosen: Vec<usize> = (0..groups).filter(|group| group % 3 != 0).collect();
            let [(a, ga), (b, gb)] = pieces(2 * pad, rows, width, chosen.len() * group, dtype);
            let want = ops::MultiScale::new(&w_in, &w_out, &chosen).unwrap();
            let got = MultiScale::new(&g_in, &g_out, &chosen).unwrap();
            assert_eq!(got.pad(), pad);
            let want = want.run(&[a, b], 0).unwrap();
            close("multi-scale", &got.forward(&[ga.clone(), gb.clone()]).unwrap(), &want, dtype);
        }
    }
}

#[test]
fn linear_attention_of_sequences() {
    for dtype in PRECISIONS {
        for (sequences, tokens, heads, width) in [(1, 1, 1, 1), (2, 65, 3, 8), (1, 130, 2, 32), (3, 64, 1, 5)]
        {
            let given = |seed| given((sequences * tokens, heads * width), seed, dtype);
            let ((q, gq), (k, gk), (v, gv)) = (given(1), given(2), given(3));
            let want = ops::TokenAttention { sequences, heads, width };
            let want = q.apply_op3_no_bwd(&k, &v, &want).unwrap();
            let got = token_attention([&gq, &gk, &gv], sequences, heads, width).unwrap();
            close("linear attention", &got, &want, dtype);
        }
    }
    let wide = Sums::new(1, 1, 33, &Device::Cpu).unwrap_err().to_string();
    assert!(wide.contains("at most 32"), "{wide}");
}

#[test]
fn linear_attention_of_bands_is_the_same_in_any_bands() {
    for dtype in PRECISIONS {
        let (rows, width, scales, channels, group) = (5, 11, 2, 16, 8);
        let (kv, gkv) = given((rows, width, scales * 2 * channels), 1, dtype);
        let (q, gq) = given((rows, width, scales * channels), 2, dtype);
        let mut want = ops::ScaleSums::new(scales, channels, group);
        want.add(&kv).unwrap();
        let want = q.apply_op1_no_bwd(&want).unwrap();
        let mut first: Option<Vec<f32>> = None;
        for band in [1, 2, rows] {
            let sums = Sums::new(1, scales * channels / group, group, &Device::Cpu).unwrap();
            for top in (0..rows).step_by(band) {
                let part = gkv.narrow(0, top, band.min(rows - top)).unwrap().flatten(0, 1).unwrap();
                sums.add((&part, &part), width, 2 * group, (0, group)).unwrap();
            }
            let got = sums.attend(&gq.flatten(0, 1).unwrap()).unwrap();
            let got = got.reshape((rows, width, scales * channels)).unwrap();
            close("sums of bands", &got, &want, dtype);
            let got = ops::to_vec(&got.to_dtype(DType::F32).unwrap()).unwrap();
            assert_eq!(*first.get_or_insert_with(|| got.clone()), got, "bands of {band}");
        }
    }
}

#[test]
fn all_negative_queries_give_zero() {
    let minus = Tensor::full(-1.0_f32, (3, 8), &Device::Cpu).unwrap();
    let plus = Tensor::ones((3, 8), DType::F32, &Device::Cpu).unwrap();
    let got = token_attention([&minus, &plus, &plus], 1, 1, 8).unwrap();
    assert!(ops::to_vec(&got).unwrap().iter().all(|&value| value == 0.0));
}

#[test]
fn cross_attention_to_texts_of_any_length() {
    for dtype in PRECISIONS {
        for (n, tokens, heads, width) in [(1, 1, 1, 1), (9, 13, 2, 6), (5, 40, 3, 16)] {
            let given = |count: usize, seed| given((count, heads * width), seed, dtype);
            let ((q, gq), (k, gk), (v, gv)) = (given(n, 1), given(tokens, 2), given(tokens, 3));
            let text = ops::CrossText::new(&k, &v, heads, width).unwrap();
            let want = ops::cross_attention(&q, &[&text]).unwrap();
            let got = CrossText::new(&gk, &gv, heads, width).unwrap().attend(&gq).unwrap();
            close("cross-attention", &got, &want, dtype);
        }
    }
}

#[test]
fn rotary_positions_and_the_gelu_product_follow_their_definitions() {
    for dtype in PRECISIONS {
        let (tokens, heads, dim) = (5, 3, 10);
        let (x, gx) = given((tokens, heads * dim), 1, dtype);
        let ((cos, _), (sin, _)) =
            (given((tokens, dim / 2), 2, DType::F32), given((tokens, dim / 2), 3, DType::F32));
        let got = rope(&gx, &cos, &sin, heads).unwrap();
        let heads_first = x.reshape((tokens, heads, dim)).unwrap().transpose(0, 1).unwrap();
        let (one, two) =
            (heads_first.narrow(2, 0, dim / 2).unwrap(), heads_first.narrow(2, dim / 2, dim / 2).unwrap());
        let times = |a: &Tensor, b: &Tensor| a.broadcast_mul(b).unwrap();
        let first = (times(&one, &cos) - times(&two, &sin)).unwrap();
        let second = (times(&two, &cos) + times(&one, &sin)).unwrap();
        close("rope", &got, &Tensor::cat(&[first, second], 2).unwrap(), dtype);

        let (y, gy) = given((tokens, heads * dim), 4, dtype);
        let want = (x.gelu().unwrap() * y).unwrap();
        close("gelu product", &gelu_product(&gx, &gy).unwrap(), &want, dtype);
    }
}

#[test]
fn causal_softmax_follows_its_definition() {
    for dtype in PRECISIONS {
        for (cap, window) in [(None, None), (Some(2.0), None), (Some(50.0), Some(3)), (None, Some(1))] {
            let (heads, tokens) = (2, 41);
            let (x, gx) = given((heads, tokens, tokens), 1, dtype);
            CausalSoftmax { scale: 0.7, cap, window }.run(&gx).unwrap();
            let mut want = x.flatten(0, 1).unwrap().to_vec2::<f32>().unwrap();
            for (row, scores) in want.iter_mut().enumerate() {
                let token = row % tokens;
                let weights: Vec<f64> = scores
                    .iter()
                    .enumerate()
                    .map(|(key, &score)| {
                        let score = f64::from(score) * f64::from(0.7_f32);
                        let score = cap.map_or(score, |cap| (score / f64::from(cap)).tanh() * f64::from(cap));
                        let seen = key <= token && window.is_none_or(|window| token - key < window);
                        if seen { score.exp() } else { 0.0 }
                    })
                    .collect();
                let sum: f64 = weights.iter().sum();
                for (score, weight) in scores.iter_mut().zip(weights) {
                    *score = (weight / sum) as f32;
                }
            }
            let want = Tensor::new(want, &Device::Cpu).unwrap().reshape((heads, tokens, tokens)).unwrap();
            close("causal softmax", &gx, &want, dtype);
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
        Launch::over_rows(&table::BIAS_ACTIVATION, dtype, 1)
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

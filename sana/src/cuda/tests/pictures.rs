//! Layers on rows of pictures.

use super::*;

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

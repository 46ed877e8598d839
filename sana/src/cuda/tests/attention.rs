//! Attention.

use super::*;

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

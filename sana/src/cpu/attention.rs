//! Linear attention (ReLU kernel) and softmax cross-attention.

use rayon::prelude::*;

use super::gemm::{Packed, Place, Rows, gemm};
use super::math::{Activation, exp};
use super::vectorized;

/// Avoids a division by zero where all queries are negative: the result is 0 there.
const EPS: f32 = 1e-15;

/// Queries, keys or values of all groups: token `t` of group `g` is `data[t * stride + g * group + offset..][..width]`.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a> {
    /// The values.
    pub data: &'a [f32],
    /// Distance of one token to the next.
    pub stride: usize,
    /// Distance of one group to the next.
    pub group: usize,
    /// Where a group's values begin.
    pub offset: usize,
}

impl<'a> Heads<'a> {
    fn of(&self, token: usize, group: usize, width: usize) -> &'a [f32] {
        &self.data[token * self.stride + group * self.group + self.offset..][..width]
    }
}

/// The sum over tokens of `v' k^T`, with a 1 appended to `v`: all that linear attention knows of
/// its keys and values. Sums of a chunk of tokens run in f32, the total in f64.
#[derive(Clone, Debug)]
pub struct KeyValueSum {
    groups: usize,
    width: usize,
    /// `[group][key][value and 1]`.
    total: Vec<f64>,
}

impl KeyValueSum {
    /// An empty sum for `groups` groups of `width` channels.
    pub fn new(groups: usize, width: usize) -> Self {
        Self { groups, width, total: vec![0.0; groups * width * (width + 1)] }
    }

    /// Adds `tokens` tokens in chunks of `chunk`, from the first on. The result depends on the chunks' borders,
    /// so a picture is always added by the same chunks: its rows.
    pub fn add(&mut self, tokens: usize, chunk: usize, keys: Heads<'_>, values: Heads<'_>) {
        let width = self.width;
        let size = width * (width + 1);
        self.total.par_chunks_exact_mut(size).enumerate().for_each_init(
            || (vec![0.0_f32; size], vec![0.0_f32; width + 1]),
            |(part, value), (group, total)| {
                for first in (0..tokens).step_by(chunk) {
                    part.fill(0.0);
                    for token in first..(first + chunk).min(tokens) {
                        value[..width].copy_from_slice(values.of(token, group, width));
                        value[width] = 1.0;
                        add_outer(keys.of(token, group, width), value, part);
                    }
                    for (total, part) in total.iter_mut().zip(part.iter()) {
                        *total += f64::from(*part);
                    }
                }
            },
        );
    }

    /// Attention of `tokens` queries; `out` is `[tokens][stride]`, group `g` writes at `offset + g * width`.
    pub fn attend(&self, tokens: usize, queries: Heads<'_>, out: &mut [f32], stride: usize, offset: usize) {
        let width = self.width;
        let sums: Vec<f32> = self.total.iter().map(|&value| value as f32).collect();
        let rows = tokens.div_ceil(rayon::current_num_threads() * 4).max(1);
        out[..tokens * stride].par_chunks_mut(rows * stride).enumerate().for_each_init(
            || vec![0.0_f32; width + 1],
            |row, (index, out)| {
                for (token, target) in out.chunks_exact_mut(stride).enumerate() {
                    for group in 0..self.groups {
                        let query = queries.of(index * rows + token, group, width);
                        let sums = &sums[group * width * (width + 1)..][..width * (width + 1)];
                        attend_one(query, sums, row, &mut target[offset + group * width..][..width]);
                    }
                }
            },
        );
    }
}

vectorized! {
    fn add_outer(key: &[f32], value: &[f32], part: &mut [f32]) {
        for (key, sums) in key.iter().zip(part.chunks_exact_mut(value.len())) {
            let key = if *key < 0.0 { 0.0 } else { *key };
            for (sum, value) in sums.iter_mut().zip(value) {
                *sum += key * value;
            }
        }
    }
}

vectorized! {
    fn attend_one(query: &[f32], sums: &[f32], row: &mut [f32], out: &mut [f32]) {
        row.fill(0.0);
        for (query, sums) in query.iter().zip(sums.chunks_exact(row.len())) {
            let query = if *query < 0.0 { 0.0 } else { *query };
            for (row, sum) in row.iter_mut().zip(sums) {
                *row += query * sum;
            }
        }
        let width = out.len();
        let norm = row[width] + EPS;
        for (out, row) in out.iter_mut().zip(&row[..width]) {
            *out = row / norm;
        }
    }
}

/// Keys and values of a text, packed for one block's cross-attention; they are the same in every step.
#[derive(Debug)]
pub struct CrossAttention {
    width: usize,
    keys: Vec<Packed>,
    values: Vec<Packed>,
}

impl CrossAttention {
    /// `keys` and `values` are `[tokens, heads * width]`; padding has been left out.
    pub fn new(keys: &[f32], values: &[f32], heads: usize, width: usize) -> Self {
        let stride = heads * width;
        let tokens = keys.len() / stride;
        Self {
            width,
            keys: (0..heads)
                .map(|head| Packed::new(width, tokens, None, |k, n| keys[n * stride + head * width + k]))
                .collect(),
            values: (0..heads)
                .map(|head| Packed::new(tokens, width, None, |k, n| values[k * stride + head * width + n]))
                .collect(),
        }
    }

    /// `softmax(q k^T / sqrt(width)) v` for each head; `queries` and `out` are `[n, heads * width]`.
    pub fn attend(&self, queries: &[f32], out: &mut [f32]) {
        let stride = self.keys.len() * self.width;
        let count = queries.len() / stride;
        let tokens = self.keys.first().map_or(0, Packed::columns);
        let scale = (self.width as f32).powf(-0.5);
        let mut scores = vec![0.0; count * tokens];
        for (head, (keys, values)) in self.keys.iter().zip(&self.values).enumerate() {
            let first = head * self.width;
            let rows = Rows { data: queries, count, stride, segments: &[first], length: self.width };
            gemm(rows, keys, Activation::None, Place::rows(tokens, 0), &mut scores);
            scores.par_chunks_mut(tokens * 16).for_each(|rows| softmax_rows(rows, tokens, scale));
            let rows = Rows { data: &scores, count, stride: tokens, segments: &[0], length: tokens };
            gemm(rows, values, Activation::None, Place::rows(stride, first), out);
        }
    }
}

vectorized! {
    fn softmax_rows(scores: &mut [f32], tokens: usize, scale: f32) {
        for row in scores.chunks_exact_mut(tokens) {
            let largest = row.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
            for score in row.iter_mut() {
                *score = exp((*score - largest) * scale);
            }
            // One chain: the row is short, and its order must not depend on the machine.
            let factor = 1.0 / row.iter().sum::<f32>();
            for score in row.iter_mut() {
                *score *= factor;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(i: usize) -> f32 {
        ((i * 7919 % 1013) as f32 - 506.0) / 400.0
    }

    #[test]
    fn linear_attention_equals_the_quadratic_form() {
        let (tokens, groups, width) = (37, 3, 8);
        let stride = groups * 3 * width;
        let data: Vec<f32> = (0..tokens * stride).map(value).collect();
        let heads = |part: usize| Heads { data: &data, stride, group: 3 * width, offset: part * width };
        let mut sum = KeyValueSum::new(groups, width);
        sum.add(tokens, 10, heads(1), heads(2));
        let mut out = vec![f32::NAN; tokens * groups * width];
        sum.attend(tokens, heads(0), &mut out, groups * width, 0);
        let relu = |x: &f32| f64::from(x.max(0.0));
        for t in 0..tokens {
            for g in 0..groups {
                let q = heads(0).of(t, g, width);
                let weights: Vec<f64> = (0..tokens)
                    .map(|s| q.iter().zip(heads(1).of(s, g, width)).map(|(q, k)| relu(q) * relu(k)).sum())
                    .collect();
                let norm: f64 = weights.iter().sum::<f64>() + 1e-15;
                for i in 0..width {
                    let want: f64 =
                        (0..tokens).map(|s| weights[s] * f64::from(heads(2).of(s, g, width)[i])).sum::<f64>()
                            / norm;
                    let got = f64::from(out[(t * groups + g) * width + i]);
                    assert!((got - want).abs() < 1e-5, "{got} {want}");
                }
            }
        }
    }

    #[test]
    fn cross_attention_follows_its_definition() {
        let (n, tokens, heads, width) = (9, 13, 2, 6);
        let make = |count: usize, from: usize| {
            (0..count * heads * width).map(|i| value(i + from)).collect::<Vec<_>>()
        };
        let (q, k, v) = (make(n, 0), make(tokens, 11), make(tokens, 23));
        let mut out = vec![f32::NAN; q.len()];
        CrossAttention::new(&k, &v, heads, width).attend(&q, &mut out);
        let at = |x: &[f32], t: usize, h: usize, i: usize| f64::from(x[(t * heads + h) * width + i]);
        for t in 0..n {
            for h in 0..heads {
                let scores: Vec<f64> = (0..tokens)
                    .map(|s| {
                        let dot: f64 = (0..width).map(|i| at(&q, t, h, i) * at(&k, s, h, i)).sum();
                        (dot / (width as f64).sqrt()).exp()
                    })
                    .collect();
                let norm: f64 = scores.iter().sum();
                for i in 0..width {
                    let want: f64 = (0..tokens).map(|s| scores[s] / norm * at(&v, s, h, i)).sum();
                    assert!((at(&out, t, h, i) - want).abs() < 1e-5);
                }
            }
        }
    }
}
